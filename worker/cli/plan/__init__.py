"""`amplify-import plan`: the app environments of accounts as a batch file."""

from worker.cli.plan.command import plan

__all__ = ["plan"]
