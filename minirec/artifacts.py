"""The run directory: paths, fingerprints, atomic writes, costs.

A stage is a function of its config section and its input artifacts. `Run.stage` runs its body
only if no complete output with the same fingerprint is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from minirec.errors import ArtifactError

ROW_GROUP = 1 << 16  # so that a reader of some rows need not hold all


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` whole on success and not at all on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
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
    """Fill a directory that appears at `path` whole on success; a former one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    work.chmod(0o755)
    try:
        yield work
        if path.exists():
            shutil.rmtree(path)
        os.replace(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet atomically, deterministically for equal tables."""
    with atomic(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read Parquet; an `ArtifactError` names the file if it is missing or damaged."""
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run the stage that makes it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); repeat the stage that makes it with --overwrite"
        ) from None


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


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


SHARED_STAGES = ("prepare", "model", "proxy", "score", "gradients")
SHARED_FOLDERS = ("corpus", "model", "proxy", "features", "gradients")
"""What a run with a `base` takes from there: all that its selection is made from."""

SUMMED = ("seconds", "rollouts", "generated_tokens", "optimizer_steps")


@dataclass
class Cost:
    """What one attempt at a stage spent; its body fills rollouts, tokens and steps at its end."""

    stage: str
    finished: bool = False
    seconds: float = 0.0
    rollouts: int = 0
    generated_tokens: int = 0
    optimizer_steps: int = 0
    peak_memory_mib: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


class Run:
    """A run directory; finished stages are recorded in ``stages/``.

    `checked` names the stages that this object has run or found complete. While `checking` is
    set, stages are only compared with their settings: none runs, and none is missed.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        overwrite: bool = False,
        redo: Collection[str] = (),
        say: Callable[[str], None] = print,
        base: Run | None = None,
    ):
        """Args:
        root: the directory; it need not exist.
        overwrite: redo stages that were made with other settings.
        redo: stages to redo even if they are complete with the same settings.
        say: takes each line for the user.
        base: a run whose corpus, proxy and features are used, which must be complete; this one
            then has only what follows from a selection.
        """
        self.root = Path(root).absolute()
        self.overwrite = overwrite
        self.redo = frozenset(redo)
        self.checking = False
        self.say = say
        self.base = base
        self.checked: set[str] = set(SHARED_STAGES if base else ())

    def path(self, *parts: str) -> Path:
        """Path of an artifact below the run directory, or below that of the base."""
        if self.base and parts and Path(parts[0]).parts[0] in SHARED_FOLDERS:
            return self.base.path(*parts)
        return self.root.joinpath(*parts)

    def done(self, stage: str) -> dict[str, Any] | None:
        """Record of a finished stage, or None."""
        if self.base and stage in SHARED_STAGES:
            return self.base.done(stage)
        path = self.path("stages", f"{stage}.json")
        return read_json(path) if path.exists() else None

    def fingerprint(self, stage: str) -> str:
        """Fingerprint of a finished stage, for the stages that read its output."""
        record = self.done(stage)
        if record is None:
            raise ArtifactError(
                f"stage {stage} has not finished in {self.root}; run `minirec {stage}` first"
            )
        return str(record["fingerprint"])

    def stage(
        self,
        name: str,
        *,
        settings: dict[str, Any],
        inputs: list[str],
        outputs: list[str],
        body: Callable[[Cost], None],
    ) -> bool:
        """Run `body` unless the stage is complete with the same settings and inputs.

        Args:
            settings: the config that the output depends on (nested dict).
            inputs: names of the stages that are read.
            outputs: paths below the run directory that the body makes.
            body: makes the outputs and fills the cost record.

        Returns:
            True if the body ran, False if the stage was skipped.

        Raises:
            ArtifactError: the stage is there with other settings and `overwrite` is off.
        """
        content = {
            "settings": flatten(settings),
            "inputs": {i: self.fingerprint(i) for i in inputs},
        }
        fingerprint = digest(content)
        record = self.done(name) or self._begun(name, outputs)
        other = record is not None and record["fingerprint"] != fingerprint
        if record and other and (self.checking or not self.overwrite):
            raise ArtifactError(self._difference(name, record, content))
        if self.checking:
            return False
        if record and (other or name in self.redo):
            self.remove(name, outputs)
        if self.done(name):
            missing = [o for o in outputs if not self.path(o).exists()]
            if not missing:
                self.say(f"{name}: finished before, skipped")
                self.checked.add(name)
                return False
            self.say(f"{name}: {missing[0]} is gone, run again")
            self.path("stages", f"{name}.json").unlink()
        write_json(
            self.path("stages", f"{name}.begun.json"), {"fingerprint": fingerprint, **content}
        )
        cost = Cost(name)
        started = time.monotonic()
        try:
            body(cost)
            cost.finished = True
        finally:
            cost.seconds = round(time.monotonic() - started, 3)
            cost.peak_memory_mib = peak_memory_mib()
            self._record_cost(cost)
        write_json(self.path("stages", f"{name}.json"), {"fingerprint": fingerprint, **content})
        self.checked.add(name)
        return True

    def remove(self, name: str, outputs: list[str]) -> None:
        """Delete a stage's records and costs, then its outputs."""
        self.path("stages", f"{name}.json").unlink(missing_ok=True)
        for output in outputs:
            path = self.path(output)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        # Last: as long as something of the old outputs is there, so is what it was made with.
        self.path("stages", f"{name}.begun.json").unlink(missing_ok=True)
        kept = [attempt for attempt in self._attempts() if attempt["stage"] != name]
        with atomic(self.path("costs.jsonl")) as file:
            file.write("".join(json.dumps(attempt) + "\n" for attempt in kept).encode())

    def costs(self) -> list[dict[str, Any]]:
        """Cost of each stage: sums over its attempts, the peak for memory.

        An attempt that ended with an error or was interrupted counts with its seconds; its
        rollouts and steps are those of the attempt that finished, which counts what it found
        done. Only what a killed driver spent is missing.
        """
        rows: dict[str, dict[str, Any]] = {}
        for attempt in self._attempts():
            row = rows.setdefault(attempt["stage"], attempt | dict.fromkeys(SUMMED, 0))
            for name in SUMMED:
                row[name] += attempt[name]
            row["peak_memory_mib"] = max(row["peak_memory_mib"], attempt["peak_memory_mib"])
        return list(rows.values())

    def _attempts(self) -> list[dict[str, Any]]:
        path = self.path("costs.jsonl")
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]

    def _begun(self, name: str, outputs: list[str]) -> dict[str, Any] | None:
        """Record of a stage that has left something but is not finished."""
        path = self.path("stages", f"{name}.begun.json")
        left = any(self.path(output).exists() for output in outputs)
        return read_json(path) if left and path.exists() else None

    def _record_cost(self, cost: Cost) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with self.path("costs.jsonl").open("a") as file:
            file.write(json.dumps(cost.__dict__) + "\n")

    def _difference(self, name: str, record: dict[str, Any], now: dict[str, Any]) -> str:
        before = record["settings"]
        # The command at work does not redo a stage that it only compares.
        command = "add --overwrite"
        if self.checking:
            command = f"redo it with `minirec {'proxy' if name == 'model' else name} --overwrite`"
        for key in sorted(now["settings"].keys() | before.keys()):
            old, new = before.get(key), now["settings"].get(key)
            if digest(old) != digest(new):
                return (
                    f"stage {name} in {self.root} was made with {key}={old}, now it is {new}; "
                    f"choose another run_dir or {command}"
                )
        changed = [i for i in now["inputs"] if record["inputs"].get(i) != now["inputs"][i]]
        return (
            f"stage {name} in {self.root} was made from another {', '.join(changed) or 'input'}; "
            f"choose another run_dir or {command}"
        )


def peak_memory_mib() -> float:
    """Largest resident size that this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
