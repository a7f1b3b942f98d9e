"""Delivery: gets an answer onto the connection, or breaks the connection as the fault says."""

import asyncio
import socket
import struct

from aiohttp import web

from worker.sandbox.ledger import Call
from worker.sandbox.scenario import FaultKind, FaultSettings
from worker.sandbox.wire import Reply

_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)
_RESETS = frozenset({FaultKind.RESET_BEFORE, FaultKind.RESET_AFTER, FaultKind.HANG})


async def deliver(
    request: web.Request, call: Call, reply: Reply, settings: FaultSettings
) -> web.Response:
    """Answer the request, sooner or later or never; notes the status sent in the call."""
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
    if request.transport is None:  # the client went first
        return
    connection = request.transport.get_extra_info("socket")
    # Without lingering the close is a TCP reset; else the client would see an orderly end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
    request.transport.abort()
