"""Writes files and directories atomically, and checks them against their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from minirec.errors import ArtifactError, DamageError, MiniRecError
from minirec.store import disk, remote

T = TypeVar("T")
R = TypeVar("R")
THREADS = 8
MANIFEST = "manifest.json"
"""Lists the files of a directory. It is written last, so a directory with it is complete."""
AGAIN = "run the stage that makes it again; it replaces damaged files"
Files = dict[str, dict[str, Any]]
"""``bytes`` and ``sha256`` of each file by its path below a folder."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` (or uploaded there) only on success."""
    far = remote.is_remote(path)
    with disk.named(tempfile.gettempdir() if far else path):
        if not far:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=None if far else path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                if not far:
                    os.fsync(file.fileno())
            if far:
                remote.upload(name, path)
            else:
                os.chmod(name, 0o644)
                os.replace(name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Fill a temporary directory that gets a manifest and replaces `path` only on success.

    On an object store the old manifest is deleted first and the new one is written last, since
    readers accept no directory without a manifest.
    """
    far = remote.is_remote(path)
    with disk.named(tempfile.gettempdir() if far else path):
        if not far:
            path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=None if far else path.parent, prefix=f".{path.name}."))
        work.chmod(0o755)
        try:
            yield work
            if far:
                remove(path)
                write_manifest(path, publish(work, path))
            else:
                write_manifest(work, _listed(work))
                if path.is_dir():
                    # The old directory is deleted last, since this takes longer than two renames.
                    before = _aside(path)
                    os.replace(work, path)
                    shutil.rmtree(before)
                else:
                    remove(path)
                    os.replace(work, path)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def publish(work: Path, folder: Path) -> Files:
    """Copy the files of a local directory into a folder that other processes also fill.

    Returns their entries for `write_manifest`, which completes the folder.
    """
    entries = _listed(work)
    for name in entries:
        if remote.is_remote(folder):
            remote.upload(work / name, folder / name)
        else:
            with atomic(folder / name) as file, (work / name).open("rb") as source:
                shutil.copyfileobj(source, file)
    return entries


def _listed(folder: Path) -> Files:
    """Entries of all files of a directory except the manifest."""
    files = file_entries(folder, below=folder)
    files.pop(MANIFEST, None)
    return files


def remove(path: Path) -> None:
    """Delete a file or a directory, if it exists.

    A local directory is first renamed to a hidden name, so that no partial directory remains.
    """
    if remote.is_remote(path):
        far: Any = path
        with remote.explained(path):
            (far / MANIFEST).unlink(missing_ok=True)
            if far.exists():
                far.fs.rm(far.path, recursive=True)
    elif path.is_dir():
        shutil.rmtree(_aside(path))
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """Rename a local directory to a hidden name, which is returned."""
    hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        os.replace(path, hidden)
    return hidden


HIDDEN = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names that `tempfile` makes with the prefix ``.NAME.``."""


def remove_leftovers(path: Path) -> None:
    """Delete hidden files that killed writers of `path`, or of files in it, left behind.

    No writer may be active there. An object store has no such files.
    """
    if remote.is_remote(path) or not path.parent.is_dir():
        return
    beside = [p for p in path.parent.iterdir() if p.name.startswith(f".{path.name}.")]
    for found in [*beside, *path.rglob(".*")]:
        if HIDDEN.fullmatch(found.name):
            shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)


def append(path: Path, line: str) -> None:
    """Add a line to a file that only the holder of the run directory writes.

    If the last line lacks its line break, because its writer was killed, it gets one first.
    """
    if remote.is_remote(path):
        before = path.read_bytes() if path.exists() else b""
        with atomic(path) as file:
            file.write(before + _break(before[-1:]) + line.encode())
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as end:
            end.seek(max(0, end.tell() - 1))
            end.write(_break(end.read(1)) + line.encode())


def _break(last: bytes) -> bytes:
    return b"" if last in (b"", b"\n") else b"\n"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as file:
        file.write(_json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, default=str).encode() + b"\n"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of reading a file into an `ArtifactError` (missing file: `DamageError`)."""
    try:
        yield
    except MiniRecError:
        raise
    except FileNotFoundError:
        raise DamageError(f"{path} is missing; run the stage that makes it") from None
    except Exception as error:
        if remote.is_remote(path):
            problem = remote.explain(error, str(path))
        elif isinstance(error, OSError) and error.errno is not None:
            problem = (
                f"{path} cannot be read ({os.strerror(error.errno)}); fix that and run the same "
                f"command again, or delete the file so that the command makes it again"
            )
        else:
            problem = None
        if problem is None:
            raise
        raise ArtifactError(problem) from error


def read_json(path: Path) -> Any:
    """Read JSON; raises `ArtifactError` if the file is missing or damaged."""
    try:
        with reading(path):
            return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DamageError(f"{path} is not JSON; delete it and run the command again") from None


def digest(value: Any) -> str:
    """Hash of a JSON value, stable across processes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object atomically, with its own digest."""
    write_json(path, {**record, "digest": digest(record)})


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote, without the digest.

    Raises:
        ArtifactError: the file is missing, is not a record, or its digest differs.
    """
    record = read_json(path)
    # Compare the bytes too: damage to the key "digest" itself would hide the digest.
    whole = isinstance(record, dict) and path.read_bytes() == _json(record)
    if not whole or record.pop("digest", None) != digest(record):
        raise DamageError(f"{path} is damaged: its digest is missing or does not match; {AGAIN}")
    return record


def file_entry(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file."""
    with reading(path), path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": found}


def file_entries(path: Path, *, below: Path) -> Files:
    """Entries of a file, or of all files in a directory, by their paths below `below`.

    Hidden files are left out, since they are temporary. Entries of an object store also have an
    ``etag``, which identifies the version of an object.
    """
    if remote.is_remote(path):
        base = str(path)[len(str(below)) + 1 :]
        found = remote.files(path).items()
        listed = {f"{base}/{n}" if n else base: info for n, info in found if not _hidden(n)}
        sums = in_threads(lambda name: file_entry(below / name), listed)
        return {n: listed[n] | entry for n, entry in zip(listed, sums, strict=True)}
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [p for p in paths if p.is_file() and not _hidden(p.relative_to(path).as_posix())]
    names = [file.relative_to(below).as_posix() for file in files]
    return dict(zip(names, in_threads(file_entry, files), strict=True))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def in_threads(function: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """Results in order; reading and hashing run in parallel, since they release the GIL."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(function, values))


def differences(below: Path, files: Files) -> dict[str, str]:
    """How files differ from their entries, by name: missing, another size, or another hash.

    On an object store, an object is read only if its etag differs, as in a copy of the run.
    """
    far = remote.is_remote(below)
    listed = remote.files(below) if far and files else {}

    def problem(name: str) -> str | None:
        path, entry = below / name, files[name]
        if name not in listed if far else not path.is_file():
            return f"{path} is gone"
        size = listed[name]["bytes"] if far else path.stat().st_size
        if size != entry["bytes"]:
            return f"{path} is damaged: it has {size:,} bytes, {entry['bytes']:,} were written"
        if far and listed[name]["etag"] and listed[name]["etag"] == entry.get("etag"):
            return None
        found = file_entry(path)["sha256"]
        if found == entry["sha256"]:
            return None
        return (
            f"{path} is damaged: its sha256 is {found[:12]}..., "
            f"{entry['sha256'][:12]}... was written"
        )

    return {n: text for n, text in zip(files, in_threads(problem, files), strict=True) if text}


def write_manifest(folder: Path, files: Files) -> None:
    """Write the manifest of a directory, which marks it as complete."""
    write_record(folder / MANIFEST, {"files": files})


def manifest(folder: Path) -> Files | None:
    """The entries in the manifest of a directory, None without one; raises if it is damaged.

    A user's folder, such as a model, may have another kind of ``manifest.json``.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not record.keys() & {"digest", "files"}:
        return None
    files: Files = read_record(path)["files"]
    return files


def check_folder(folder: Path) -> None:
    """Compare a directory with its manifest; a user's local directory may have none.

    Raises:
        ArtifactError: the directory is missing or incomplete, or one of its files is damaged.
    """
    if remote.is_remote(folder) or manifest(folder) is not None or not folder.is_dir():
        check_published(folder)


def check_published(folder: Path) -> None:
    """As `check_folder`, for a directory that is incomplete without its manifest."""
    files = manifest(folder)
    if files is None:
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is missing; run the stage that makes it")
        raise DamageError(f"{folder} is not complete: it has no {MANIFEST}; {AGAIN}")
    for problem in differences(folder, files).values():
        raise DamageError(f"{problem}; {AGAIN}")


def fetch(text: str) -> str:
    """A local path for libraries that need a real folder.

    Args:
        text: a local folder, which is checked if it has a manifest; a folder on an object store,
            which is copied to this machine and checked, once for each manifest; or another text,
            such as the name of a model, which is returned unchanged.

    Raises:
        ArtifactError: the folder is incomplete or damaged.
    """
    if "://" not in text:
        if (Path(text) / MANIFEST).exists():
            check_folder(Path(text))
        return text
    folder = remote.located(text)
    files = manifest(folder)
    if files is None:
        raise ArtifactError(f"{folder} is missing or not complete; run the stage that makes it")
    copy = remote.place_of_copy(folder, digest(files), group=folder.parent)
    if not intact(copy, check_published, say=lambda line: None):
        copy.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=copy.parent, prefix="."))
        try:
            remote.download(folder, [*files, MANIFEST], work)
            check_published(work)
            with contextlib.suppress(FileExistsError, OSError):  # another process was faster
                os.rename(work, copy)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    remote.prune(copy)
    return str(copy)


def intact(path: Path, check: Callable[[Path], object], *, say: Callable[[str], None]) -> bool:
    """Whether `path` exists and passes its check; damage is reported and the path is removed.

    Raises:
        ArtifactError: the path cannot be read, so it may be undamaged.
    """
    if not path.exists():
        return False
    try:
        check(path)
    except DamageError as error:
        say(f"{error}".partition(";")[0] + "; it is made again")
        remove(path)
        return False
    return True
