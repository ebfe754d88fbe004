"""The run directory: paths, fingerprints, records of stages, costs."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minirec.errors import ArtifactError, DamageError
from minirec.store.files import (
    Files,
    append,
    atomic,
    differences,
    digest,
    file_entries,
    read_record,
    remove,
    remove_leftovers,
    write_record,
)
from minirec.store.remote import is_remote, located


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def each_file(path: str) -> str:
    """`part_of` for a stage whose body makes each missing file separately."""
    return path


@dataclass
class Cost:
    """What one attempt at a stage spent; the body fills in rollouts, tokens and steps.

    charged: what the cost is for, such as "selection", or None. forward_tokens: forward-equivalent
    tokens (`minirec.model.tokens`), without those of validations.
    """

    stage: str
    charged: str | None = None
    finished: bool = False
    seconds: float = 0.0
    rollouts: int = 0
    generated_tokens: int = 0
    forward_tokens: int = 0
    validation_forward_tokens: int = 0
    optimizer_steps: int = 0
    peak_memory_mib: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


class Run:
    """A run directory; finished stages are recorded in ``stages/``."""

    def __init__(
        self,
        root: str | Path,
        *,
        overwrite: bool = False,
        redo: Collection[str] = (),
        say: Callable[[str], None] = print,
        base: Run | None = None,
        shared: Mapping[str, Sequence[str]] | None = None,
    ):
        """Args:
        root: the directory; it need not exist.
        overwrite: redo stages that were made with other settings.
        redo: finished stages to redo even with the same settings.
        say: called with each line for the user.
        base: a run whose finished stages this one uses.
        shared: the stages that come from `base`, each with its outputs.
        """
        root = located(root)
        self.root = root if is_remote(root) else root.absolute()
        self.overwrite = overwrite
        self.redo = frozenset(redo)
        self.say = say
        self.base = base
        self.shared = dict(shared or {}) if base else {}
        self._said: set[str] = set()

    def path(self, *parts: str) -> Path:
        """Path of an artifact in the run directory, or in that of the base if shared."""
        if self.base and parts:
            output = Path(parts[0]).parts[0]
            if any(output in outputs for outputs in self.shared.values()):
                return self.base.path(*parts)
        return self.root.joinpath(*parts)

    def done(self, stage: str) -> dict[str, Any] | None:
        """Record of a finished stage; None if it is missing or damaged."""
        if self.base and stage in self.shared:
            return self.base.done(stage)
        return self._record(f"{stage}.json")

    def fingerprint(self, stage: str) -> str:
        """Fingerprint of a finished stage; raises `ArtifactError` if it has not finished."""
        record = self.done(stage)
        if record is None:
            raise ArtifactError(
                f"stage {stage} has not finished in the run_dir {self.root}; run "
                f"`minirec {stage}` with these settings first"
            )
        return str(record["fingerprint"])

    def made_from(self, stage: str) -> set[str]:
        """The stages that a finished stage depends on, directly or through others."""
        inputs = (self.done(stage) or {"inputs": {}})["inputs"]
        return set(inputs).union(*map(self.made_from, inputs))

    def compare(
        self,
        name: str,
        *,
        settings: dict[str, Any],
        inputs: Sequence[str],
        extends: Callable[[dict[str, Any], dict[str, Any]], bool] | None = None,
    ) -> None:
        """Raise `ArtifactError` if a finished stage has other settings or inputs than these.

        `extends` is that of `stage`.
        """
        record, content = self.done(name), self._content(settings, inputs)
        if record and record["fingerprint"] != digest(content):
            grows = extends is not None and extends(record["settings"], content["settings"])
            redo = "" if grows else " --overwrite"
            way_out = f"give these settings to `minirec {name}{redo}` first"
            raise ArtifactError(self._difference(name, record, content, way_out))

    def stage(
        self,
        name: str,
        *,
        settings: dict[str, Any],
        inputs: Sequence[str],
        outputs: Sequence[str],
        body: Callable[[Cost], None],
        part_of: Callable[[str], str] | None = None,
        outgrown: Callable[[], bool] | None = None,
        extends: Callable[[dict[str, Any], dict[str, Any]], bool] | None = None,
        charged: str | None = None,
    ) -> bool:
        """Run `body` unless the stage is complete, undamaged, with the same settings and inputs.

        Args:
            settings: the config that the output depends on (nested dict).
            inputs: names of the stages that are read.
            outputs: paths below the run directory that the body makes.
            body: makes the outputs and fills the cost record.
            part_of: for a body that makes missing parts: returns the path of the part that a file
                belongs to, see `each_file`. Only damaged parts of a finished stage are then made
                again. None makes the whole stage again.
            outgrown: returns whether the body of a finished stage has more to make; the outputs
                stay.
            extends: returns whether the body can make the output from a finished one with other
                settings, given the flat settings of that one and the new ones. The outputs and
                their record then stay until the body has replaced them. Only then is the stage
                done while its body runs.
            charged: see `Cost`.

        Returns:
            True if the body ran, False if the stage was skipped.

        Raises:
            ArtifactError: the stage was made with other settings and `overwrite` is off.
        """
        content = self._content(settings, inputs)
        fingerprint = digest(content)
        done = self.done(name)
        record = done or self._begun(name, outputs)
        other = record is not None and record["fingerprint"] != fingerprint
        grows = (
            done is not None
            and other
            and name not in self.redo
            and extends is not None
            and extends(done["settings"], content["settings"])
        )
        if record and other and not grows and not self.overwrite:
            raise ArtifactError(self._difference(name, record, content, "add --overwrite"))
        # An unfinished stage is continued, so that --overwrite can be repeated if interrupted.
        if not grows and (other or (done and name in self.redo)):
            self.remove(name, outputs)
        elif done and not grows:
            damaged = self._damaged(name, outputs, done["files"])
            if not damaged and not (outgrown and outgrown()):
                self.say(f"{name}: finished before, skipped")
                return False
            self.path("stages", f"{name}.json").unlink()
            for part in {part_of(file) for file in damaged} if part_of else outputs:
                remove(self.path(part))
        for output in outputs:
            remove_leftovers(self.path(output))
        begun = {"fingerprint": fingerprint, **content}
        write_record(self.path("stages", f"{name}.begun.json"), begun)
        with self._recorded_cost(Cost(name, charged)) as cost:
            body(cost)
        record = {**begun, "files": self._files(outputs)}
        write_record(self.path("stages", f"{name}.json"), record)
        return True

    def _content(self, settings: dict[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
        """Settings and inputs of a stage; their digest is its fingerprint."""
        return {
            "settings": flatten(settings),
            "inputs": {name: self.fingerprint(name) for name in inputs},
        }

    def remove(self, name: str, outputs: Sequence[str]) -> None:
        """Delete a stage's outputs, then its records and costs.

        If the command is killed meanwhile, the records still say that the outputs are incomplete.
        """
        for output in outputs:
            remove(self.path(output))
        self.path("stages", f"{name}.json").unlink(missing_ok=True)
        self.path("stages", f"{name}.begun.json").unlink(missing_ok=True)
        kept = [attempt for attempt in self._attempts() if attempt["stage"] != name]
        with atomic(self.path("costs.jsonl")) as file:
            file.write("".join(json.dumps(attempt) + "\n" for attempt in kept).encode())

    def costs(self) -> list[dict[str, Any]]:
        """Cost of each stage: total seconds and peak memory of all its attempts.

        Rollouts, tokens and steps are those of the newest finished attempt (of the newest if none
        has finished), since they include the work of earlier attempts. Seconds of a killed driver
        are missing.
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

    def _files(self, outputs: Sequence[str]) -> Files:
        files: Files = {}
        for output in outputs:
            files |= file_entries(self.path(output), below=self.root)
        return files

    def _damaged(self, name: str, outputs: Sequence[str], files: Files) -> list[str]:
        """Outputs and files of a finished stage that are missing or differ from its record."""
        paths = {output: self.path(output) for output in outputs}
        problems = {o: f"{path} is gone" for o, path in paths.items() if not path.exists()}
        problems |= differences(self.root, files)
        for problem in list(problems.values())[:3]:
            self.say(f"{name}: {problem}; it is made again")
        if len(problems) > 3:
            self.say(f"{name}: {len(problems) - 3} more files are gone or damaged")
        return list(problems)

    def _record(self, name: str) -> dict[str, Any] | None:
        """A record of ``stages/``; None if it is missing, or damaged (with one warning)."""
        path = self.path("stages", name)
        if not path.exists():
            return None
        try:
            return read_record(path)
        except DamageError:
            if name not in self._said:
                self.say(f"{path} is damaged; its stage is checked and run again")
                self._said.add(name)
            return None

    def _begun(self, name: str, outputs: Sequence[str]) -> dict[str, Any] | None:
        """Record of an unfinished stage with outputs; if it is damaged, the outputs are removed."""
        path = self.path("stages", f"{name}.begun.json")
        if not path.exists() or not any(self.path(output).exists() for output in outputs):
            return None
        record = self._record(path.name)
        if record is None:
            for output in outputs:
                remove(self.path(output))
        return record

    @contextmanager
    def _recorded_cost(self, cost: Cost) -> Iterator[Cost]:
        """Write the cost of an attempt at its end, even if it fails."""
        started = time.monotonic()

        def record() -> None:
            cost.seconds = round(time.monotonic() - started, 3)
            cost.peak_memory_mib = peak_memory_mib()
            append(self.path("costs.jsonl"), json.dumps(cost.__dict__) + "\n")

        try:
            yield cost
        except BaseException:
            with suppress(Exception):  # the user needs the error of the stage
                record()
            raise
        cost.finished = True
        record()

    def _difference(
        self, name: str, record: dict[str, Any], now: dict[str, Any], way_out: str
    ) -> str:
        before = record["settings"]
        way_out = f"choose another run_dir or {way_out}"
        for key in sorted(now["settings"].keys() | before.keys()):
            old, new = before.get(key), now["settings"].get(key)
            if digest(old) != digest(new):
                return (
                    f"stage {name} in {self.root} was made with {key}={old}, now it is {new}; "
                    f"{way_out}"
                )
        changed = [i for i in now["inputs"] if record["inputs"].get(i) != now["inputs"][i]]
        return (
            f"stage {name} in {self.root} was made from another {', '.join(changed) or 'input'}; "
            f"{way_out}"
        )


def peak_memory_mib() -> float:
    """Peak resident size of this process, MiB; on Linux since it was last reset."""
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
