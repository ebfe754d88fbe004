"""Checks RAY_ADDRESS before Ray connects, and explains why Ray did not start."""

from __future__ import annotations

import os
import socket
import tempfile
from urllib.parse import urlsplit

from minirec.errors import ConfigError, EngineError, MiniRecError

PATIENCE_S = 5.0
CLIENT_PORT = 10001  # Ray's own default for ray://
# The first bytes of HTTP/2, with empty settings; all Ray servers except the dashboard use it.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
FRAME_HEAD = 9  # bytes before the content of a frame
SETTINGS = 4  # type of the first frame from an HTTP/2 server
INSTEAD = "or unset RAY_ADDRESS to work on this machine alone"


def cluster_address() -> str:
    """RAY_ADDRESS; empty if the command starts its own Ray."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


def check_cluster(address: str) -> None:
    """Check within seconds that a cluster answers; Ray itself would try for 14 minutes.

    Raises:
        ConfigError: it is not the address of a cluster.
        EngineError: nothing answers there, or it is not Ray.
    """
    if address == "auto":  # Ray searches this machine and fails at once if it finds no cluster
        return
    host, port = _host_and_port(address)
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
                return
            connection.sendall(HELLO)
            with connection.makefile("rb") as stream:
                answer = stream.read(FRAME_HEAD)
    except OSError as error:
        why = f"nothing answered in {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else error
        raise EngineError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({why}); start it, correct the "
            f"address, {INSTEAD}"
        ) from None
    if answer[3:4] != bytes([SETTINGS]):
        raise EngineError(
            f"the server at RAY_ADDRESS={address} is not a Ray cluster, maybe it is a dashboard; "
            f"give the port that `ray start --head` prints (6379 by default), {INSTEAD}"
        )


def _host_and_port(address: str) -> tuple[str, int]:
    scheme, _, rest = address.rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or (CLIENT_PORT if scheme == "ray" else None)
    except ValueError:
        host = port = None
    if scheme not in ("", "ray") or not host or not port:
        hint = ""
        if scheme.startswith("http"):
            hint = "; `minirec submit --address` takes the dashboard's address"
        raise ConfigError(
            f"RAY_ADDRESS={address} is not the address of a Ray cluster; write HOST:6379 or "
            f"ray://HOST:{CLIENT_PORT}, {INSTEAD}{hint}"
        )
    return host, port


def not_started(error: Exception, address: str) -> MiniRecError:
    """The error to raise if Ray could not be started or joined."""
    text = " ".join(str(error).split())
    if "AF_UNIX" in text:
        name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        folder = os.environ.get(name) or tempfile.gettempdir()
        return ConfigError(
            f"Ray creates sockets in the temporary folder {folder}, whose path is too long for "
            f"them; set {name} to a shorter path such as /tmp"
        )
    if address:
        return EngineError(f"cannot join the Ray cluster at RAY_ADDRESS={address}: {text}")
    return EngineError(f"Ray did not start on this machine: {text}")
