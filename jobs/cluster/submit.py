"""`minirec submit`: send a command to a Ray cluster as a job, through Ray's own client.

The job runs on a copy of the working directory, so what it writes there is lost: a run directory
must lie on storage that all nodes share. Of the variables of this shell the job gets only those
that are named.
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
EXCLUDES = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "build",
    "/data",
    "/runs",
)
"""Patterns, as in a .gitignore, of what a job does not need, besides those of the ignore files."""

SILENCE_S = 60.0  # after this time without an answer of the job server the command gives up
LIMIT_MIB = 100  # the largest folder that Ray's job server takes
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a job


class JobError(MiniRecError):
    """The job server does not answer, or refuses."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at the dashboard's address, such as ``http://127.0.0.1:8265``.

    Raises:
        JobError: nothing answers there in time, or the token is missing or wrong.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's client with a timeout: without one it waits for ever for a silent server."""

        def _do_request(self, *arguments: Any, **settings: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": SILENCE_S, **settings})

    with _explained(address, "give the dashboard's address, and forward its port first"):
        return Client(address)


@contextmanager
def _explained(address: str, remedy: str) -> Iterator[None]:
    """Turn what Ray's client raises into a `JobError` of one sentence, which ends in `remedy`."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise JobError(
            f"{address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
            f"RAY_AUTH_TOKEN_PATH to that of the cluster (`ray get-auth-token` there prints it)"
        ) from None
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        # From requests, aiohttp, and the client itself, which raises one for an answer such as 404.
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
        parse: see `check_command`.
        address: the dashboard's address.
        working_dir: folder that is copied to the nodes, less `EXCLUDES`. If it holds the code of
            this project, driver and workers run that; else both run what is installed.
        variables: names of variables of this process that the job gets, such as ``HF_TOKEN``.
            Whoever may open the dashboard can read their values.

    Raises:
        ConfigError: settings that cannot work, a relative run_dir, a variable that is not set.
        JobError: the server does not answer, or the folder is too large.
    """
    folder = Path(working_dir)
    check_command(words, folder, parse=parse)
    unset = [name for name in variables if name not in os.environ]
    if unset:
        raise ConfigError(f"--env {unset[0]}: there is no such variable here; set it first")
    check_size(folder)
    client = connect(address)
    with _explained(
        address, f"see with `ray job list --address {address}` whether the job is there"
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
    """Refuse here, before anything is sent, what the job would refuse.

    Args:
        parse: `jobs.arguments.parse`, which this module must not import.

    Raises:
        ConfigError: no command, settings that cannot work, or a path that a job would not find.
    """

    if not words:
        raise ConfigError("there is nothing to submit; write the command after --, e.g. -- run")
    for word in words:
        if re.match(r"([\w.]+=|--\w+=)?~\w*(/|$)", word):
            raise ConfigError(
                f"{word}: the home folder of a job is that of another machine; give an absolute "
                f"path on storage that all nodes share"
            )
    arguments = parse(words)
    if arguments.command in ("recommend", "export", "serve"):
        check_path("--run", arguments.run)
        for option in ("users", "items", "out"):
            path = getattr(arguments, option, None)
            copied = path and option != "out" and (working_dir / path).is_file()
            if path and not copied:
                check_local(f"--{option}", path, what=arguments.command)
    if hasattr(arguments, "overrides"):
        _check_settings(arguments, working_dir)


def _check_settings(arguments: argparse.Namespace, working_dir: Path) -> None:
    """`check_command` for a command that takes settings."""
    from minirec.config.reading import check_keys, load

    file = arguments.config
    if file and (Path(file).is_absolute() or not (working_dir / file).is_file()):
        raise ConfigError(
            f"--config {file} is no file of the working directory {working_dir}, the only folder "
            f"that the job sees; give a path inside it"
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
    """Refuse a folder that would be lost with the job's copy of the working directory.

    Raises:
        ConfigError: `run_dir` is relative, or `corpus.path` where a download goes to.
    """
    check_path("run_dir", config.run_dir)
    if config.corpus.download and config.corpus.path:
        check_path("corpus.path", config.corpus.path)


def check_table(features: str, out: str | None) -> None:
    """Refuse what `select --features` would not find in a job, or would lose with it.

    Raises:
        ConfigError: the table or the folder for the result is no absolute path.
    """
    check_local("--features", features, what="select --features")
    check_local("--out", out or ".", what="select --features")


def check_local(name: str, path: str, *, what: str) -> None:
    """Raise ConfigError unless the path is that of a file or folder on storage of all nodes."""
    if "://" in path:
        raise ConfigError(
            f"{name} {path}: {what} works on files, not on an object store; give an absolute path "
            f"on storage that all nodes share"
        )
    check_path(name, path, other="")


def check_path(name: str, path: str, *, other: str = ", or s3://...") -> None:
    """Raise ConfigError unless the path means the same on all nodes."""
    if not os.path.isabs(path) and "://" not in path:
        raise ConfigError(
            f"{name}={path} is relative: in a job it would lie in a copy of the working directory "
            f"and be lost; give an absolute path on storage that all nodes share{other}"
        )


def in_job() -> bool:
    """Whether this process is the driver of a submitted job."""
    return JOB_CONFIG in os.environ


def check_size(folder: Path, *, limit_mib: float = LIMIT_MIB) -> None:
    """Refuse a folder that Ray would refuse after packing it.

    Raises:
        JobError: with its size and its largest entries; files are counted as they are, packed
            they may be smaller.
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
            f"{folder.absolute()} has {total:.0f} MiB and Ray takes {limit_mib:g} ({named}); name "
            f"what the job does not need in {folder / '.rayignore'}, or give another --working-dir"
        )


def _packed(folder: Path) -> Iterator[Path]:
    """The files that Ray packs: those that neither `EXCLUDES` nor the ignore files name."""
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
    """The ``status`` or the ``logs`` of a job, or ``stop`` it, which gives its status.

    Raises:
        JobError: the server does not answer, or knows no such job.
    """
    client = connect(address)
    with _explained(address, f"`ray job list --address {address}` names the jobs"):
        if what == "stop":
            client.stop_job(job)
        return client.get_job_logs(job) if what == "logs" else str(client.get_job_status(job))


def follow(job: str, *, address: str, say: Callable[[str], None]) -> bool:
    """Pass on what the job prints until it ends; whether it succeeded.

    Raises:
        JobError: the log has ended and the job has not: the connection was lost, say.
    """
    client = connect(address)
    on = f"see how it goes on with `minirec submit --address {address} --status|--logs {job}`"

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            say(text)

    with _explained(address, f"this ends only the view of job {job}; {on}"):
        asyncio.run(tail())
        status = client.get_job_status(job)
    if not status.is_terminal():
        raise JobError(f"the log of job {job} has ended, but the job is {status}; {on}")
    return status == "SUCCEEDED"
