"""Ports that stay ours: who asks the system for any free port gets another one.

Between the choice of a port and the listening on it a process has to start, and it may be killed
and started again. Leaves out: systems other than Linux, where a port that is held could not be
listened on.
"""

from __future__ import annotations

import socket
import sys
from typing import Any


def free_ports(
    count: int, address: Any = ("127.0.0.1", 0), family: int = socket.AF_INET
) -> list[int]:
    """Ports nobody listens on now, all different.

    A server that sets SO_REUSEADDR, as servers do, can listen on them.

    Parameters
    ----------
    address, family
        Of the host, with port 0.
    """
    found = [socket.socket(family) for _ in range(count)]
    for one in found:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
    ports = [int(one.getsockname()[1]) for one in found]
    for one in found:
        if sys.platform == "linux":
            one.detach()  # bound, and not listened on, until this process ends
        else:
            one.close()
    return ports
