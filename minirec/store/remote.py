"""Run directories on object stores: paths, messages for their errors, and local copies.

`located` returns an `upath.UPath` for ``s3://`` and ``gs://``, which has the methods of `Path`.
fsspec and its file systems are loaded only then.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minirec.errors import ArtifactError, ConfigError, DamageError, MiniRecError
from minirec.store.disk import full

KEPT = 2
"""Local copies of the children of one folder, e.g. of published adapters."""
# Listings are not cached, since other processes write too. botocore and fsspec retry a few times
# where a store does not answer.
STORES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "s3": (
        "s3fs",
        "s3",
        {
            "use_listings_cache": False,
            "config_kwargs": {
                "connect_timeout": 10,
                "read_timeout": 60,
                "retries": {"max_attempts": 3, "mode": "standard"},
            },
        },
    ),
    "gs": ("gcsfs", "gcs", {"use_listings_cache": False, "requests_timeout": 60}),
}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or a role",
}


def located(text: str | Path) -> Path:
    """The path that a setting or a spec names: local, or on an object store.

    Raises:
        ConfigError: an unknown kind of store, no bucket or no prefix, or a package is missing.
    """
    if not isinstance(text, str) or "://" not in text:
        return Path(text) if isinstance(text, str) else text
    scheme, _, rest = text.partition("://")
    if scheme not in STORES:
        raise ConfigError(f"{text}: {scheme}:// is not known; give a folder, s3:// or gs://")
    bucket, _, prefix = rest.strip("/").partition("/")
    if not (bucket and prefix):
        raise ConfigError(f"{text} names no folder in a bucket; write {scheme}://bucket/folder")
    package, extra, options = STORES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{scheme}:// needs the package {package}; install it with `pip install "
            f"'minirec[{extra}]'` on every machine"
        )
    from upath import UPath

    # It logs its retries with tracebacks; the final error gets a message of its own.
    logging.getLogger(package).setLevel(logging.CRITICAL)
    path: Any = UPath(f"{scheme}://{bucket}/{prefix}", **options)
    return path


def expanded(text: str) -> str:
    """A user's path with the home folder for a leading ``~``; an address stays as it is.

    Raises:
        ValueError: there is no such home folder.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(
            f"{path.split('/')[0]} of {text} is no home folder of this machine; write the path "
            f"out, or ./{text} for a folder of that name"
        )
    return path


def is_remote(path: Path) -> bool:
    """Whether a path lies on an object store."""
    return not isinstance(path, Path)


def files(folder: Any) -> dict[str, dict[str, Any]]:
    """``bytes`` and ``etag`` of each object below a remote folder, by its name there."""
    root = folder.path.rstrip("/")
    found = folder.fs.find(root, detail=True)
    return {
        name.removeprefix(root).lstrip("/"): {
            "bytes": info["size"],
            "etag": str(info.get("ETag") or info.get("etag") or "").strip('"'),
        }
        for name, info in found.items()
        if not name.endswith("/")
    }


def upload(source: str | Path, path: Any) -> None:
    """Upload a finished local file; the object appears whole."""
    with explained(path):
        path.fs.put_file(str(source), path.path)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of a store into an `ArtifactError` that names the path."""
    try:
        yield
    except MiniRecError:
        raise
    except Exception as error:
        if at_home := full(error, tempfile.gettempdir()):
            raise at_home from error  # the disk of this machine, which holds copies
        problem = explain(error, str(path)) if is_remote(path) else None
        if problem is None:
            raise
        raise ArtifactError(problem) from error


def explain(error: BaseException, where: str) -> str | None:
    """One sentence for an error of an object store; None for any other error."""
    scheme, _, rest = where.partition("://")
    if scheme not in STORES:
        return None
    kind, text = type(error).__name__, " ".join(str(error).split())
    if "Credential" in kind or "credential" in text.lower():
        return f"{where}: no valid credentials ({text}); give {CREDENTIALS[scheme]}"
    if isinstance(error, FileNotFoundError) and "bucket" in text.lower():
        return (
            f"{where}: the bucket {rest.split('/')[0]} does not exist; create it or correct run_dir"
        )
    if isinstance(error, PermissionError):
        return (
            f"{where}: the store refuses it ({text}); give these credentials the right to read, "
            f"write, list and delete there, and run the same command again"
        )
    known = (OSError, TimeoutError)
    if isinstance(error, known) or type(error).__module__.split(".")[0] in _LIBRARIES:
        return (
            f"{where}: the store failed ({kind}: {text}); what is finished there stays, the same "
            f"command goes on from it"
        )
    return None


_LIBRARIES = {"botocore", "aiobotocore", "s3fs", "gcsfs", "fsspec", "google", "aiohttp"}


def cache() -> Path:
    """This machine's folder for local copies: MINIREC_CACHE, or one in the temporary folder."""
    default = Path(tempfile.gettempdir()) / f"minirec-cache-{os.getuid()}"
    folder = Path(os.environ.get("MINIREC_CACHE") or default).expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ArtifactError(f"{folder} belongs to another user; set MINIREC_CACHE to a folder")
    return folder


def download(folder: Any, names: list[str], into: Path) -> None:
    """Copy objects below a remote folder into a local one."""
    with explained(folder):
        for name in names:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.fs.get_file((folder / name).path, str(target))


def place_of_copy(path: Any, version: str, *, group: Any) -> Path:
    """Where the local copy of a version of a remote path goes; `KEPT` copies of a group stay."""
    beside = hashlib.sha256(str(group).encode()).hexdigest()[:16]
    return cache() / beside / f"{path.name}-{version}"


def local_file(path: Any, check: Callable[[Path], object]) -> Path:
    """A copy on this machine of an object's current version; a local file is returned as it is.

    A copy that does not pass `check` is replaced by a new one.

    Raises:
        ArtifactError: from `check`, if the object in the store does not pass it.
    """
    if not is_remote(path):
        return path
    with explained(path):
        info = path.fs.info(path.path)
    etag = str(info.get("ETag") or info.get("etag") or info["size"]).strip('"')
    version = hashlib.sha256(etag.encode()).hexdigest()[:16]
    copy = place_of_copy(path, version, group=path)
    if not _passes(copy, check):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".") as work:
            download(path.parent, [path.name], Path(work))
            os.replace(Path(work) / path.name, copy)
        check(copy)
    prune(copy)
    return copy


def _passes(copy: Path, check: Callable[[Path], object]) -> bool:
    if not copy.exists():
        return False
    with contextlib.suppress(DamageError):
        check(copy)
        return True
    return False


def prune(copy: Path) -> None:
    """Remove the oldest siblings of a copy that was just used, so that `KEPT` stay."""
    os.utime(copy)
    ages = {}
    for path in copy.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes as well
            if not path.name.startswith("."):
                ages[path] = path.stat().st_mtime_ns
    for path in sorted(ages, key=lambda p: ages[p])[:-KEPT]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
