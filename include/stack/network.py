"""Choose a free port, and tell what listens where."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that some process accepts connections on."""

    address: IPv4Address | IPv6Address
    port: int
    inode: int


def choose_port(preferred: int | None = None) -> int:
    """Return a free port of the loopback address, the preferred one if it is free."""
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket() as probe:
            # A port whose last connections are still closing down counts as free, as it will for the server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("No free port on the loopback address.")


def parse_listeners(table: str) -> Iterator[Listener]:
    """Read the listening sockets from the text of Linux's ``/proc/net/tcp`` or ``tcp6``."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] != _LISTEN:
            continue
        address, port = fields[1].split(":")
        words = bytes.fromhex(address)
        # The kernel prints each 32-bit word of the address in the machine's own byte order.
        packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
        yield Listener(ip_address(packed), int(port, 16), int(fields[9]))


def listeners_of(pids: Iterable[int]) -> list[Listener]:
    """Return what these processes listen on (Linux only)."""
    inodes = set()
    for pid in pids:
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except FileNotFoundError:  # the process has ended meanwhile
            continue
        for descriptor in descriptors:
            try:
                target = str(descriptor.readlink())
            except OSError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                inodes.add(int(target[len("socket:[") : -1]))
    tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
    found = [one for table in tables if table.exists() for one in parse_listeners(table.read_text())]
    return [one for one in found if one.inode in inodes]
