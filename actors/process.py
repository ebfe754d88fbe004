"""What a process of a worker needs: a deadline for what it does, and its free memory given back."""

from __future__ import annotations

import ctypes
import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End the process, with a dump of where it hangs, unless the block ends within `seconds`.

    Deadlines cannot be nested: a process has one such clock.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def trim() -> None:
    """Return free memory to the system; it takes about 30 ms.

    Batches of many different lengths fragment the heap: glibc keeps hundreds of MiB after an hour
    (docs/lab/scaling.md).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only glibc has it
        libc.malloc_trim(0)
