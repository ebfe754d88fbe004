"""Turns the errors of a full disk, from any library, into a `DiskError`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from minirec.errors import DiskError, MiniRecError

FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "has used up your quota"}
WORDS = {os.strerror(number): number for number in FULL}
"""The system's words for these errors; safetensors and others report only these words."""


@contextlib.contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk into a `DiskError` that names the written file, `path`."""
    try:
        yield
    except MiniRecError:
        raise
    except Exception as error:
        if problem := full(error, path):
            raise problem from error
        raise


def full(error: BaseException, path: str | Path) -> DiskError | None:
    """A `DiskError` if a disk was full, else None; `path` is used if the error names no file."""
    number = error.errno if isinstance(error, OSError) else None
    if number not in FULL:
        number = next((code for words, code in WORDS.items() if words in str(error)), None)
    if number is None:
        return None
    # The error of a copy has its target in `filename2`.
    file = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
    return DiskError(
        f"the disk of {file} {FULL[number]}; free some space there and run the same command "
        f"again, which resumes the work"
    )
