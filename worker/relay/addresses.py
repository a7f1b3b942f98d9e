"""Which addresses a webhook may reach: public ones, unless the operator allows others.

A name is resolved once, every address is checked, and the connection goes to a checked address. A
name that resolves to another address a moment later (DNS rebinding) therefore reaches nothing.
"""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_NAT64: Final = IPv6Network("64:ff9b::/96")


class ForbiddenAddressError(OSError):
    """A name leads to an address that is not public."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EACCES, message)


def is_public(text: str) -> bool:
    """Return whether an address is public, also as an IPv6 address that leads to an IPv4 one."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and (inner := _inner(address)):
        address = inner
    return address.is_global and not address.is_multicast


def is_address(host: str) -> bool:
    """Return whether a host is an address and not a name."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to an address that is not public."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            ForbiddenAddressError: if one of them is not public.

        """
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            if not is_public(each["host"]):
                raise ForbiddenAddressError(
                    f"{host} leads to {each['host']}, which is not a public address"
                )
        return found

    async def close(self) -> None:
        """Do nothing: the resolver of the system has nothing to close."""


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address in a mapped, 6to4, Teredo or NAT64 address; None if there is none."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
