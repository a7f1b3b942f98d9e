"""The URLs of Redis servers, Sentinels and clusters, in the form that each driver needs.

A user writes one URL for the store (redis-py), the broker (kombu) and Celery's result backend. The
drivers differ: kombu accepts any certificate by default; kombu and Celery need the TLS options
outside the URL, the name of a Sentinel's primary in another place, and another scheme for Unix
sockets. This module does not connect to servers. Its messages never contain a password.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

SENTINEL: Final = "sentinel"
SOCKET: Final = "unix"
KOMBU_SOCKET: Final = "redis+socket"
CLUSTER: Final = "redis+cluster"
CLUSTER_TLS: Final = "rediss+cluster"
SENTINEL_PORT: Final = 26379
SENTINEL_SECONDS: Final = 2.0
"""How long to wait for the answer of one Sentinel before trying the next."""

CERTIFICATE_CHECKS: Final = ("required", "optional", "none")
TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS: Final[tuple[str, ...]] = (
    *TLS_FILES,
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_password",
)
SENTINEL_OPTIONS: Final[tuple[str, ...]] = (
    "master_name",
    "ssl",
    "sentinel_username",
    "sentinel_password",
)
LOGIN_OPTIONS: Final = ("username", "password")
SOCKET_OPTIONS: Final = ("db", "virtual_host", *LOGIN_OPTIONS)
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "redis": ("db", *LOGIN_OPTIONS),
    "rediss": ("db", *LOGIN_OPTIONS, *TLS_OPTIONS),
    SENTINEL: (*SENTINEL_OPTIONS, *TLS_OPTIONS),
    SOCKET: SOCKET_OPTIONS,
    KOMBU_SOCKET: SOCKET_OPTIONS,
    CLUSTER: LOGIN_OPTIONS,
    CLUSTER_TLS: (*LOGIN_OPTIONS, *TLS_OPTIONS),
}
"""The options that each scheme allows in the query of its URL."""

OF_SEVERAL_HOSTS: Final = (SENTINEL, CLUSTER, CLUSTER_TLS)
OF_TLS: Final = ("rediss", CLUSTER_TLS)

TRUE_AND_FALSE: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The parts of a Redis server's URL.

    `hosts` are the server, or the Sentinels or nodes of the cluster that know where it is. A Unix
    socket has a `path` instead. `tls` has the arguments for redis-py; it is None without TLS.
    `master_name` and `sentinel_login` are set only for Sentinels.
    """

    url: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    db: int
    is_cluster: bool
    login: Mapping[str, str]
    tls: Mapping[str, Any] | None
    master_name: str
    sentinel_login: Mapping[str, str]

    @property
    def tls_arguments(self) -> dict[str, Any]:
        """Return redis-py's arguments for TLS; an empty dict without TLS."""
        return {"ssl": True, **self.tls} if self.tls is not None else {}

    @property
    def sentinel_arguments(self) -> dict[str, Any]:
        """Return redis-py's arguments for connections to the Sentinels themselves."""
        return {
            **self.sentinel_login,
            **self.tls_arguments,
            "socket_timeout": SENTINEL_SECONDS,
            "socket_connect_timeout": SENTINEL_SECONDS,
        }

    @property
    def redis_url(self) -> str:
        """Return the URL in redis-py's form, which Sentinels and clusters do not have."""
        return f"{SOCKET}://{self._login}{quote(self.path)}?db={self.db}" if self.path else self.url

    @property
    def celery_url(self) -> str:
        """Return the URL in the form of kombu and Celery: each host has login and database.

        They can't use a cluster.
        """
        if self.path:
            return f"{KOMBU_SOCKET}://{self._login}{quote(self.path)}?virtual_host={self.db}"
        if not self.master_name and "?" not in self.url:
            return self.url
        scheme = SENTINEL if self.master_name else "rediss" if self.tls else "redis"
        return ";".join(
            f"{scheme}://{self._login}{_bracketed(host)}:{port}/{self.db}"
            for host, port in self.hosts
        )

    @property
    def _login(self) -> str:
        user, password = (quote(self.login.get(name, ""), safe="") for name in LOGIN_OPTIONS)
        return f"{user}:{password}@" if user or password else ""

    @property
    def celery_options(self) -> dict[str, Any]:
        """Return the transport options for kombu and Celery."""
        if not self.master_name:
            return {}
        # No retries: try the next Sentinel at once, instead of the same one again for seconds.
        arguments = {**self.sentinel_arguments, "retry": Retry(NoBackoff(), 0)}
        return {"master_name": self.master_name, "sentinel_kwargs": arguments}


def is_replicated(url: str) -> bool:
    """Return whether another server may take over, which may lack the last writes."""
    return url.startswith(tuple(f"{scheme}://" for scheme in OF_SEVERAL_HOSTS))


def is_cluster(url: str) -> bool:
    """Return whether the URL names a Redis Cluster."""
    return url.startswith((f"{CLUSTER}://", f"{CLUSTER_TLS}://"))


def is_redis(url: str) -> bool:
    """Return whether `server_of` can read this URL."""
    return url.partition("://")[0] in OPTIONS


@cache
def server_of(url: str) -> Server:
    """Return the parts of a URL.

    Sentinels and clusters may have several hosts, separated by semicolons.

    Raises:
        ValueError: if the URL is invalid. The message says why, and shows no password.

    """
    *others, last = url.split(";")
    location, _, query = last.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    parts = [_Location.of(text) for text in (*others, location)]
    first = parts[0]
    if {part.scheme for part in parts} != {first.scheme}:
        raise ValueError("all hosts need the same scheme")
    if len(parts) > 1 and first.scheme not in OF_SEVERAL_HOSTS:
        raise ValueError("only sentinel:// and redis+cluster:// take several hosts")
    _check_options(first.scheme, options)
    database = _database_of(options, parts[-1].db)
    if database and is_cluster(url):
        raise ValueError("a cluster has only database 0")
    is_sentinel = first.scheme == SENTINEL
    login = {} if is_sentinel else {n: options[n] for n in LOGIN_OPTIONS if options.get(n)}
    return Server(
        url=url,
        hosts=() if first.path else tuple((part.host, part.port) for part in parts),
        path=first.path,
        db=database,
        is_cluster=is_cluster(url),
        login={**login, **first.login},
        tls=_tls_of(first.scheme, options),
        master_name=options.get("master_name", ""),
        sentinel_login={
            n: options[f"sentinel_{n}"] for n in LOGIN_OPTIONS if f"sentinel_{n}" in options
        },
    )


@dataclass(frozen=True, slots=True)
class _Location:
    scheme: str
    host: str
    port: int
    path: str
    login: Mapping[str, str]
    db: int

    @classmethod
    def of(cls, text: str) -> "_Location":
        """Read one `scheme://user:password@host:port/db`, or `unix://user:password@/path`."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise _unreadable() from None
        is_socket = parts.scheme in (SOCKET, KOMBU_SOCKET)
        database = "" if is_socket else parts.path.strip("/")
        if parts.fragment or not is_redis(text) or not (database or "0").isdigit():
            raise _unreadable()
        if is_socket and (parts.hostname or not parts.path.strip("/")):
            raise ValueError(f"must read {parts.scheme}:///path, the path beginning with a slash")
        login = {
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
        }
        return cls(
            scheme=parts.scheme,
            host=parts.hostname or "127.0.0.1",
            port=port or (SENTINEL_PORT if parts.scheme == SENTINEL else 6379),
            path=unquote(parts.path) if is_socket else "",
            login={name: value for name, value in login.items() if value},
            db=int(database or 0),
        )


def _unreadable() -> ValueError:
    # The message does not show the text: any part of it may belong to an unescaped password.
    return ValueError(
        "must look like scheme://user:password@host:port/database, with special characters in the"
        " password percent-encoded"
    )


def _check_options(scheme: str, options: Mapping[str, str]) -> None:
    """Check the option names in a query.

    kombu's clients fail on unknown options, and their errors may show the URL with its password.
    """
    if scheme == SENTINEL:
        if not options.get("master_name"):
            raise ValueError(
                "needs ?master_name=, the name by which the Sentinels know the primary"
            )
    elif odd := [name for name in SENTINEL_OPTIONS if name in options]:
        raise ValueError(f"{odd[0]} works only with sentinel://")
    elif scheme not in OF_TLS and (odd := sorted(options.keys() & {*TLS_OPTIONS})):
        needed = CLUSTER_TLS if scheme == CLUSTER else "rediss"
        raise ValueError(f"{odd[0]} needs {needed}://")
    if unknown := sorted(options.keys() - {*OPTIONS[scheme]}):
        raise ValueError(
            f"{unknown[0]} is not known; {scheme}:// takes {', '.join(OPTIONS[scheme])}"
        )


def _database_of(options: Mapping[str, str], otherwise: int) -> int:
    database = options.get("db") or options.get("virtual_host", "").strip("/")
    if not (database or "0").isdigit():
        raise ValueError("db must be the number of a database")
    return int(database or otherwise)


def _tls_of(scheme: str, known: Mapping[str, str]) -> dict[str, Any] | None:
    """Return redis-py's arguments for TLS; None without TLS.

    Certificates are verified unless the URL says otherwise.
    """
    options: dict[str, Any] = {name: known[name] for name in TLS_OPTIONS if name in known}
    if not (scheme in OF_TLS or _truth_of("ssl", known.get("ssl", "false"))):
        if options:
            raise ValueError(f"{min(options)} needs ssl=true")
        return None
    for name in TLS_FILES:
        if name in options and not Path(options[name]).is_file():
            raise ValueError(f"{name}: there is no file {options[name]}")
    if "ssl_check_hostname" in options:
        name = "ssl_check_hostname"
        options[name] = _truth_of(name, options[name])
    check = options.setdefault("ssl_cert_reqs", "required")
    if check not in CERTIFICATE_CHECKS:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(CERTIFICATE_CHECKS)}")
    return options


def _truth_of(name: str, text: str) -> bool:
    if text.lower() not in TRUE_AND_FALSE:
        raise ValueError(f"{name} must be true or false")
    return TRUE_AND_FALSE[text.lower()]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
