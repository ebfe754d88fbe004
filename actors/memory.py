"""What a long-lived process holds without need."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Give free memory back to the system.

    Batches of ever other lengths leave holes that glibc keeps: hundreds of MiB in an hour
    (docs/scaling.md). It takes some 30 ms.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # other C libraries have none
        libc.malloc_trim(0)
