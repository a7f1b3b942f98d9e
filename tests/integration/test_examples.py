"""The example producers, each run as a user runs it, against a real worker."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support import ACCESS_KEY, PROJECT, Producer, StartWorker, members
from tests.support.cloud import Cloud

EXAMPLES = PROJECT / "examples"
NODE = EXAMPLES / "node"
GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian's packages of Go libraries are."""

Command = Sequence[str | Path]


class MissingError(Exception):
    """Something that an example needs is not on this machine."""


def run(command: Command, *, status: int = 0, **environment: str) -> str:
    """Run a program to its end; return what it printed, on either stream."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def need(program: str, beside: Path = PROJECT, install: str = "") -> str:
    if not shutil.which(program):
        raise MissingError(program)
    if not beside.exists():
        raise MissingError(install)
    return program


def node(name: str) -> Command:
    return [need("node", NODE / "node_modules", "packages (`make node-packages`)"), NODE / name]


def by_python(_: Path) -> Command:
    return [sys.executable, EXAMPLES / "python" / "stream.py"]


def by_shell(_: Path) -> Command:
    need("redis-cli")
    need("jq")
    return [EXAMPLES / "shell" / "stream.sh"]


def by_node(_: Path) -> Command:
    return node("stream.mjs")


def by_go(directory: Path) -> Command:
    library = GO_PACKAGES / "src" / "github.com" / "gomodule" / "redigo"
    go = need("go", library, "golang-github-gomodule-redigo-dev")
    build: Command = [go, "build", "-o", directory / "stream", EXAMPLES / "go" / "stream.go"]
    run(build, GO111MODULE="off", GOPATH=str(GO_PACKAGES), GOCACHE=str(directory / "cache"))
    return [directory / "stream"]


BY_STREAM: Sequence[Callable[[Path], Command]] = (by_python, by_shell, by_node, by_go)


def test_examples_with_redis_and_sqs(
    start_worker: StartWorker,
    producer: Producer,
    store_url: str,
    cloud: Cloud,
    moto_url: str,
    tmp_path: Path,
) -> None:
    queue, _ = cloud.queue("examples")
    start_worker(IMPORTS_SQS_REQUESTS_URL=queue)
    expected, missing = {}, []
    for number, command_of in enumerate(BY_STREAM):
        try:
            command = command_of(tmp_path)
        except MissingError as error:
            missing.append(str(error))
            continue
        expected[f"move-{number}"] = f"dstream{number}"
        entry_id = run([*command, f"move-{number}", f"dstream{number}"], REDIS_URL=store_url)
        assert len(entry_id.strip().split("-")) == 2

    requests = [members(f"dsqs{n}", importId=f"sqs-{n}") for n in range(11)]
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(f"{json.dumps(request)}\n" for request in requests))
    run(
        [sys.executable, EXAMPLES / "python" / "sqs.py", file],
        QUEUE_URL=queue,
        AWS_ENDPOINT_URL=moto_url,
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ACCESS_KEY_ID=ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY="not-a-secret",
    )
    expected.update({request["importId"]: request["appId"] for request in requests})
    for import_id, app in expected.items():
        assert producer.app.AsyncResult(import_id).get(timeout=60)["appId"] == app

    try:
        task = node("task-redis.mjs")
    except MissingError as error:
        missing.append(str(error))
    else:
        result = json.loads(run([*task, "task-1", "dtask"], REDIS_URL=store_url))
        assert (result["importId"], result["outcome"]) == ("task-1", "succeeded")
        said = run([*task, "task-2", "no app"], status=1, REDIS_URL=store_url)
        assert "ImportRejected: " in said
        assert "appId: must look like" in said
    if missing:
        pytest.skip(f"the others passed, but NO {', NO '.join(missing)} here")


@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_the_example_with_rabbitmq(
    start_worker: StartWorker, broker_url: str, store_url: str
) -> None:
    try:
        task = node("task-rabbitmq.mjs")
    except MissingError as error:
        pytest.skip(f"NO {error} here")
    start_worker()
    said = run([*task, "task-3", "dtask"], AMQP_URL=broker_url, REDIS_URL=store_url)
    result = json.loads(said)
    assert (result["importId"], result["outcome"]) == ("task-3", "succeeded")
