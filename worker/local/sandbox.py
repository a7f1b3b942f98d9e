"""Runs the simulated API in this process, with AWS profiles that work only for it."""

import hashlib
import os
from collections.abc import Collection, Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import Final, Self

from worker.domain.requests import DEFAULT_ACCOUNT
from worker.sandbox.scenario import Scenario
from worker.sandbox.server import SandboxServer

_REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")


class LocalSandbox:
    """The sandbox, with an AWS profile for each of `accounts`, while its `async with` block runs.

    The profiles are in files in `directory`. The sandbox loses its jobs when it ends.
    """

    def __init__(self, scenario: Scenario, accounts: Collection[str], directory: Path) -> None:
        self._directory = directory
        self.sandbox = SandboxServer(scenario)
        self._access_keys = {
            name: scenario.accounts[name].access_key_id
            if name in scenario.accounts
            else _access_key(name)
            for name in {DEFAULT_ACCOUNT, *accounts}
        }

    async def __aenter__(self) -> Self:
        await self.sandbox.__aenter__()
        self._write("aws-config", {_section(name): {} for name in self._access_keys})
        self._write(
            "aws-credentials",
            {
                name: {"aws_access_key_id": key, "aws_secret_access_key": "sandbox"}
                for name, key in self._access_keys.items()
            },
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sandbox.__aexit__()

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return `env` with the AWS settings replaced, so that all calls go to the sandbox."""
        kept = {
            name: value
            for name, value in env.items()
            if not name.startswith("AWS_") or (name in _REGION_VARIABLES and value)
        }
        region = {} if kept.keys() & set(_REGION_VARIABLES) else {"AWS_REGION": "us-east-1"}
        return {
            **kept,
            **region,
            "AWS_ENDPOINT_URL_AMPLIFYBACKEND": self.sandbox.url,
            "AWS_CONFIG_FILE": str(self._directory / "aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._directory / "aws-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "IMPORTS_PREFLIGHT": "off",  # the simulated API has no user pools
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def _write(self, name: str, sections: Mapping[str, Mapping[str, str]]) -> None:
        parser = RawConfigParser()
        parser.read_dict(sections)
        path = self._directory / name
        with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            parser.write(file)


def _section(account: str) -> str:
    return account if account == DEFAULT_ACCOUNT else f'profile "{account}"'


def _access_key(account: str) -> str:
    """Return an access key that the scenario does not list, so that it gets its own account."""
    return f"AKIA{hashlib.sha256(account.encode()).hexdigest()[:16].upper()}"
