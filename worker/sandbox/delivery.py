"""Sends an answer, or breaks the connection if the call's fault says so."""

import asyncio
import socket
import struct

from aiohttp import web

from worker.sandbox.ledger import Call
from worker.sandbox.scenario import FaultKind, FaultSettings
from worker.sandbox.wire import Reply

_NO_LINGER = struct.pack("ii", 1, 0)
_RESETS = frozenset({FaultKind.RESET_BEFORE, FaultKind.RESET_AFTER, FaultKind.HANG})


async def deliver(
    request: web.Request, call: Call, reply: Reply, settings: FaultSettings
) -> web.Response:
    """Answer the request, with the delay or the reset of the call's fault.

    Sets `call.status` to the status that was sent; it stays None if none was.
    """
    if call.fault is FaultKind.HANG:
        await asyncio.sleep(settings.hang_seconds)
    elif call.fault is FaultKind.SLOW:
        await asyncio.sleep(settings.slow_seconds)
    if call.fault in _RESETS:
        _reset(request)
    else:
        call.status = reply.status
    return reply.to_response(request_id=f"{call.seq:08d}")


def _reset(request: web.Request) -> None:
    if request.transport is None:  # the client has already closed the connection
        return
    connection = request.transport.get_extra_info("socket")
    # With a linger time of 0, closing sends a TCP reset. Otherwise it would be an orderly close.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    request.transport.abort()
