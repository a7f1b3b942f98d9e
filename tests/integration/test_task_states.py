"""States of tasks in real result backends: the final state is never overwritten by a late one."""

from pathlib import Path
from typing import Any

import pytest
from celery import Celery, states

from tests.support.counting import CommandCounter
from worker.announcer.states import RUNNING, WAITING, TaskStates


@pytest.fixture
def app(store_url: str) -> Celery:
    app = Celery("states", set_as_current=False)
    app.conf.update(result_backend=store_url, result_expires=3600)
    return app


def stored(app: Celery) -> tuple[str, Any]:
    result = app.AsyncResult("one")
    return result.state, result.info


def test_states_come_in_their_order(app: Celery) -> None:
    shown = TaskStates(app)
    shown.show([("one", {"importId": "one"})], WAITING)
    assert stored(app) == (WAITING, {"importId": "one"})
    shown.show([("one", {"jobId": "a"})], RUNNING)
    assert stored(app) == (RUNNING, {"jobId": "a"})
    shown.show([("one", {"jobId": "b"})], RUNNING)
    assert stored(app) == (RUNNING, {"jobId": "b"})
    app.backend.store_result("one", {"outcome": "succeeded"}, states.SUCCESS)
    assert stored(app) == (states.SUCCESS, {"outcome": "succeeded"})


@pytest.mark.parametrize("late", [WAITING, RUNNING])
@pytest.mark.parametrize("end", [states.SUCCESS, states.FAILURE, states.REVOKED])
def test_a_late_state_does_not_replace_the_end(app: Celery, late: str, end: str) -> None:
    over = {"outcome": "over"} if end == states.SUCCESS else ValueError("over")
    app.backend.store_result("one", over, end)
    before, lives = stored(app), expires_in(app)
    shown = TaskStates(app)
    shown.show([("one", {"importId": "one"})], late)
    assert shown.keeps_ends
    assert (stored(app)[0], str(stored(app)[1])) == (end, str(before[1]))
    assert 0 < expires_in(app) <= lives


def test_a_late_waiting_does_not_replace_running(app: Celery) -> None:
    shown = TaskStates(app)
    shown.show([("one", {"jobId": "a"})], RUNNING)
    shown.show([("one", {"importId": "one"})], WAITING)
    assert stored(app) == (RUNNING, {"jobId": "a"})


def test_the_state_of_an_unfinished_task_is_stored_without_what_is_empty(app: Celery) -> None:
    TaskStates(app).show([("one", {"jobId": "a"})], RUNNING)
    backend: Any = app.backend
    text = backend.get(backend.get_key_for_task("one"))
    assert text == b'{"status":"RUNNING","result":{"jobId":"a"},"task_id":"one"}'
    assert app.AsyncResult("one").traceback is None


def test_states_that_are_shown_together_are_stored_each_for_itself(
    app: Celery, store_url: str
) -> None:
    app.backend.store_result("over", {"outcome": "over"}, states.SUCCESS)
    shown = TaskStates(app)
    shown.show([("running", {"jobId": "a"})], RUNNING)
    names = ["first", "over", "running", *map(str, range(97))]
    with CommandCounter(store_url) as counter:
        shown.show([(name, {"importId": name}) for name in names], WAITING)
    assert counter.without_connecting() == {"EVALSHA": 1}
    left_alone = {"over": states.SUCCESS, "running": RUNNING}
    for name in names:
        assert app.AsyncResult(name).state == left_alone.get(name, WAITING)
    assert app.AsyncResult("96").info == {"importId": "96"}


def test_a_non_final_state_does_not_expire(app: Celery) -> None:
    TaskStates(app).show([("one", {"importId": "one"})], WAITING)
    assert expires_in(app) == -1


def test_a_state_is_shown_in_a_backend_of_another_kind(tmp_path: Path) -> None:
    app = Celery("states", set_as_current=False)
    app.conf.update(result_backend=f"file://{tmp_path}")
    shown = TaskStates(app)
    shown.show([("one", {"importId": "one"})], WAITING)
    assert stored(app) == (WAITING, {"importId": "one"})
    assert not shown.keeps_ends, "the end is stored again after a late state"


def expires_in(app: Celery) -> int:
    backend: Any = app.backend
    seconds: int = backend.client.ttl(backend.get_key_for_task("one"))
    return seconds
