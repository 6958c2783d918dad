from __future__ import annotations

import os
import socket
from ipaddress import ip_address

import pytest

from include.stack.network import Listener, choose_port, listeners_of, parse_listeners

_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


def _row(local: str, state: str) -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 4711 1 0 100 0 0 10 0"


@pytest.mark.parametrize(
    ("local", "address"),
    [
        pytest.param("0100007F:1F90", "127.0.0.1", id="loopback"),
        pytest.param("00000000:1F90", "0.0.0.0", id="all interfaces"),  # noqa: S104 - read, not bound
        pytest.param("00000000000000000000000001000000:1F90", "::1", id="loopback of IPv6"),
        pytest.param("0000000000000000FFFF00000100007F:1F90", "::ffff:127.0.0.1", id="IPv4 in IPv6"),
    ],
)
def test_reads_listening_sockets(local, address):
    assert list(parse_listeners(f"{_HEADER}\n{_row(local, '0A')}\n")) == [
        Listener(ip_address(address), 8080, 4711)
    ]


def test_passes_over_connections():
    assert list(parse_listeners(f"{_HEADER}\n{_row('0100007F:1F90', '01')}\n")) == []


def test_finds_what_a_process_listens_on():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert (ip_address("127.0.0.1"), port) in {
            (one.address, one.port) for one in listeners_of([os.getpid()])
        }


def test_takes_the_preferred_port_if_it_is_free():
    port = choose_port()

    assert choose_port(preferred=port) == port


def test_takes_another_port_if_the_preferred_one_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]

        assert choose_port(preferred=taken) not in {taken, 0}
