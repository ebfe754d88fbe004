"""`minirec submit`: sends a command to a Ray cluster as a job, through Ray's own client.

The job runs on a copy of the working directory, and files that it writes there are lost. So a run
directory must be on storage that all nodes share. The job gets only named variables of this shell.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirec.config.run import Config
from minirec.errors import ConfigError, MiniRecError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Parse = Callable[[list[str]], argparse.Namespace]
# Files that a job does not need, as in a .gitignore, in addition to those of the ignore files.
EXCLUDES = (
    *(".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build"),
    *("/data", "/runs"),
)
SILENCE_S = 60.0  # longest time without an answer of the job server
LIMIT_MIB = 100  # the largest folder that Ray's job server accepts
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a job


class JobError(MiniRecError):
    """The job server does not answer, or refuses."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at the dashboard's address, such as ``http://127.0.0.1:8265``.

    Raises:
        JobError: nothing answers in time, or the token is missing or wrong.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's client with a timeout; without one it waits forever for a silent server."""

        def _do_request(self, *arguments: Any, **settings: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": SILENCE_S, **settings})

    with _explained(address, "give the dashboard's address, and forward its port first"):
        return Client(address)


@contextmanager
def _explained(address: str, remedy: str) -> Iterator[None]:
    """Turn exceptions of Ray's client into a `JobError` of one line that ends with `remedy`."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise JobError(
            f"{address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
            f"RAY_AUTH_TOKEN_PATH to the token that `ray get-auth-token` prints on the cluster"
        ) from None
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        # From requests, aiohttp, and the client itself, which raises for an answer such as 404.
        cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise JobError(f"job server at {address}: {cause}; {remedy} (docs/cluster.md)") from None


def submit(
    words: list[str],
    *,
    parse: Parse,
    address: str,
    working_dir: str | Path = ".",
    variables: tuple[str, ...] = (),
) -> str:
    """Send ``minirec WORDS`` to a cluster; returns the id of the job.

    Args:
        words: e.g. ``["run", "--config", "configs/demo.yaml", "run_dir=/shared/demo"]``.
        parse: `jobs.arguments.parse`, which this module must not import.
        address: the dashboard's address.
        working_dir: folder that is copied to the nodes without `EXCLUDES`. If it contains the code
            of this project, the job runs that code, otherwise the installed one.
        variables: names of environment variables to pass, such as ``HF_TOKEN``. Every user of the
            dashboard can read their values.

    Raises:
        ConfigError: wrong settings, a relative path, or a variable that is not set.
        JobError: the server does not answer, or the folder is too large.
    """
    folder = Path(working_dir)
    check_command(words, folder, parse=parse)
    unset = [name for name in variables if name not in os.environ]
    if unset:
        raise ConfigError(f"--env {unset[0]}: the variable is not set; set it first")
    check_size(folder)
    client = connect(address)
    with _explained(
        address, f"check with `ray job list --address {address}` whether the job was sent"
    ):
        return client.submit_job(
            entrypoint=shlex.join(["minirec", *words]),
            runtime_env={
                "working_dir": str(folder),
                "excludes": list(EXCLUDES),
                "env_vars": {name: os.environ[name] for name in variables},
            },
        )


def check_command(words: list[str], working_dir: Path, *, parse: Parse) -> None:
    """Raise ConfigError here, before anything is sent, for a command that the job would refuse."""
    if not words:
        raise ConfigError("there is nothing to submit; write the command after --, e.g. -- run")
    for word in words:
        if re.match(r"([\w.]+=|--\w+=)?~\w*(/|$)", word):
            raise ConfigError(
                f"{word}: in a job, ~ is the home folder on another machine; give an absolute "
                f"path on storage that all nodes share"
            )
    arguments = parse(words)
    if arguments.command in ("recommend", "refresh", "export", "serve"):
        check_path("--run", arguments.run)
        for option in ("users", "items", "out"):
            path = getattr(arguments, option, None)
            copied = path and option != "out" and (working_dir / path).is_file()
            if path and not copied:
                check_local(f"--{option}", path, what=arguments.command)
        for path in getattr(arguments, "events", []):
            if not (working_dir / path).is_file():
                check_local("--events", path, what=arguments.command)
    if hasattr(arguments, "overrides"):
        _check_settings(arguments, working_dir)


def _check_settings(arguments: argparse.Namespace, working_dir: Path) -> None:
    from minirec.config.reading import check_keys, load

    file = arguments.config
    if file and (Path(file).is_absolute() or not (working_dir / file).is_file()):
        raise ConfigError(
            f"--config {file} is not a file in the working directory {working_dir}, the only "
            f"folder that the job can read; give a path inside it"
        )
    given = dict(word.split("=", 1) for word in arguments.overrides if "=" in word)
    if getattr(arguments, "features", None) is not None:
        check_table(arguments.features, arguments.out)
    elif not file and "run_dir" in given:
        check_keys(arguments.overrides)
        check_path("run_dir", given["run_dir"])  # the job reads its config.yaml there
    else:
        check_shared(load(working_dir / file if file else None, arguments.overrides))


def check_shared(config: Config) -> None:
    """Raise ConfigError if `run_dir`, or `corpus.path` for a download, is relative."""
    check_path("run_dir", config.run_dir)
    if config.corpus.download and config.corpus.path:
        check_path("corpus.path", config.corpus.path)


def check_table(features: str, out: str | None) -> None:
    """Raise ConfigError if the files of `select --features` are not on shared storage."""
    check_local("--features", features, what="select --features")
    check_local("--out", out or ".", what="select --features")


def check_local(name: str, path: str, *, what: str) -> None:
    """Raise ConfigError unless the path is absolute and not on an object store."""
    if "://" in path:
        raise ConfigError(
            f"{name} {path}: {what} works on files, not on an object store; give an absolute path "
            f"on storage that all nodes share"
        )
    check_path(name, path, other="")


def check_path(name: str, path: str, *, other: str = ", or s3://...") -> None:
    """Raise ConfigError if the path is relative."""
    if not os.path.isabs(path) and "://" not in path:
        raise ConfigError(
            f"{name}={path} is relative: in a job it would be in a copy of the working directory, "
            f"which is lost; give an absolute path on storage that all nodes share{other}"
        )


def in_job() -> bool:
    """Whether this process is the driver of a submitted job."""
    return JOB_CONFIG in os.environ


def check_size(folder: Path, *, limit_mib: float = LIMIT_MIB) -> None:
    """Raise JobError with the largest entries if Ray would refuse the folder as too large.

    It counts uncompressed sizes, so Ray's package may be smaller.
    """
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder} is not a directory; give a folder")
    sizes: dict[str, int] = {}
    for path in _packed(folder):
        top = path.relative_to(folder).parts[0]
        sizes[top] = sizes.get(top, 0) + path.stat().st_size
    total = sum(sizes.values()) / 2**20
    if total > limit_mib:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        named = ", ".join(f"{name} {sizes[name] / 2**20:.0f} MiB" for name in largest)
        raise JobError(
            f"{folder.absolute()} has {total:.0f} MiB, and Ray accepts {limit_mib:g} ({named}); "
            f"list files that the job does not need in {folder / '.rayignore'}, or give another "
            f"--working-dir"
        )


def _packed(folder: Path) -> Iterator[Path]:
    """The files that Ray packs: all that neither `EXCLUDES` nor the ignore files exclude."""
    from pathspec import GitIgnoreSpec

    lines = list(EXCLUDES)
    for name in (".gitignore", ".rayignore"):
        if (folder / name).is_file():
            lines += (folder / name).read_text().splitlines()
    spec = GitIgnoreSpec.from_lines(lines)

    def packed(path: Path, ending: str = "") -> bool:
        return not spec.match_file(path.relative_to(folder).as_posix() + ending)

    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if packed(here / name, "/")]
        yield from (
            here / name for name in files if packed(here / name) and (here / name).is_file()
        )


def ask(what: str, job: str, *, address: str) -> str:
    """The ``status`` or ``logs`` of a job; ``stop`` stops it and returns its status.

    Raises:
        JobError: the server does not answer, or does not know the job.
    """
    client = connect(address)
    with _explained(address, f"`ray job list --address {address}` lists the jobs"):
        if what == "stop":
            client.stop_job(job)
        return client.get_job_logs(job) if what == "logs" else str(client.get_job_status(job))


def follow(job: str, *, address: str, say: Callable[[str], None]) -> bool:
    """Pass the log of a job to `say` until the job ends; returns whether it succeeded.

    Raises:
        JobError: the log ended before the job, for example because the connection was lost.
    """
    client = connect(address)
    how = f"follow it with `minirec submit --address {address} --status|--logs {job}`"

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            say(text)

    with _explained(address, f"job {job} continues; {how}"):
        asyncio.run(tail())
        status = client.get_job_status(job)
    if not status.is_terminal():
        raise JobError(f"the log of job {job} has ended, but the job is {status}; {how}")
    return status == "SUCCEEDED"
