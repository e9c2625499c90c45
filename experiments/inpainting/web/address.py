"""Where a web server listens."""

import ipaddress
import socket
from typing import NamedTuple

_MAX_PORT = 65535
_HTTP_PORT = 80


class AddressError(ValueError):
    """An address at which this machine cannot listen."""


class Address(NamedTuple):
    """An address at which this machine can listen.

    Attributes:
        ip: of version 4 or 6, as digits.
        port: at least 1.
    """

    ip: str
    port: int

    @property
    def host(self) -> str:
        """As addresses of pages have it."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip

    @property
    def is_loopback(self) -> bool:
        """Whether it is reached from this machine alone."""
        return ipaddress.ip_address(self.ip).is_loopback

    @property
    def names(self) -> frozenset[str] | None:
        """What a browser may call it in the header ``Host``; None is anything.

        Nobody but this machine's users can mean a loopback address, under one of few names. A page
        from elsewhere that has its own name point here must not pass for this one. Other addresses
        have names that are not known here.
        """
        if not self.is_loopback:
            return None
        hosts = (self.host, "localhost")
        named = {f"{host}:{self.port}" for host in hosts}
        return frozenset(named.union(hosts) if self.port == _HTTP_PORT else named)


def find_address(host: str, port: int) -> Address:
    """Finds out whether this machine can listen at an address.

    Args:
        host: a name, or an address of version 4 or 6, the latter with or without brackets; of
            several addresses that a name has, one of version 4 is taken.
        port: 0 for any that is free.

    Raises:
        AddressError: there is no such port or address, it is another machine's, or it is taken.
    """
    if not 0 <= port <= _MAX_PORT:
        raise AddressError(f"port must be from 0 to {_MAX_PORT}, got {port}")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"host must be a name or address that is known, got {host!r}") from error
    family, kind, protocol, _, place = min(found, key=lambda info: info[0])
    try:
        with socket.socket(family, kind, protocol) as probe:
            # What a server that has ended leaves behind does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            ip, free = probe.getsockname()[:2]
    except OSError as error:
        text = f"cannot listen at host {host}, port {port}: {error.strerror}"
        raise AddressError(text) from error
    return Address(ip, free)
