"""`amplify-import report`: one page, or one table of results, about a batch."""

from worker.cli.report.command import report

__all__ = ["report"]
