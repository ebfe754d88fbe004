"""Files and directories that appear whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from minirec.errors import ArtifactError

T = TypeVar("T")
R = TypeVar("R")
THREADS = 8
MANIFEST = "manifest.json"
"""Lists the files of a directory; written last, so that it stands for a whole directory."""
AGAIN = "run the stage that makes it once more, which replaces what is damaged"
Files = dict[str, dict[str, Any]]
"""``bytes`` and ``sha256`` of each file, by its path below a folder."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` whole on success and not at all on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Fill a directory that appears at `path` whole on success; a former one is replaced.

    It gets a manifest, see `write_manifest`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    work.chmod(0o755)
    try:
        yield work
        write_manifest(work)
        remove(path)
        os.replace(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Delete a file or a directory with all that is in it; nothing if it is not there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as file:
        file.write(json.dumps(value, indent=2, sort_keys=True, default=str).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read JSON; an `ArtifactError` names the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run the stage that makes it") from None
    except ValueError:
        raise ArtifactError(f"{path} is not JSON; delete it and run the command again") from None


def digest(value: Any) -> str:
    """Hash of a JSON value, stable across processes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object atomically, with its own digest."""
    write_json(path, {**record, "digest": digest(record)})


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote, without the digest; one of a former version has none.

    Raises:
        ArtifactError: the file is missing, is no JSON object, or has another digest.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.pop("digest", None) not in (None, digest(record)):
        raise ArtifactError(f"{path} is damaged: its digest is that of another content; {AGAIN}")
    return record


def file_entry(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": found}


def file_entries(path: Path, *, below: Path) -> Files:
    """Entries of a file, or of all files in a directory, by their paths below `below`."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    names = [file.relative_to(below).as_posix() for file in files]
    return dict(zip(names, in_threads(file_entry, files), strict=True))


def in_threads(function: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """Results in order; reading and hashing leave Python's lock to others."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(function, values))


def difference(path: Path, entry: dict[str, Any]) -> str | None:
    """What sets a file apart from its entry: first its size, then its hash; None if nothing."""
    if not path.is_file():
        return f"{path} is gone"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path} is damaged: it has {size:,} bytes, {entry['bytes']:,} were written"
    found = file_entry(path)["sha256"]
    if found != entry["sha256"]:
        return (
            f"{path} is damaged: its sha256 is {found[:12]}..., "
            f"{entry['sha256'][:12]}... was written"
        )
    return None


def write_manifest(folder: Path) -> None:
    """List the files of a directory with bytes and sha256 in its ``manifest.json``."""
    write_record(folder / MANIFEST, {"files": file_entries(folder, below=folder)})


def check_folder(folder: Path) -> None:
    """Compare a directory with its manifest, if it has one; one of a former version has none.

    Raises:
        ArtifactError: the directory is missing, or a file of it is gone or damaged.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is missing; run the stage that makes it")
    if not (folder / MANIFEST).exists():
        return
    entries = read_record(folder / MANIFEST)["files"]
    found = in_threads(lambda item: difference(folder / item[0], item[1]), entries.items())
    for problem in filter(None, found):
        raise ArtifactError(f"{problem}; {AGAIN}")


def intact(path: Path, check: Callable[[Path], object], *, say: Callable[[str], None]) -> bool:
    """Whether `path` is there and passes its check; what does not is said and removed."""
    if not path.exists():
        return False
    try:
        check(path)
    except ArtifactError as error:
        say(f"{error}".partition(";")[0] + "; it is made again")
        remove(path)
        return False
    return True
