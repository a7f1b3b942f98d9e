"""Import tasks are admitted outside Celery's pool, in groups; none of them harms another."""

import asyncio
from functools import partial
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.worker import state
from celery.worker.request import Request
from kombu.message import Message

from tests.support import Producer, Sandbox, StartWorker, members
from tests.support.counting import CommandCounter
from tests.world import AnyAccount, NoAnnouncer, SingleRegion
from worker.doors.arrivals import Arrivals
from worker.doors.envelopes import envelope_of, members_of
from worker.doors.tasks import TASKS
from worker.engine.admit import ADMITTED_TOGETHER, Admitter
from worker.engine.checking import Parcel
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.connection import StoreUnavailableError
from worker.store.store import ImportStore

CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=10_000, lease_seconds=2, settle_seconds=0
)


class Messages:
    """Messages of import tasks as Celery's consumer passes them on, and those acknowledged."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._app = Celery("arrivals", set_as_current=False)
        self.acknowledged: list[str] = []

    def arrive(self, *ids: str) -> None:
        """Let a message arrive for each id."""
        for task_id in ids:
            sent = self._app.amqp.as_task_v2(task_id, TASKS[0].name, (), members(f"d{task_id}"))
            message: Any = Message(headers=sent.headers, properties=sent.properties)
            request: Any = Request(
                message,
                on_ack=lambda *_, task_id=task_id: self.acknowledged.append(task_id),
                app=self._app,
                task=TASKS[0],
                body=sent.body,
                decoded=True,
            )
            context = Context(request.request_dict)
            state.task_accepted(request)
            self._arrivals.receive(
                request, Parcel(members_of(context), envelope_of(TASKS[0], context))
            )


@pytest.fixture
async def arrivals(redis: Any) -> Arrivals:
    store = ImportStore(redis, CONFIG)
    admitter = Admitter(OPERATIONS, store, AnyAccount(), SingleRegion(), NoAnnouncer())
    loop = asyncio.get_running_loop()
    return Arrivals(admitter, loop.call_soon)


async def test_tasks_that_are_there_are_admitted_by_one_script_and_then_acknowledged(
    arrivals: Arrivals, redis: Any, store_url: str
) -> None:
    messages = Messages(arrivals)
    messages.arrive("first")
    await arrivals.admit()  # loads the scripts
    ids = [f"i{n}" for n in range(ADMITTED_TOGETHER)]
    messages.arrive(*ids)
    assert messages.acknowledged == ["first"]
    with CommandCounter(store_url) as counter:
        await arrivals.admit()
    assert counter.without_connecting() == {"EVALSHA": 1}
    assert messages.acknowledged == ["first", *ids]
    assert await redis.exists(*(f"imports:import:{each}" for each in ids)) == ADMITTED_TOGETHER
    assert not state.active_requests


async def test_a_task_that_can_not_be_admitted_stays_unacknowledged_and_stops_no_other(
    arrivals: Arrivals, redis: Any
) -> None:
    messages = Messages(arrivals)
    await redis.rpush("imports:import:bad", "not a record")
    messages.arrive("i1", "bad", "i2")
    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        await arrivals.admit()
    assert messages.acknowledged == ["i1", "i2"]
    assert [request.id for request in state.active_requests] == ["bad"], "the worker has work"
    await redis.delete("imports:import:bad")
    await arrivals.admit()
    assert messages.acknowledged == ["i1", "i2", "bad"]


async def test_a_waiting_worker_is_woken_by_a_task_and_by_its_end(arrivals: Arrivals) -> None:
    messages = Messages(arrivals)
    for wake in (partial(messages.arrive, "i1"), arrivals.wake):
        waiting = asyncio.create_task(arrivals.admit())
        await asyncio.sleep(0)
        assert not waiting.done()
        wake()
        await waiting
    assert messages.acknowledged == ["i1"]


def test_a_task_that_is_called_and_not_sent_says_how_to_send_it() -> None:
    with pytest.raises(RuntimeError, match="send its task, with apply_async"):
        TASKS[0].apply(kwargs=members(), throw=True)


@pytest.mark.parametrize(
    "broker_url", ["store", "rabbitmq"], indirect=True, ids=["store", "rabbitmq"]
)
def test_a_message_that_can_not_be_admitted_is_returned_when_the_worker_stops(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    producer.redis.rpush("imports:import:bad", "not a record")
    first = start_worker()
    bad = producer.send(members("dbad"), task_id="bad")
    others = [producer.send(members(f"dgood{n}")) for n in range(20)]
    assert {task.get(timeout=60)["outcome"] for task in others} == {"succeeded"}
    assert not bad.ready()
    assert first.stop() == 0
    assert "WRONGTYPE" in first.log
    producer.redis.delete("imports:import:bad")
    start_worker()
    assert bad.get(timeout=60)["outcome"] == "succeeded"
    assert len(sandbox.jobs()) == 21
