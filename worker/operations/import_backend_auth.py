"""The first operation: `ImportBackendAuth`, its job polled with `GetBackendJob`.

Source: the AmplifyBackend API reference; request and response members as botocore models them.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from worker.domain.answers import Answer, Job, Kind
from worker.domain.imports import Import
from worker.operations.aws import Aws, CallFailedError
from worker.operations.http import Response, holds_a_list, next_token_of, read

PAGE_SIZE: Final = 25
MAX_PAGES: Final = 40
"""How many pages of a job list are read; a target has more jobs than that only by some accident."""


class ImportBackendAuth:
    """Imports an existing Cognito user pool into the backend of an Amplify app."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Ask for the import. One call; it may have taken effect whatever comes back."""
        request = item.request
        optional = {"IdentityPoolId": request.identity_pool_id} if request.identity_pool_id else {}
        return await self._ask(
            item,
            "import_backend_auth",
            {
                "UserPoolId": request.user_pool_id,
                "WebClientId": request.web_client_id,
                "NativeClientId": request.native_client_id,
                **optional,
            },
            send_by,
        )

    async def status(self, item: Import) -> Answer:
        """Ask for the job of a running import."""
        return await self._ask(item, "get_backend_job", {"JobId": item.job_id})

    async def find(self, item: Import, another: Callable[[], Awaitable[None]]) -> Answer:
        """List the target's jobs, every page of them, within the time of one call.

        AWS does not document what its filters match, nor the order of a list: all jobs are read, in
        any order. `another` grants each page but the first. A page that fails makes the whole
        answer fail; empty pages are read past. A list that is not read to its end proves nothing.
        """
        end = time.monotonic() + self._aws.timeout_seconds
        try:
            return await self._read_pages(item, another, end)
        except TimeoutError:
            return Answer(kind=Kind.UNKNOWN, error="the list of jobs took too long")

    async def _read_pages(
        self, item: Import, another: Callable[[], Awaitable[None]], end: float
    ) -> Answer:
        jobs: dict[str, Job] = {}  # by id: pages may repeat a job
        nameless: list[Job] = []
        tokens: set[str] = set()
        paging: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            if paging:
                async with asyncio.timeout(end - time.monotonic()):
                    await another()
            try:
                response = await self._call(
                    item,
                    "list_backend_jobs",
                    {"MaxResults": PAGE_SIZE, **paging},
                    answer_by=end,
                )
            except CallFailedError as failure:
                return failure.answer
            answer = read(response)
            if answer.kind is not Kind.OK:
                return answer
            if not holds_a_list(response):
                return Answer(kind=Kind.UNKNOWN, error="the answer held no list of jobs")
            jobs.update({job.job_id: job for job in answer.jobs if job.job_id})
            nameless += [job for job in answer.jobs if not job.job_id]
            token = next_token_of(response)
            if not token:
                return Answer(kind=Kind.OK, jobs=(*jobs.values(), *nameless))
            if token in tokens:
                return Answer(kind=Kind.UNKNOWN, error="the list of jobs goes round in a circle")
            tokens.add(token)
            paging = {"NextToken": token}
        return Answer(kind=Kind.UNKNOWN, error=f"the list has more than {MAX_PAGES} pages")

    async def _ask(
        self, item: Import, method: str, params: Mapping[str, object], send_by: float = math.inf
    ) -> Answer:
        try:
            return read(await self._call(item, method, params, send_by))
        except CallFailedError as failure:
            return failure.answer

    async def _call(
        self,
        item: Import,
        method: str,
        params: Mapping[str, object],
        send_by: float = math.inf,
        answer_by: float = math.inf,
    ) -> Response:
        where = {
            "AppId": item.app_id,
            "BackendEnvironmentName": item.backend_environment_name,
        }
        return await self._aws.call(
            item.account, item.region, method, {**where, **params}, send_by, answer_by
        )
