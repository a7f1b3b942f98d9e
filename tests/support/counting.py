"""Counts the commands that reach a server, with MONITOR."""

import threading
from collections import Counter
from typing import Any, Final, Self

from redis import Redis

_END: Final = "the end of the count"


class CommandCounter:
    """Counts the commands that clients send, by name. Commands of scripts do not count."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis: Any = Redis.from_url(url)
        self._counting = threading.Event()
        self.commands: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        self._counting.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        with Redis.from_url(self._url) as redis:
            redis.echo(_END)
        self._thread.join(60)
        self._redis.close()

    def _count(self) -> None:
        with self._redis.monitor() as monitor:
            self._counting.set()
            for seen in monitor.listen():
                if _END in seen["command"]:
                    return
                if seen["client_type"] != "lua":
                    self.commands[seen["command"].split(" ", 1)[0].upper()] += 1

    def without_connecting(self) -> dict[str, int]:
        """Return the counts without the commands with which a connection begins."""
        return {name: n for name, n in self.commands.items() if name not in {"HELLO", "CLIENT"}}

    def listed(self, per: float) -> str:
        """Return the counts divided by `per`, the most frequent first."""
        each = [(name, count / per) for name, count in self.commands.most_common()]
        shown = ", ".join(f"{name} {count:.1f}" for name, count in each if count >= 0.05)
        return f"{sum(self.commands.values()) / per:.1f} Redis commands ({shown})"
