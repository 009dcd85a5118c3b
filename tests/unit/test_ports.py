"""Ports that are chosen before somebody listens on them."""

from __future__ import annotations

import socket

import pytest

from infra.ports import free_ports


@pytest.mark.parametrize("host, family", [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_free_port_is_kept_from_others_until_a_server_listens_and_after_it_has_ended(
    host: str, family: socket.AddressFamily
) -> None:
    ports = free_ports(2, (host, 0), family)
    assert len(set(ports)) == 2
    for _ in range(2):
        with socket.socket(family) as by_chance, pytest.raises(OSError, match="in use"):
            by_chance.bind((host, ports[0]))
        with socket.create_server((host, ports[0]), family=family):
            socket.create_connection((host, ports[0]), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, ports[0]), timeout=5)
