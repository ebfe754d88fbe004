"""One trial of the campaign: a small command, one fault at a random moment, the command again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from helpers.small import command, descendants, start

TITLES = {
    "engine": ":EngineActor",
    "scorer": "Scorer)",
    "worker": "ray::RayTrainWorker",
    "raylet": "core/src/ray/raylet/raylet",
}
"""Faults that kill a process, by what its command line holds; `driver` is the command itself."""
KEPT = "ray::SingleWorker"  # the training worker of a command with several trainings
KINDS = ("driver", "engine", "worker", "corrupt", "store", "scorer", "raylet", "disk")
STAGES = {"run": (), "score": ("model", "proxy"), "train": ("model", "proxy", "score", "select")}
"""Commands, and the stages after `prepare` that are finished before they start."""
OUTPUTS = {
    "model": ("model",),
    "proxy": ("proxy",),
    "score": ("features",),
    "select": ("scores.parquet", "selection.parquet"),
    "train": ("policy",),
    "evaluate": ("ranks.parquet", "evaluation.json", "evaluation"),
    "report": ("report.html",),
}
LIVE = ("selection.mode=live", "live.share=0.5")
"""Settings of a trial with live selection."""
LATEST_S = 12.0
STEPS = 8  # of the small run's training
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Place:
    """Where a trial's run is: a folder, or an address on the object store behind a gate."""

    run_dir: Path
    beside: Path
    words: tuple[str, ...] = ()
    gate: Any = None


@dataclass(frozen=True)
class Trial:
    """What happens in one trial; all of it follows from the seed."""

    seed: int
    kind: str
    command: str
    delay: float
    live: bool = False

    @classmethod
    def of(cls, seed: int) -> Trial:
        """The kinds come in turn, so that a campaign of n trials has n / 8 of each.

        A fifth of the trials trains with live selection.
        """
        draw = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        commands = {"scorer": ["score"], "worker": ["train"]}.get(kind, ["score", "train"])
        chosen = "run" if draw.random() < 0.15 else draw.choice(commands)
        delay = draw.uniform(0, LATEST_S)
        live = seed % 5 == 4 and kind != "scorer"
        return cls(seed, kind, "train" if live else chosen, delay, live)

    @property
    def words(self) -> list[str]:
        """Settings of the run."""
        return list(LIVE) if self.live else []


def prepared(undisturbed: Path, run_dir: Path, trial: Trial) -> None:
    """Make the run directory one in which the stages before the trial's command are finished."""
    for old in run_dir.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(undisturbed, run_dir, dirs_exist_ok=True)
    for stage, outputs in OUTPUTS.items():
        if stage in STAGES[trial.command]:
            continue
        for output in outputs:
            path = run_dir / output
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for record in (run_dir / "stages").glob(f"{stage}.*"):
            record.unlink()


def disturb(trial: Trial, place: Place) -> str | None:
    """Start the command, let the fault happen, wait until all of its processes are gone.

    Returns what was done, for the log of the campaign; None if the command was quicker.
    """
    process = start(place.beside, trial.command, *place.words, *trial.words)
    family: set[psutil.Process] = set()
    try:
        done = _fault(trial, place, process, family)
        _wait(lambda: process.poll() is not None, "the command to end", process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    # Ray's own agents look only now and then whether their node is still there.
    ours = [one for one in family if one.is_running() and not one.name().endswith("Agent")]
    _, alive = psutil.wait_procs(ours, timeout=60)
    assert not alive, f"left after the command: {alive}"
    if done and trial.kind == "corrupt":
        done = _corrupt(trial, place.run_dir)
    return f"{done}; exit {process.returncode}" if done else None


def again(trial: Trial, place: Place) -> str:
    """The same command; after scoring the selection too. Returns what was printed."""
    printed = ""
    for word in (trial.command, *(["select"] if trial.command == "score" else [])):
        result = subprocess.run(
            command(place.beside, word, *place.words, *trial.words),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        printed += result.stdout + result.stderr
        assert result.returncode == 0, f"{word} ended with {result.returncode}: {printed[-3000:]}"
    return printed


def assert_equal(run_dir: Path, undisturbed: Path, trial: Trial) -> None:
    """No sample lost or doubled; the same scores, selection and, if trained, policy."""
    names = ["selection.parquet"]
    if trial.live:
        names.append("policy/choices.parquet")
    else:
        _assert_scored_once(run_dir)
        names.append("scores.parquet")
    if (run_dir / "stages" / "train.json").exists():
        names.append("policy/adapter/adapter_model.safetensors")
        log = (run_dir / "policy" / "log.jsonl").read_text()
        assert len(log.splitlines()) == STEPS, "a step is lost or doubled"
    for name in names:
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes(), name


def _assert_scored_once(run_dir: Path) -> None:
    parts = sorted((run_dir / "features").glob("part-*.parquet"))
    ids = [i for part in parts for i in pq.read_table(part)["sample_id"].to_pylist()]
    train = pq.read_table(run_dir / "corpus" / "train.parquet")["sample_id"].to_pylist()
    assert len(ids) == len(set(ids)), "a sample is doubled"
    assert sorted(ids) == sorted(train), "a sample is lost"


def _fault(
    trial: Trial, place: Place, process: subprocess.Popen[bytes], family: set[psutil.Process]
) -> str | None:
    if trial.kind in TITLES:
        return _kill_one(trial, process, family)
    _wait(lambda: bool(_finished(trial, place.run_dir)), "the first output", process)
    _pause(trial.delay / 2, process, family)
    if process.poll() is not None:
        return None
    after = f"{trial.delay / 2:.1f} s after the first output"
    if trial.kind == "disk":
        filler = place.run_dir / "filler"
        _fill(filler)
        _wait(lambda: process.poll() is not None, "the command to end", process)
        size = filler.stat().st_size
        filler.unlink()
        # A command that needed no more of it had written everything.
        return f"filled the disk with {size:,} bytes {after}" if process.returncode else None
    if trial.kind == "store":
        assert place.gate is not None
        place.gate.refuse("PUT", r"/(features|proxy|policy|stages)/")
        _wait(lambda: process.poll() is not None, "the command to end", process)
        refused, place.gate.rule = place.gate.refused, None
        return f"the store refused {refused} writes {after}" if refused else None
    process.send_signal(signal.SIGKILL)
    return f"killed the driver {after}"


def _kill_one(
    trial: Trial, process: subprocess.Popen[bytes], family: set[psutil.Process]
) -> str | None:
    """SIGKILL for a random process of the kind, `delay` seconds after the first one was seen."""
    title = KEPT if (trial.kind, trial.command) == ("worker", "run") else TITLES[trial.kind]
    _wait(lambda: bool(descendants(process, title)), f"a {trial.kind}", process)
    _pause(trial.delay, process, family)
    found = descendants(process, title) if process.poll() is None else []
    if not found:
        return None
    victim = random.Random(trial.seed).choice(sorted(found, key=lambda one: one.pid))
    victim.kill()
    return f"killed the {trial.kind} after {trial.delay:.1f} s"


def _pause(seconds: float, process: subprocess.Popen[bytes], family: set[psutil.Process]) -> None:
    """Wait while the command lives, and note which processes it has."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        family |= set(psutil.Process(process.pid).children(recursive=True))
        if time.monotonic() > end:
            break
        time.sleep(0.2)


def _finished(trial: Trial, run_dir: Path) -> list[Path]:
    """Files that the command has finished and that a restart reads."""
    found = [*run_dir.glob("features/part-*.parquet"), *run_dir.glob("features/item_table.npy")]
    if trial.command != "score":
        folder = run_dir / ("policy" if trial.command == "train" else "proxy")
        found = [] if trial.command == "train" else found
        newest = sorted(folder.glob("checkpoints/step-*"))[-1:]
        found += [file for step in newest for file in step.rglob("*.pt")]
        found += folder.glob("adapter/adapter_model.safetensors")
    return sorted(found)


def _fill(path: Path) -> None:
    block = b"\0" * (1 << 20)
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(block)
    except OSError:
        return


def _corrupt(trial: Trial, run_dir: Path) -> str:
    """Turn one byte of a finished file that the command has written."""
    draw = random.Random(trial.seed)
    files = _finished(trial, run_dir)
    assert files, "nothing was finished"
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return f"damaged {file.relative_to(run_dir)}"


def _wait(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if process.poll() is not None:
            return
        assert time.monotonic() < end, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.05)


def mount(folder: Path, size: str) -> bool:
    """A file system of its own for the folder; False where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    order = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(order, capture_output=True).returncode == 0
