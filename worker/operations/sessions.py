"""An account's SDK session: fixed settings, and how credentials are found.

A worker is not interactive. No provider may ask on a terminal, and no helper process may outlive
the call for which it was started.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, NoReturn, Self

from aiobotocore.config import AioConfig
from aiobotocore.credentials import (
    AioAssumeRoleProvider,
    AioConfigProvider,
    AioEnvProvider,
    AioProcessProvider,
    AioProfileProviderBuilder,
    AioSharedCredentialProvider,
    create_credential_resolver,
)
from aiobotocore.session import AioSession
from botocore.config import Config
from botocore.exceptions import InvalidConfigError
from botocore.loaders import create_loader

from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.files import config_in, configuration_files, credentials_in, read_once
from worker.operations.transport import CREDENTIALS, PunctualSession, progress_of_call

PINNED: Final = {
    "retry_mode": "standard",
    # for calls that obtain credentials; `Aws` allows other calls one attempt
    "max_attempts": 3,
    "defaults_mode": "legacy",
    "endpoint_discovery_enabled": False,
    "request_min_compression_size_bytes": 10240,
    "disable_request_compression": True,
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "account_id_endpoint_mode": "disabled",
    "disable_host_prefix_injection": None,
    "sigv4a_signing_region_set": None,
    "auth_scheme_preference": None,
}
"""Settings that change how often, when or in what form a call is sent. They are fixed.

Otherwise a profile or the environment could turn on the SDK's own retries and its rate limiter.
"""

HELPER_ENDS_SECONDS: Final = 1.0


class ClientConfig(AioConfig):  # type: ignore[misc]  # it publishes no annotations
    """A configuration that keeps its transport when it is merged with another one."""

    def merge(self, other_config: Config) -> Self:
        """Return both as one; the other one's options take precedence."""
        options = {**self._user_provided_options, **other_config._user_provided_options}  # noqa: SLF001 - as its base does
        transport = getattr(other_config, "http_session_cls", None)
        own = isinstance(other_config, ClientConfig)
        return type(self)(
            self.connector_args,
            http_session_cls=transport if own else self.http_session_cls,
            **options,
        )


class AccountSession(AioSession):  # type: ignore[misc]  # it publishes no annotations
    """A session of an account: the name of a profile, or the ambient credentials.

    It shares the data loader and the parsed configuration with other sessions.
    """

    def __init__(self, account: str, acknowledged_seconds: float) -> None:
        pinned = {name: (None, None, value, None) for name, value in PINNED.items()}
        profile = None if account == DEFAULT_ACCOUNT else account
        super().__init__(session_vars=pinned, profile=profile)
        self.register_component("data_loader", _loader(os.environ.get("AWS_DATA_PATH")))
        transport = partial(PunctualSession, acknowledged_seconds=acknowledged_seconds)
        self.set_default_client_config(ClientConfig(http_session_cls=transport))

    _config: Any

    @property
    def full_config(self) -> Any:
        """The AWS configuration. Raises what botocore raises."""
        if self._config is None:
            self._config = read_once("profiles", configuration_files(), lambda: self._parsed_config)
        return self._config

    @property
    def _parsed_config(self) -> Any:
        return super().full_config

    def _create_credential_resolver(self) -> Any:
        region = self._last_client_region_used
        cache: dict[str, object] = {}
        resolver = create_credential_resolver(self, cache, region)
        _drop_stray_blanks(resolver.providers)
        for provider in resolver.providers:
            _share_files(provider)
            if isinstance(provider, AioProcessProvider):
                provider._popen = _start_helper  # noqa: SLF001 - the chain is built in one piece
            if isinstance(provider, AioAssumeRoleProvider):
                _drop_stray_blanks(provider._credential_sourcer._providers)  # noqa: SLF001 - as above
                provider._prompter = _refuse_to_ask  # noqa: SLF001 - as above
                provider._profile_provider_builder = _Providers(self, cache, region)  # noqa: SLF001
        return resolver


@cache
def _loader(search_path: str | None) -> Any:
    return create_loader(search_path)


def _drop_stray_blanks(providers: Iterable[object]) -> None:
    """Strip the environment's keys as settings are stripped: mounted secrets end with a newline."""
    for provider in providers:
        if isinstance(provider, AioEnvProvider):
            provider.environ = {name: value.strip() for name, value in os.environ.items()}


def _share_files(provider: Any) -> Any:
    """Let a provider of keys in a file use the sections that other sessions have parsed."""
    if isinstance(provider, AioSharedCredentialProvider):
        provider._ini_parser = credentials_in  # noqa: SLF001 - the chain is built in one piece
    if isinstance(provider, AioConfigProvider):
        provider._config_parser = config_in  # noqa: SLF001 - as above
    return provider


class _Providers(AioProfileProviderBuilder):  # type: ignore[misc]  # it publishes no annotations
    """The providers of a role's source profile."""

    def _create_process_provider(self, profile_name: str) -> AioProcessProvider:
        return AioProcessProvider(
            profile_name=profile_name,
            load_config=lambda: self._session.full_config,
            popen=_start_helper,
        )

    def _create_shared_credential_provider(self, profile_name: str) -> Any:
        return _share_files(super()._create_shared_credential_provider(profile_name))

    def _create_config_provider(self, profile_name: str) -> Any:
        return _share_files(super()._create_config_provider(profile_name))


class _Helper:
    """A running `credential_process`; it ends with the call that waits for it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return its output. Its error output may contain secrets, so it is not repeated."""
        progress = progress_of_call.get()
        progress.stage = "for the credential_process"
        try:
            printed, _ = await self._process.communicate()
        finally:
            if self._process.returncode is None:
                await self._end()
        progress.stage = CREDENTIALS
        text = f"credential_process ended with status {self.returncode}; run it manually to see why"
        return printed, text.encode()

    async def _end(self) -> None:
        """Kill it and everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), HELPER_ENDS_SECONDS)


async def _start_helper(*command: str, **_: object) -> _Helper:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    return _Helper(process)


def _refuse_to_ask(_: str) -> NoReturn:
    raise InvalidConfigError(
        error_msg="mfa_serial wants a code, and a worker has nobody to ask for it; give it a role"
        " or a helper that needs none"
    )
