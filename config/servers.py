"""The URLs of Redis servers, alone or watched by Sentinels, as each driver wants them spelled.

One spelling serves the store, kombu and Celery's result backend, which differ: kombu trusts any
certificate unless told otherwise, both want TLS beside the URL and not in it, the name of a
Sentinel's primary in yet another place, and sockets under a scheme of their own. Nothing here
connects, and no message shows a password.
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
SENTINEL_PORT: Final = 26379
SENTINEL_SECONDS: Final = 2.0
"""How long one Sentinel may take to answer before the next is asked."""

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
}
"""What each scheme takes in its query."""

TRUE_AND_FALSE: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Redis server's URL, taken apart: where it is, or which Sentinels say where.

    `tls` holds redis-py's arguments, None without TLS. `master_name` and `sentinel_login` are those
    of Sentinels; `path` is that of a socket, which has no hosts.
    """

    url: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    db: int
    login: Mapping[str, str]
    tls: Mapping[str, Any] | None
    master_name: str
    sentinel_login: Mapping[str, str]

    @property
    def tls_arguments(self) -> dict[str, Any]:
        """Return redis-py's arguments for TLS, none without it."""
        return {"ssl": True, **self.tls} if self.tls is not None else {}

    @property
    def sentinel_arguments(self) -> dict[str, Any]:
        """Return redis-py's arguments of connections to the Sentinels themselves."""
        return {
            **self.sentinel_login,
            **self.tls_arguments,
            "socket_timeout": SENTINEL_SECONDS,
            "socket_connect_timeout": SENTINEL_SECONDS,
        }

    @property
    def redis_url(self) -> str:
        """Return the URL as redis-py reads it; that of Sentinels it can't."""
        return f"{SOCKET}://{self._login}{quote(self.path)}?db={self.db}" if self.path else self.url

    @property
    def celery_url(self) -> str:
        """Return the URL as kombu and Celery read it: credentials and database at each host."""
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
        """Return what kombu and Celery take as transport options."""
        if not self.master_name:
            return {}
        # Without retries: the next Sentinel is asked instead of the same one, for seconds, again.
        asking = {**self.sentinel_arguments, "retry": Retry(NoBackoff(), 0)}
        return {"master_name": self.master_name, "sentinel_kwargs": asking}


def is_replicated(url: str) -> bool:
    """Tell whether another server may take over, without what it has not been told yet."""
    return url.startswith(f"{SENTINEL}://")


def is_redis(url: str) -> bool:
    """Tell whether this is a URL that `server_of` reads."""
    return url.partition("://")[0] in OPTIONS


@cache
def server_of(url: str) -> Server:
    """Take a URL apart; `sentinel://` may name several hosts.

    Raises:
        ValueError: saying what is wrong with it.

    """
    *others, last = url.split(";")
    location, _, query = last.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    parts = [_Location.of(text) for text in (*others, location)]
    first = parts[0]
    if {part.scheme for part in parts} != {first.scheme}:
        raise ValueError("all hosts need the same scheme")
    if len(parts) > 1 and first.scheme != SENTINEL:
        raise ValueError("only sentinel:// takes several hosts")
    _check_options(first.scheme, options)
    is_sentinel = first.scheme == SENTINEL
    login = {} if is_sentinel else {n: options[n] for n in LOGIN_OPTIONS if options.get(n)}
    return Server(
        url=url,
        hosts=() if first.path else tuple((part.host, part.port) for part in parts),
        path=first.path,
        db=_database_of(options, parts[-1].db),
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
    # The text is not shown: with an unescaped password, any part of it may be its end.
    return ValueError(
        "must read scheme://user:password@host:port/database, with what is special in a"
        " password percent-encoded"
    )


def _check_options(scheme: str, options: Mapping[str, str]) -> None:
    """Check the names in a query: kombu's clients fail on others, and may then show the URL."""
    if scheme == SENTINEL:
        if not options.get("master_name"):
            raise ValueError(
                "needs ?master_name=, the name by which the Sentinels know the primary"
            )
    elif odd := [name for name in SENTINEL_OPTIONS if name in options]:
        raise ValueError(f"{odd[0]} is for sentinel:// alone")
    elif scheme != "rediss" and (odd := sorted(options.keys() & {*TLS_OPTIONS})):
        raise ValueError(f"{odd[0]} needs rediss://")
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
    """Return redis-py's arguments; a certificate is verified unless the URL says otherwise."""
    options: dict[str, Any] = {name: known[name] for name in TLS_OPTIONS if name in known}
    if not (scheme == "rediss" or _truth_of("ssl", known.get("ssl", "false"))):
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
