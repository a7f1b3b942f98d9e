"""What all operations of the AmplifyBackend API share that start a job in an app environment.

The job is polled with `GetBackendJob` and listed with `ListBackendJobs`. Source: the AmplifyBackend
API reference; request and response members as in botocore's model.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic.alias_generators import to_pascal, to_snake

from worker.domain.answers import Answer, Job, Kind
from worker.domain.imports import Import
from worker.domain.preflight import NOTHING_FOUND, Checked, Place
from worker.domain.requests import ImportRequest
from worker.operations.http import (
    ACCESS_DENIED,
    CallFailedError,
    Page,
    Response,
    error_code,
    read,
    read_page,
)
from worker.operations.shown import mismatch

if TYPE_CHECKING:
    from worker.operations.aws import Aws  # importing it takes longer than a command may take

PAGE_SIZE: Final = 25
MAX_PAGES: Final = 40
"""The most pages of a job list that are read. No target normally has so many jobs."""

KEPT_SECONDS: Final = 60.0
"""How long a worker keeps what a preflight check has read."""


class BackendOperation:
    """One operation: its request, and the calls that carry it out.

    A subclass sets `request`, which defines the operation's name and the members that are sent in
    addition to the app and its environment, and `shown`: the category of the resource in
    `amplify-meta.json`, and which of its outputs shows which member.
    """

    request: ClassVar[type[ImportRequest]]
    shown: ClassVar[tuple[str, Mapping[str, str]]]

    def __init__(self, aws: "Aws", _kept_seconds: float = KEPT_SECONDS) -> None:
        self._aws = aws

    @classmethod
    def name(cls) -> str:
        """Return the operation's name in the remote API."""
        return str(cls.request.model_fields["operation"].default)

    @classmethod
    def task(cls) -> str:
        """Return the name of the operation's Celery task."""
        return f"imports.{to_snake(cls.name())}"

    @classmethod
    def members(cls) -> dict[str, str]:
        """Return the members that only this operation's requests have, by their Python names."""
        fields = cls.request.model_fields.items()
        return {
            name: field.alias or name
            for name, field in fields
            if name not in ImportRequest.model_fields
        }

    async def preflight(self, _members: Mapping[str, str], _place: Place) -> Checked:
        """Check what a request names, without changing anything.

        The base class checks nothing.
        """
        return NOTHING_FOUND

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Start the import with one call. It may have taken effect, whatever the answer."""
        values = item.members
        params = {
            to_pascal(name): values[member]
            for name, member in self.members().items()
            if member in values
        }
        return await self._ask(item, to_snake(self.name()), params, send_by)

    async def status(self, item: Import) -> Answer:
        """Poll the job of a running import."""
        return await self._ask(item, "get_backend_job", {"JobId": item.job_id})

    async def verify(self, item: Import) -> Answer:
        """Ask what the target has, and compare it with what was imported."""
        try:
            response = await self._call(item, "get_backend", {})
        except CallFailedError as failure:
            return failure.answer
        answer = replace(read(response), jobs=())
        if error_code(response) == ACCESS_DENIED:  # not a reason to pause the lane
            return replace(answer, kind=Kind.BAD_REQUEST)
        if answer.kind is not Kind.OK:
            return answer
        category, outputs = self.shown
        values = item.members
        expected = {name: values[member] for name, member in outputs.items() if member in values}
        return replace(answer, mismatch=mismatch(response.body, category, expected))

    async def find(self, item: Import, another: Callable[[], Awaitable[None]]) -> Answer:
        """List all pages of the target's jobs within the time of one call.

        AWS documents neither what its filters match nor the order of a list, so all jobs are read,
        in any order. `another` obtains a permit for each page but the first. If a page fails, the
        whole answer is that failure. Empty pages are skipped. A list that was not read to its end
        proves nothing.
        """
        end = time.monotonic() + self._aws.timeout_seconds
        try:
            return await self._read_pages(item, another, end)
        except TimeoutError:
            return Answer(kind=Kind.UNKNOWN, error="the list of jobs took too long")

    async def _read_pages(
        self, item: Import, another: Callable[[], Awaitable[None]], end: float
    ) -> Answer:
        jobs: dict[str, Job] = {}  # by id, because pages may repeat a job
        nameless: list[Job] = []
        tokens = [""]
        while len(tokens) <= MAX_PAGES:
            if tokens[-1]:
                async with asyncio.timeout(end - time.monotonic()):
                    await another()
            page = await self._read_page(item, tokens[-1], end)
            if isinstance(page, Answer):
                return page
            jobs.update({job.job_id: job for job in page.jobs if job.job_id})
            nameless += [job for job in page.jobs if not job.job_id]
            if not page.next_token:
                return Answer(kind=Kind.OK, jobs=(*jobs.values(), *nameless))
            if page.next_token in tokens:
                return Answer(kind=Kind.UNKNOWN, error="the list of jobs goes round in a circle")
            tokens.append(page.next_token)
        return Answer(kind=Kind.UNKNOWN, error=f"the list has more than {MAX_PAGES} pages")

    async def _read_page(self, item: Import, token: str, end: float) -> Page | Answer:
        paging = {"NextToken": token} if token else {}
        params = {"MaxResults": PAGE_SIZE, **paging}
        try:
            return read_page(await self._call(item, "list_backend_jobs", params, answer_by=end))
        except CallFailedError as failure:
            return failure.answer

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
