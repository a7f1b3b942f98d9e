"""Make a call whose request the network drops, and print whether it is delivered later.

Run in a separate network namespace (`unshare --net`), whose loopback device it takes down and up.
The argument is how long the remote side may take to acknowledge, in seconds.
"""

import asyncio
import subprocess
import sys
from contextlib import suppress
from typing import Final

from worker.operations.aws import Aws
from worker.operations.http import CallFailedError

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PORT: Final = 8080
WHERE: Final = {"AppId": "d1", "BackendEnvironmentName": "staging"}
POOL: Final = {"UserPoolId": "p", "WebClientId": "w", "NativeClientId": "n"}
PATIENT_SECONDS: Final = 30.0
CALL_SECONDS: Final = 1.0
DOWN_SECONDS: Final = 1.0
"""How long the network stays down after the call was given up."""

LATE_SECONDS: Final = 5.0
"""The kernel retransmits after 0.2 s, 0.4 s, 0.8 s and so on: once within this time."""


def turn(state: str) -> None:
    """Take the loopback device up or down."""
    subprocess.run(["ip", "link", "set", "lo", state], check=True)  # noqa: S607 - the system's command


async def main(acknowledged_seconds: float) -> None:
    """Open a connection, lose a request on it, and restore the network."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while block := await reader.read(65536):
                received.append(block)
                writer.write(ANSWER)
        writer.close()

    turn("up")
    async with await asyncio.start_server(serve, "127.0.0.1", PORT):
        aws = Aws(PATIENT_SECONDS, 1, acknowledged_seconds)
        await aws.call("default", "us-east-1", "list_backend_jobs", WHERE)
        assert received, "the connection is open"
        received.clear()
        aws.timeout_seconds = CALL_SECONDS
        turn("down")
        with suppress(CallFailedError):
            await aws.call("default", "us-east-1", "import_backend_auth", WHERE | POOL)
        await asyncio.sleep(DOWN_SECONDS)
        turn("up")
        await asyncio.sleep(LATE_SECONDS)
        sys.stdout.write("delivered late" if received else "never delivered")
        await aws.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
