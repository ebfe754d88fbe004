"""Ports for servers that are started by a test."""

from __future__ import annotations

import random
import socket

# Neither those that Linux gives to whoever asks for any (from 32768 on), one of which another
# process may get before the server has it, nor those of Ray's workers (10002 to 19999).
RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens at."""
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports in {RANGE}")
