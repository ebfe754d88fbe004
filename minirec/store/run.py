"""The run directory: paths, fingerprints, records of stages, costs.

A stage is a function of its config section and its input artifacts. `Run.stage` runs its body
only if no complete and undamaged output with the same fingerprint is there.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minirec.errors import ArtifactError, DamageError
from minirec.store.files import (
    Files,
    append,
    atomic,
    atomic_dir,
    check_folder,
    check_published,
    differences,
    digest,
    fetch,
    file_entries,
    in_threads,
    intact,
    publish,
    read_json,
    read_record,
    remove,
    remove_leftovers,
    write_json,
    write_manifest,
    write_record,
)
from minirec.store.remote import is_remote, local_file, located
from minirec.store.tables import (
    check_array,
    check_table,
    open_table,
    read_array,
    read_table,
    table_writer,
    write_array,
    write_table,
)

__all__ = [
    "Cost",
    "Run",
    "atomic",
    "atomic_dir",
    "check_array",
    "check_folder",
    "check_published",
    "check_table",
    "digest",
    "each_file",
    "fetch",
    "flatten",
    "in_threads",
    "intact",
    "is_remote",
    "local_file",
    "located",
    "open_table",
    "publish",
    "read_array",
    "read_json",
    "read_table",
    "remove",
    "table_writer",
    "write_array",
    "write_json",
    "write_manifest",
    "write_table",
]


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


def each_file(path: str) -> str:
    """`part_of` of a stage that makes every file by itself."""
    return path


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
        root = located(root)
        self.root = root if is_remote(root) else root.absolute()
        self.overwrite = overwrite
        self.redo = frozenset(redo)
        self.checking = False
        self.say = say
        self.base = base
        self.checked: set[str] = set(SHARED_STAGES if base else ())
        self._said: set[str] = set()

    def path(self, *parts: str) -> Path:
        """Path of an artifact below the run directory, or below that of the base."""
        if self.base and parts and Path(parts[0]).parts[0] in SHARED_FOLDERS:
            return self.base.path(*parts)
        return self.root.joinpath(*parts)

    def done(self, stage: str) -> dict[str, Any] | None:
        """Record of a finished stage, or None; a damaged one is said, and as if it were not."""
        if self.base and stage in SHARED_STAGES:
            return self.base.done(stage)
        return self._record(f"{stage}.json")

    def fingerprint(self, stage: str) -> str:
        """Fingerprint of a finished stage, for the stages that read its output."""
        record = self.done(stage)
        if record is None:
            raise ArtifactError(
                f"stage {stage} has not finished in the run_dir {self.root}; run "
                f"`minirec {stage}` with these settings first"
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
        part_of: Callable[[str], str] | None = None,
        outgrown: Callable[[], bool] | None = None,
    ) -> bool:
        """Run `body` unless the stage is complete, undamaged, with the same settings and inputs.

        Args:
            settings: the config that the output depends on (nested dict).
            inputs: names of the stages that are read.
            outputs: paths below the run directory that the body makes.
            body: makes the outputs and fills the cost record.
            part_of: the body makes each part that is missing, so of a finished stage only the
                damaged parts are made again. It gives the path of the part that a file belongs
                to, see `each_file`. None: all of the stage is made again.
            outgrown: asked of a finished stage: whether the body has more to make now. What is
                there stays.

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
        if done := self.done(name):
            damaged = self._damaged(name, outputs, done["files"])
            if not damaged and not (outgrown and outgrown()):
                self.say(f"{name}: finished before, skipped")
                self.checked.add(name)
                return False
            self.path("stages", f"{name}.json").unlink()
            for part in {part_of(name) for name in damaged} if part_of else outputs:
                remove(self.path(part))
        for output in outputs:
            remove_leftovers(self.path(output))
        begun = {"fingerprint": fingerprint, **content}
        write_record(self.path("stages", f"{name}.begun.json"), begun)
        with self._recorded_cost(name) as cost:
            body(cost)
        record = {**begun, "files": self._files(outputs)}
        write_record(self.path("stages", f"{name}.json"), record)
        self.checked.add(name)
        return True

    def remove(self, name: str, outputs: list[str]) -> None:
        """Delete a stage's records and costs, then its outputs."""
        self.path("stages", f"{name}.json").unlink(missing_ok=True)
        for output in outputs:
            remove(self.path(output))
        # Last: as long as something of the old outputs is there, so is what it was made with.
        self.path("stages", f"{name}.begun.json").unlink(missing_ok=True)
        kept = [attempt for attempt in self._attempts() if attempt["stage"] != name]
        with atomic(self.path("costs.jsonl")) as file:
            file.write("".join(json.dumps(attempt) + "\n" for attempt in kept).encode())

    def costs(self) -> list[dict[str, Any]]:
        """Cost of each stage: the seconds of all its attempts, and the peak of their memory.

        Rollouts, tokens and steps are those of the newest attempt that finished, or of the newest
        where none has: an attempt counts what it found done. Seconds of a killed driver are
        missing.
        """
        rows: dict[str, dict[str, Any]] = {}
        for attempt in self._attempts():
            row = rows.setdefault(attempt["stage"], attempt | {"seconds": 0.0})
            over_all = {
                "seconds": row["seconds"] + attempt["seconds"],
                "peak_memory_mib": max(row["peak_memory_mib"], attempt["peak_memory_mib"]),
            }
            if attempt["finished"] or not row["finished"]:
                row |= attempt
            row |= over_all
        return list(rows.values())

    def _attempts(self) -> list[dict[str, Any]]:
        path = self.path("costs.jsonl")
        if not path.exists():
            return []
        attempts = []
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                attempts.append(json.loads(line))
            except ValueError:  # a driver that was killed while it wrote, or a damaged disk
                self.say(f"{path} line {number} is damaged; this attempt is not counted")
        return attempts

    def _files(self, outputs: list[str]) -> Files:
        files: Files = {}
        for output in outputs:
            files |= file_entries(self.path(output), below=self.root)
        return files

    def _damaged(self, name: str, outputs: list[str], files: Files) -> list[str]:
        """Outputs and files of a finished stage that are gone or not as recorded; some are said."""
        gone = [output for output in outputs if not self.path(output).exists()]
        problems = {output: f"{self.path(output)} is gone" for output in gone}
        problems |= differences(self.root, files)
        for problem in list(problems.values())[:3]:
            self.say(f"{name}: {problem}; it is made again")
        if len(problems) > 3:
            self.say(f"{name}: {len(problems) - 3} more files are gone or damaged")
        return list(problems)

    def _record(self, name: str) -> dict[str, Any] | None:
        """A record of ``stages/``; None if there is none or it is damaged, which is said once."""
        path = self.path("stages", name)
        if not path.exists():
            return None
        try:
            return read_record(path)
        except DamageError:
            if name not in self._said:
                self.say(f"{path} is damaged; what it stands for is compared and made anew")
                self._said.add(name)
            return None

    def _begun(self, name: str, outputs: list[str]) -> dict[str, Any] | None:
        """Record of a stage that has left something but is not finished.

        Where a damaged record no longer tells with which settings, what is left is removed.
        """
        path = self.path("stages", f"{name}.begun.json")
        if not path.exists() or not any(self.path(output).exists() for output in outputs):
            return None
        record = self._record(path.name)
        if record is None and not self.checking:
            for output in outputs:
                remove(self.path(output))
        return record

    @contextmanager
    def _recorded_cost(self, stage: str) -> Iterator[Cost]:
        """The cost of an attempt, which is written at its end, also if it fails."""
        cost = Cost(stage)
        started = time.monotonic()

        def record() -> None:
            cost.seconds = round(time.monotonic() - started, 3)
            cost.peak_memory_mib = peak_memory_mib()
            append(self.path("costs.jsonl"), json.dumps(cost.__dict__) + "\n")

        try:
            yield cost
        except BaseException:
            with suppress(Exception):  # the error of the stage is what the user needs
                record()
            raise
        cost.finished = True
        record()

    def _difference(self, name: str, record: dict[str, Any], now: dict[str, Any]) -> str:
        before = record["settings"]
        # The command at work does not redo a stage that it only compares.
        command = "add --overwrite"
        if self.checking:
            stage = "proxy" if name == "model" else name
            command = f"give these settings to `minirec {stage} --overwrite` first"
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
