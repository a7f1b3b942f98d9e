"""The licenses of the packages that run in production: `python -m tests.deployment.licenses`."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

LOCK: Final = Path(__file__).parents[2] / "requirements" / "run.txt"
ALLOWED: Final = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"),
        *("PSF-2.0", "Python-2.0", "Unlicense"),
    }
)
"""SPDX identifiers; `BSD` where a package does not say which of the BSD licenses it has."""

CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
FIELDS: Final = {"Apache License 2.0": "Apache-2.0"}
"""What packages without an expression and a classifier write into the field License."""


def locked() -> Iterator[str]:
    """Yield the packages of the lock file that this platform needs."""
    for line in re.findall(r"^[a-z0-9].*?(?= \\$)", LOCK.read_text(), re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement.name


def license_of(package: PackageMetadata) -> str:
    """Return a package's license as an SPDX expression; what it says itself if that is none."""
    values = package.json
    if expression := values.get("license_expression"):
        return str(expression)
    prefix = "License :: OSI Approved :: "
    named = [
        each.removeprefix(prefix)
        for each in values.get("classifier", [])
        if each.startswith(prefix)
    ]
    if named:
        return " AND ".join(CLASSIFIERS.get(name, name) for name in named)
    field = str(values.get("license", "none"))
    return FIELDS.get(field, field)


def is_allowed(expression: str) -> bool:
    """Whether all licenses of an expression are allowed, also those that it offers as a choice."""
    return {part.strip("() ") for part in re.split(r" AND | OR ", expression)} <= ALLOWED


def licenses() -> dict[str, str]:
    """Return the license of each package that runs in production."""
    return {name: license_of(metadata(name)) for name in locked()}


if __name__ == "__main__":
    for package, expression in licenses().items():
        print(f"{package}\t{metadata(package)['Version']}\t{expression}")
