"""`minirec runs`: lists the run directories below a folder, and removes those that are named."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from jobs.console import console, say
from jobs.handover.recommend import REFRESHED
from jobs.progress import FILE
from jobs.run import STAGES
from jobs.watch.state import (
    State,
    costs_of,
    is_run,
    is_trial,
    progress_of,
    records,
    state_of,
)
from minirec.errors import ArtifactError, ConfigError, MiniRecError
from minirec.store import remote
from minirec.store.files import read_json, read_record, remove
from minirec.store.lease import held
from minirec.store.run import Run
from minirec.trials.trial import FOLDERS

DEPTH = 4
"""A run directory is looked for in this many levels of folders."""
OWN = {
    *(output for stage in STAGES for output in stage.outputs),
    *FOLDERS.values(),
    *(f"{name}.html" for name in FOLDERS.values()),
    *("config.yaml", "costs.jsonl", "stages", FILE, REFRESHED, "best.yaml"),
    *("tensorboard", "mlruns", "wandb"),
}
"""What the commands of a run write into its directory, besides names that begin with a dot."""
Listing = dict[str, tuple[int, float]]
"""Bytes and time of the last change of each file, by its path below a folder."""


@dataclass(frozen=True)
class Found:
    """A run directory. name: its path below the folder. size: bytes. changed: seconds since 1970,
    0 if unknown."""

    name: str
    root: Path
    state: State
    size: int
    changed: float
    corpus: str
    method: str
    ndcg: float | None
    rollouts: int
    seconds: float


def found_runs(folder: Path, *, now: float) -> list[Found]:
    """The run directories below a folder, or the folder itself if it is one, sorted by name."""
    if remote.is_remote(folder):
        listings = _remote_listings(folder)
    else:
        listings = _local_listings(folder)
    return [_found(folder, name, listing, now) for name, listing in sorted(listings.items())]


def _local_listings(folder: Path) -> dict[str, Listing]:
    """The files of each run directory; folders inside a run directory are not searched for runs."""
    found: dict[str, Listing] = {}
    level = [""]
    for _ in range(DEPTH + 1):
        below: list[str] = []
        for name in level:
            root = folder / name
            stages = _names(root / "stages")
            if is_run({f"stages/{stage}" for stage in stages}):
                found[name or "."] = _listing(root)
                continue
            with suppress(OSError), os.scandir(root) as entries:
                below += [
                    os.path.join(name, entry.name)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                ]
        level = below
    return found


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []


def _listing(root: Path) -> Listing:
    files: Listing = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(OSError):  # a running command replaces its files
                status = os.lstat(path)
                files[os.path.relpath(path, root)] = (status.st_size, status.st_mtime)
    return files


def _remote_listings(folder: Any) -> dict[str, Listing]:
    """As `_local_listings`, from one listing of the store."""
    names = {name: (info["bytes"], 0.0) for name, info in remote.files(folder).items()}
    roots: set[str] = set()
    candidates = {name.rpartition("stages/")[0].rstrip("/") for name in names if "stages/" in name}
    for root in sorted(candidates, key=len):
        inside = any(root == r or root.startswith(f"{r}/") or r == "" for r in roots)
        start = f"{root}/" if root else ""
        own = {name[len(start) :] for name in names if name.startswith(start)}
        if not inside and root.count("/") < DEPTH and is_run(own):
            roots.add(root)
    return {
        root or ".": {
            name[len(root) + 1 if root else 0 :]: entry
            for name, entry in names.items()
            if name.startswith(f"{root}/" if root else "")
        }
        for root in roots
    }


def _found(folder: Path, name: str, files: Listing, now: float) -> Found:
    root = folder if name == "." else folder / name
    run = Run(root, say=lambda line: None)
    state = state_of(files, progress_of(run), now=now, trial=is_trial(run))
    costs = costs_of(run)
    config = _config(run) if "config.yaml" in files else {}
    return Found(
        name=name,
        root=run.root,
        state=state,
        size=sum(size for size, _ in files.values()),
        changed=max((changed for _, changed in files.values()), default=0.0),
        corpus=_corpus(run, files, config),
        method=_method(files, config),
        ndcg=_ndcg(run) if "evaluation.json" in files else None,
        rollouts=sum(cost["rollouts"] for cost in costs),
        seconds=sum(cost["seconds"] for cost in costs),
    )


def _config(run: Run) -> dict[str, Any]:
    """The settings as they are in the file; they are not validated, since this takes long."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with suppress(OSError, yaml.YAMLError, ValueError):
        found = yaml.load(run.path("config.yaml").read_bytes(), Loader=loader)  # noqa: S506
        return found if isinstance(found, dict) else {}
    return {}


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _corpus(run: Run, files: Listing, config: dict[str, Any]) -> str:
    if "corpus/corpus.json" in files:
        with suppress(MiniRecError, TypeError, KeyError):
            return str(read_json(run.path("corpus", "corpus.json"))["category"])
    corpus = _part(config, "corpus")
    return str(corpus.get("category") or corpus.get("source") or "")


def _method(files: Listing, config: dict[str, Any]) -> str:
    for command, folder in FOLDERS.items():
        if any(name.startswith(f"{folder}/") for name in files):
            return command
    selection = _part(config, "selection")
    mode = selection.get("mode")
    return str((mode if mode == "live" else selection.get("method")) or "")


def _ndcg(run: Run) -> float | None:
    with suppress(MiniRecError, TypeError, KeyError, ValueError):
        policies = read_json(run.path("evaluation.json"))["policies"]
        return float(policies["trained"]["test"]["ndcg@10"]["mean"])
    return None


def print_runs(text: str) -> None:
    """List the run directories below a folder; `ConfigError` if it does not exist."""
    folder = _folder(text)
    with remote.explained(folder):
        found = found_runs(folder, now=time.time())
    if not found:
        say(f"{text} has no run directories in its upper {DEPTH} levels of folders")
        return
    table = Table("run", "state", "size", "corpus", "method", box=None, pad_edge=False)
    for head in ("NDCG@10*", "rollouts", "seconds", "age"):
        table.add_column(head, justify="right")
    table.columns[2].justify = "right"
    for column in table.columns:
        column.overflow = "fold"
    for one in found:
        table.add_row(
            Text(one.name, overflow="fold"),
            Text(_short(one.state), style="red" if one.state.bad else ""),
            _size(one.size),
            Text(one.corpus),
            one.method,
            "" if one.ndcg is None else f"{one.ndcg:.4f}",
            f"{one.rollouts:,}" if one.rollouts else "",
            f"{one.seconds:,.0f}",
            _age(one.changed),
        )
    console.print(table)
    total = sum(one.size for one in found)
    say(f"{len(found)} run{'s' if len(found) > 1 else ''} in {text}, {_size(total)}")
    if any(one.ndcg is not None for one in found):
        say("* of the trained policy on test")


def _short(state: State) -> str:
    if state.word in ("failed", "interrupted", "dead"):
        return f"{state.word} at {state.stage}"
    return state.text


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _age(changed: float) -> str:
    """How long ago, in one unit."""
    if not changed:
        return ""
    ago = max(0.0, time.time() - changed)
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if ago >= seconds:
            return f"{ago / seconds:.0f} {unit}"
    return f"{ago:.0f} s"


def _folder(text: str) -> Path:
    folder = remote.located(text)
    if not remote.is_remote(folder) and not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"the folder {text} {what}; give one that holds run directories")
    return folder


def remove_runs(
    text: str,
    names: Sequence[str],
    *,
    yes: bool,
    ask: Callable[[str], str] | None = None,
) -> int:
    """Remove the named run directories, after all names were checked; returns the exit status.

    Args:
        text: the folder of the names.
        names: as `print_runs` shows them, or paths.
        yes: do not ask.
        ask: asks the user; default: `input` in a terminal.

    Raises:
        ConfigError: a name is not a run directory, or lies in one; nothing was removed.
        ArtifactError: a command works in a run, or --yes is missing where nobody can be asked.
    """
    folder, now = _folder(text), time.time()
    with remote.explained(folder):
        chosen: dict[str, Found] = {}
        for name in names:
            one = _named(folder, name, now)
            chosen[str(one.root)] = one
        for one in chosen.values():
            say(f"{one.root}: {one.state.text}, {_size(one.size)}, {one.seconds:,.0f} s of work")
        if not yes:
            if ask is None and not (sys.stdin.isatty() and console.is_terminal):
                raise ArtifactError("nothing was removed; add --yes to remove these runs")
            answer = (ask or input)(f"Remove {len(chosen)} run(s) for good? [y/N] ")
            if answer.strip().lower() not in ("y", "yes"):
                say("nothing was removed")
                return 1
        for one in chosen.values():
            with held(one.root, lost=lambda reason: None):
                remove(one.root)
            say(f"removed {one.root}")
    return 0


def _named(folder: Path, name: str, now: float) -> Found:
    """The run directory of a name, which is below the folder or a path."""
    below = folder if name == "." else folder / name
    root = below
    if "://" in name or (not below.exists() and not remote.is_remote(folder)):
        root = remote.located(name)
    root = Run(root).root
    if not remote.is_remote(root):
        root = root.resolve() if not root.is_symlink() else root
        if root.is_symlink():
            raise ConfigError(
                f"{name} is a link; give the folder that it names; nothing was removed"
            )
    found = found_runs(root, now=now) if root.exists() else []
    if [one.name for one in found] != ["."]:
        missing = f"does not exist, nor does {below}" if below != root else "does not exist"
        what = missing if not root.exists() else "is not a run directory"
        inside = f"; it holds {len(found)}, name each of them" if found else ""
        raise ConfigError(f"{root} {what}{inside}; nothing was removed")
    for above in [*root.parents][: DEPTH + 1]:
        if is_run(records(Run(above, say=lambda line: None))):
            raise ConfigError(f"{root} is a part of the run {above}; nothing was removed")
    one = found[0]
    _check_own(root)
    if one.state.word == "running":
        raise ArtifactError(f"{root} is {one.state.text}; stop it first; nothing was removed")
    return one


def _check_own(root: Path) -> None:
    """Raise ConfigError unless all of a directory was written by the commands of a run."""
    foreign = sorted({path.name for path in root.iterdir()} - OWN)
    foreign = [name for name in foreign if not name.startswith(".")]
    if foreign:
        raise ConfigError(
            f"{root} holds {foreign[0]}, which no command of a run writes; move it first; nothing "
            f"was removed"
        )
    if not any(_is_record(path) for path in (root / "stages").glob("*.json")):
        raise ConfigError(
            f"{root} is not a run directory: no record of a stage in {root / 'stages'} is one of "
            f"MiniRec, or all are damaged; delete it yourself; nothing was removed"
        )


def _is_record(path: Path) -> bool:
    with suppress(MiniRecError):
        return bool(read_record(path))
    return False
