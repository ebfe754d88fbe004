"""Whether a command joins the cluster of RAY_ADDRESS or starts its own Ray, and what may fail."""

from __future__ import annotations

import os
import socket
import tempfile
from urllib.parse import urlsplit

from minirec.errors import ConfigError, EngineError, MiniRecError

PATIENCE_S = 5.0
CLIENT_PORT = 10001  # Ray's own default for ray://
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The first bytes of HTTP/2, with empty settings; all servers of Ray but the dashboard use it."""
FRAME_HEAD = 9  # bytes before the content of a frame
SETTINGS = 4  # the type of the first frame that such a server sends
INSTEAD = "or unset RAY_ADDRESS to work on this machine alone"


def cluster_address() -> str:
    """The address of the cluster to join, as given; empty if the command starts its own Ray."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


def check_cluster(address: str) -> None:
    """Refuse within seconds an address at which no cluster answers: Ray tries for 14 minutes.

    Raises:
        ConfigError: it is not an address of a cluster.
        EngineError: nothing answers there, or it is not Ray.
    """
    if address == "auto":  # Ray looks on this machine and fails at once if there is none
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
            f"what answers at RAY_ADDRESS={address} is no Ray cluster, but maybe its dashboard; "
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
        hint = (
            "; the dashboard's address belongs to `minirec submit --address`"
            if scheme.startswith("http")
            else ""
        )
        raise ConfigError(
            f"RAY_ADDRESS={address} is no address of a Ray cluster; write HOST:6379 or "
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
            f"Ray puts sockets below the temporary folder {folder}, whose path is too long for "
            f"them; set {name} to a shorter path such as /tmp"
        )
    if address:
        return EngineError(f"the Ray cluster at RAY_ADDRESS={address} was not joined: {text}")
    return EngineError(f"Ray did not start on this machine: {text}")
