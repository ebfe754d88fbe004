"""Run directories on object stores: paths, error messages, and local copies.

For ``s3://`` and ``gs://``, `located` loads fsspec and returns an `upath.UPath`, which has the
methods of `Path`.
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
"""Number of local copies that stay for one folder, e.g. of published adapters."""
# Listings are not cached, since other processes write too. botocore and fsspec retry a few times.
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
    """The path that a text names, local or on an object store.

    Raises:
        ConfigError: the store is unknown, the bucket or folder is missing, or a package is missing.
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

    # The package logs retries with tracebacks; `explain` reports the final error.
    logging.getLogger(package).setLevel(logging.CRITICAL)
    path: Any = UPath(f"{scheme}://{bucket}/{prefix}", **options)
    return path


def expanded(text: str) -> str:
    """A user's path with ``~`` expanded; raises `ValueError` if that home folder is unknown."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(
            f"{path.split('/')[0]} of {text} is not a home folder of this machine; write the path "
            f"out, or ./{text} for a folder of that name"
        )
    return path


def is_remote(path: Path) -> bool:
    """Whether a path lies on an object store."""
    return not isinstance(path, Path)


def files(folder: Any) -> dict[str, dict[str, Any]]:
    """``bytes`` and ``etag`` of each object below a remote folder, by relative name."""
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
    """Upload a local file, atomically."""
    with explained(path):
        path.fs.put_file(str(source), path.path)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of an object store into an `ArtifactError` that names the path."""
    try:
        yield
    except MiniRecError:
        raise
    except Exception as error:
        if disk_full := full(error, tempfile.gettempdir()):
            raise disk_full from error
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
            f"{where}: the store denies access ({text}); give these credentials the right to read, "
            f"write, list and delete there, and run the same command again"
        )
    known = (OSError, TimeoutError)
    if isinstance(error, known) or type(error).__module__.split(".")[0] in _LIBRARIES:
        return (
            f"{where}: the store failed ({kind}: {text}); run the same command again, which "
            f"continues from the finished work"
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
    """The place for the local copy of a version of a remote path, see `prune`."""
    beside = hashlib.sha256(str(group).encode()).hexdigest()[:16]
    return cache() / beside / f"{path.name}-{version}"


def local_file(path: Any, check: Callable[[Path], object]) -> Path:
    """A local copy of an object's current version; a local path is returned unchanged.

    A copy that does not pass `check` is replaced. If the new copy does not pass either, the error
    of `check` is raised.
    """
    if not is_remote(path):
        return path
    with explained(path):
        info = path.fs.info(path.path)
    etag = str(info.get("ETag") or info.get("etag") or info["size"]).strip('"')
    version = hashlib.sha256(etag.encode()).hexdigest()[:16]
    copy = place_of_copy(path, version, group=path)
    intact = False
    with contextlib.suppress(DamageError):
        if copy.exists():
            check(copy)
            intact = True
    if not intact:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".") as work:
            download(path.parent, [path.name], Path(work))
            os.replace(Path(work) / path.name, copy)
        check(copy)
    prune(copy)
    return copy


def prune(copy: Path) -> None:
    """Mark a copy as used, and delete all but the `KEPT` newest in its folder."""
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
