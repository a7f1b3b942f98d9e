"""What a check before an import's start finds: see `docs/guides/preflight.md`."""

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What follows from a preflight check, as the operator wants it."""

    OFF = "off"
    WARN = "warn"
    REJECT = "reject"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Place:
    """An account and a region."""

    account: str
    region: str

    def __str__(self) -> str:
        """Return the place as lanes are written."""
        return f"{self.account}/{self.region}"


class Severity(StrEnum):
    """How much a finding matters: an error is what the Amplify command line refuses."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a member of a request, and how to fix it, in one line."""

    severity: Severity
    member: str
    reason: str

    def __str__(self) -> str:
        """Return the finding as one line of text."""
        return f"{self.member}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check. `unchecked` says why a part could not be checked; '' if all was."""

    findings: tuple[Finding, ...] = ()
    unchecked: str = ""

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of a severity."""
        return tuple(finding for finding in self.findings if finding.severity is severity)


NOTHING_FOUND = Checked()
