"""The URLs of Redis servers, alone or watched by Sentinels, as each driver wants them spelled.

One spelling serves the store, kombu and Celery's result backend, which differ: kombu trusts any
certificate unless told otherwise, both want TLS beside the URL and not in it, and the name of a
Sentinel's primary in yet another place. Nothing here connects, and no message shows a password.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

PLAIN: Final = ("redis", "rediss")
SENTINEL: Final = "sentinel"
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
TRUE_AND_FALSE: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Redis server's URL, taken apart: where it is, or which Sentinels say where.

    `tls` holds redis-py's arguments, None without TLS; `rest` what else stands in the query, for
    the driver. `master_name` and `sentinel_login` are those of Sentinels.
    """

    url: str
    hosts: tuple[tuple[str, int], ...]
    db: int
    login: Mapping[str, str]
    tls: Mapping[str, Any] | None
    rest: Mapping[str, str]
    master_name: str = ""
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
    def celery_url(self) -> str:
        """Return the URL as kombu and Celery read it: credentials and database at each host."""
        if not (self.master_name or self.tls):
            return self.url
        scheme = SENTINEL if self.master_name else "rediss"
        user, password = (quote(self.login.get(n, ""), safe="") for n in ("username", "password"))
        login = f"{user}:{password}@" if user or password else ""
        query = f"?{urlencode(self.rest)}" if self.rest else ""
        return ";".join(
            f"{scheme}://{login}{_bracketed(host)}:{port}/{self.db}{query}"
            for host, port in self.hosts
        )

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
    return url.partition("://")[0] in {*PLAIN, SENTINEL}


@cache
def server_of(url: str) -> Server:
    """Take a URL apart: `redis://`, `rediss://`, or `sentinel://` with one host or several.

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
    known = {
        name: options.pop(name) for name in (*TLS_OPTIONS, *SENTINEL_OPTIONS) if name in options
    }
    return Server(
        url=url,
        hosts=tuple((part.host, part.port) for part in parts),
        db=parts[-1].db,
        login=first.login,
        tls=_tls_of(first.scheme, known),
        rest=options,
        **_sentinels_of(first.scheme, known, options),
    )


@dataclass(frozen=True, slots=True)
class _Location:
    scheme: str
    host: str
    port: int
    login: Mapping[str, str]
    db: int

    @classmethod
    def of(cls, text: str) -> "_Location":
        """Read one `scheme://user:password@host:port/db`."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            port = -1
        database = parts.path.strip("/") if port != -1 else ""
        if port == -1 or not is_redis(text) or not (database or "0").isdigit():
            # The text is not shown: with an unescaped password, any part of it may be its end.
            raise ValueError(
                "must read scheme://user:password@host:port/database, with what is special in a"
                " password percent-encoded"
            )
        login = {
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
        }
        return cls(
            scheme=parts.scheme,
            host=parts.hostname or "127.0.0.1",
            port=port or (SENTINEL_PORT if parts.scheme == SENTINEL else 6379),
            login={name: value for name, value in login.items() if value},
            db=int(database or 0),
        )


def _sentinels_of(scheme: str, known: Mapping[str, str], rest: Mapping[str, str]) -> dict[str, Any]:
    if scheme != SENTINEL:
        if odd := [name for name in SENTINEL_OPTIONS if name in known]:
            raise ValueError(f"{odd[0]} is for sentinel:// alone")
        return {"sentinel_login": {}}
    if not known.get("master_name"):
        raise ValueError("needs ?master_name=, the name by which the Sentinels know the primary")
    if rest:
        raise ValueError(
            f"{min(rest)} is not known; sentinel:// takes {', '.join(SENTINEL_OPTIONS)}"
        )
    login = {
        n: known[f"sentinel_{n}"] for n in ("username", "password") if f"sentinel_{n}" in known
    }
    return {"master_name": known["master_name"], "sentinel_login": login}


def _tls_of(scheme: str, known: Mapping[str, str]) -> dict[str, Any] | None:
    """Return redis-py's arguments; a certificate is verified unless the URL says otherwise."""
    options: dict[str, Any] = {name: known[name] for name in TLS_OPTIONS if name in known}
    if not (scheme == "rediss" or _truth_of("ssl", known.get("ssl", "false"))):
        if options:
            wanted = "ssl=true" if scheme == SENTINEL else "rediss://"
            raise ValueError(f"{min(options)} needs {wanted}")
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
