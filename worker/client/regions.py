"""The regions of requests that name none, by the AWS configuration of this process."""

import os
from functools import cached_property
from importlib import import_module
from typing import Any, Final

REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")


class ConfiguredRegions:
    """Finds regions as workers do. The SDK is imported only if the environment names none."""

    def region_of(self, account: str) -> str:
        """Return the region that the environment or the account's profile names, else ''."""
        for name in REGION_VARIABLES:
            if region := os.environ.get(name, "").strip():
                return region
        return str(self._aws.region_of(account))

    @cached_property
    def _aws(self) -> Any:
        """What knows the profiles. It makes no call and opens no connection."""
        return import_module("worker.operations.aws").Aws(timeout_seconds=1.0, max_connections=1)
