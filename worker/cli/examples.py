"""The end of each command's help: examples, and the page that says more."""

from typing import Final

import click

RUN: Final = "guides/run-a-file.md"
BATCHES: Final = "guides/batches.md"
REPORT: Final = "guides/report.md"
LIMITS: Final = "guides/limits.md"
SCHEDULE: Final = "guides/schedule.md"

EXAMPLES: Final = {
    "demo": ("tutorial.md", "demo", "demo --apps 50 --keep"),
    "plan": (
        "guides/plan.md",
        "plan -o apps.csv",
        "plan --account acme --account globex --region eu-central-1 --pools pools.csv -o apps.csv",
    ),
    "run": (RUN, "run apps.csv --sandbox", "run apps.csv --preflight --canary 10"),
    "submit": (
        BATCHES,
        "submit apps.csv --watch",
        "submit apps.jsonl --batch-id wave-1 --skip-invalid",
        "submit apps.csv --canary 10 --stop-percent 5",
        'submit apps.csv --window "22:00-06:00 Europe/Berlin" --max-per-hour 200',
    ),
    "watch": (BATCHES, "watch", "watch wave-1 wave-2", "watch wave-1 --json > summary.json"),
    "status": (BATCHES, "status move-0001", "status wave-1 --failed", "status wave-1 --json"),
    "explain": ("guides/troubleshoot.md", "explain move-0001", "explain move-0001 --json"),
    "report": (
        REPORT,
        "report wave-1 -o report.html",
        "report wave-1 -o results.csv",
        "report wave-1 --format json -o - > results.json",
    ),
    "next-steps": ("guides/after.md", "next-steps wave-1 -o next-steps.sh"),
    "imports": (
        "guides/troubleshoot.md",
        "imports --older-than 2h",
        "imports --state waiting --lane acme/eu-central-1",
        "imports --batch wave-1 --state failed,timed_out --json",
    ),
    "retry": (BATCHES, "retry move-0001", "retry wave-1", "retry wave-1 --timed-out --yes"),
    "cancel": (BATCHES, 'cancel move-0001 --reason "wrong user pool"', "cancel wave-1 --yes"),
    "resolve": (
        "guides/undecided.md",
        "resolve move-0001 --adopt 6f9b2c1e",
        "resolve move-0001 --start-again",
        'resolve move-0001 --fail --reason "deleted the app"',
    ),
    "batches": (BATCHES, "batches", "batches --stalled --json", "batches pause wave-1"),
    "batches pause": (BATCHES, 'batches pause wave-1 --reason "change freeze"'),
    "batches resume": (BATCHES, "batches resume wave-1"),
    "batches schedule": (
        SCHEDULE,
        "batches schedule wave-1",
        'batches schedule wave-1 --window "Mon-Fri 22:00-06:00 Europe/Berlin" --max-per-hour 200',
        "batches schedule wave-1 --clear",
    ),
    "lanes": (LIMITS, "lanes", "lanes --json", "lanes --facts", "lanes pause acme/eu-central-1"),
    "lanes pause": (LIMITS, 'lanes pause acme/eu-central-1 --reason "change freeze"'),
    "lanes resume": (LIMITS, "lanes resume acme/eu-central-1"),
    "lanes set-rate": (
        LIMITS,
        "lanes set-rate acme/eu-central-1 --start 2 --start-burst 4",
        "lanes set-rate acme/eu-central-1 --max-running 50",
    ),
    "lanes reset": (LIMITS, "lanes reset acme/eu-central-1"),
    "events": (
        "reference/events.md",
        "events --follow --type import.failed --type import.rejected",
        "events --from 0 --batch wave-1 --json > wave-1.jsonl",
    ),
    "serve": ("guides/http.md", "serve", "serve --host 0.0.0.0 --port 8081"),
    "relay": ("guides/sinks.md", "relay"),
    "sinks": ("guides/sinks.md", "sinks", "sinks --json"),
    "sinks parked": ("guides/sinks.md", "sinks parked audit", "sinks parked audit --json"),
    "sinks resend": (
        "guides/sinks.md",
        "sinks resend audit 1764444444444-0",
        "sinks resend audit --all",
    ),
    "sinks drop": ("guides/sinks.md", "sinks drop audit 1764444444444-0"),
    "sinks enable": ("guides/sinks.md", "sinks enable audit"),
    "sinks forget": ("guides/sinks.md", "sinks forget audit"),
    "recover": ("guides/recover.md", "recover apps.csv --since 2026-11-24T08:00 --watch"),
    "audit": ("guides/audit.md", "audit", "audit wave-1 --json"),
    "doctor": ("guides/deploy.md", "doctor", "doctor --account acme --account globex"),
    "metrics": ("guides/monitor.md", "metrics", "metrics --port 9465 --batches 20"),
    "schema": ("reference/schemas.md", "schema event", "schema asyncapi > asyncapi.json"),
    "sandbox": (
        "tutorial.md",
        "sandbox --list-scenarios",
        "sandbox --scenario hostile",
        "sandbox --scenario my-api.toml --port 8080 --log-calls",
    ),
}
"""Command → its page below `docs`, and examples without the program's name."""


def add_examples(command: click.Command, name: str) -> None:
    """Give a command, and those of its group, their examples."""
    page, *examples = EXAMPLES[name]
    lines = "\n".join(f"  amplify-import {example}" for example in examples)
    command.epilog = f"\b\nExamples:\n{lines}\n\n\b\nMore: docs/{page}"
    if isinstance(command, click.Group):
        for each, member in command.commands.items():
            add_examples(member, f"{name} {each}")
