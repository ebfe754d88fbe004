"""One command at a time holds a run directory, by a file lock or by a lease on an object store.

Object stores have no locks, but they can create an object only if it does not exist. So a lease is
a numbered object below ``.lock/``, and the highest number holds the run. If it is released or
expired, a command creates the next number, which only one command can do.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minirec.errors import ArtifactError, DamageError
from minirec.store.files import read_json, write_json
from minirec.store.remote import explained, is_remote

RENEWAL_S = 60.0
EXPIRY_S = 300.0
"""A lease expires after this time without renewal; clocks must differ by less."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")
"""S3's error codes for an object that exists or that another request is creating."""


@contextlib.contextmanager
def held(root: Path, *, lost: Callable[[str], None]) -> Iterator[None]:
    """Hold a run directory for this process.

    Args:
        root: the run directory, which is made if it does not exist.
        lost: called from a thread, with the reason, if another command has taken over the lease,
            or may do so because renewal failed.

    Raises:
        ArtifactError: another command holds the directory.
    """
    if is_remote(root):
        with explained(root):
            mine = _acquire(root / ".lock")
        with _renewed(mine, lost):
            yield
        return
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file.fileno()).st_nlink > 0  # 0 if the last holder deleted it
        except BlockingIOError:
            free = False
        if not free:
            raise ArtifactError(
                f"another minirec command works in {root}; wait for it or choose another run_dir"
            )
        try:
            yield
        finally:
            if made and os.listdir(root) == [".lock"]:  # nothing was written, e.g. after a typo
                (root / ".lock").unlink()
                root.rmdir()


def _acquire(folder: Path) -> Path:
    """Create the next lease and return its path."""
    while True:
        leases = _leases(folder)
        number = int(leases[-1].name) + 1 if leases else 1
        if leases:
            _refuse_if_held(leases[-1], folder)
        mine = folder / f"{number:09d}"
        if _create(mine, _lease()):
            for old in leases:
                old.unlink(missing_ok=True)
            return mine


def _leases(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: p.name)


def here() -> dict[str, str]:
    """The scope in which a pid is unique: containers may share a hostname."""
    return {
        "host": platform.node(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
    }


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder, `here` with its ``pid``, was a process of this machine that has ended."""
    return holder.items() >= here().items() and not Path(f"/proc/{holder['pid']}").exists()


def _lease(**changes: Any) -> dict[str, Any]:
    now = time.time()
    return {
        "user": getpass.getuser(),
        **here(),
        "pid": os.getpid(),
        "since": now,
        "expires": now + EXPIRY_S,
        "released": False,
    } | changes


def _refuse_if_held(lease: Path, folder: Path) -> None:
    try:
        holder = read_json(lease)
    except DamageError:
        return  # missing or damaged: creating the next number decides
    if holder["released"] or is_gone(holder) or holder["expires"] < time.time():
        return
    raise ArtifactError(
        f"another minirec command works in {folder.parent}: {holder['user']} on {holder['host']}, "
        f"process {holder['pid']}, since {_clock(holder['since'])} UTC; wait for it (if it died, "
        f"until {_clock(holder['expires'])}) or choose another run_dir"
    )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _create(path: Any, lease: dict[str, Any]) -> bool:
    """Create an object; False if it exists."""
    try:
        path.fs.pipe_file(path.path, json.dumps(lease).encode(), mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # s3fs raises FileExistsError only for the answer of AWS. Other stores, and concurrent
        # requests, show only in the code of botocore's error.
        response = getattr(error.__cause__, "response", {})
        if response.get("Error", {}).get("Code") in REFUSED:
            return False
        raise
    return True


@contextlib.contextmanager
def _renewed(mine: Path, lost: Callable[[str], None]) -> Iterator[None]:
    """Renew the lease from a thread, and release it at the end."""
    lease = read_json(mine)
    root = mine.parent.parent
    stop, gone, one = threading.Event(), threading.Event(), threading.Lock()
    renewed = time.monotonic()

    def renew() -> None:
        nonlocal renewed
        while not stop.wait(RENEWAL_S) and not gone.is_set():
            # If the store fails, the next round tries again, until the lease expires.
            with contextlib.suppress(Exception):
                if _leases(mine.parent)[-1].name != mine.name:
                    give_up(f"another minirec command has taken over {root}")
                    return
                asked, now = time.monotonic(), time.time()
                write_json(mine, lease | {"expires": now + EXPIRY_S})
                renewed = asked

    def watch() -> None:
        """Runs in a second thread, since a store that does not answer blocks `renew`."""
        while (left := renewed + EXPIRY_S - time.monotonic()) > 0:
            if stop.wait(left) or gone.is_set():
                return
        give_up(f"{root} could not be reached for {EXPIRY_S:g} s, so another command may take over")

    def give_up(reason: str) -> None:
        with one:
            if not gone.is_set():
                gone.set()
                lost(reason)

    renewal = threading.Thread(target=renew, daemon=True)
    renewal.start()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        renewal.join(RENEWAL_S)
        if not (gone.is_set() or renewal.is_alive()):
            # An error of the store must not hide an error of the body; the lease will expire.
            with contextlib.suppress(Exception):
                write_json(mine, lease | {"released": True})
