"""The figures of a running training and of trials, for `minirec watch`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.training_log import spent
from jobs.trials.result import METRIC, STOPPED
from jobs.trials.shared import FOLDER
from jobs.watch.state import costs_of, records, stage_names
from minirec.errors import MiniRecError
from minirec.evaluation.pages import compact
from minirec.store.files import read_json
from minirec.store.run import Run
from minirec.trials.trial import FOLDERS

LOGS = {"warm": "warm", "proxy": "proxy", "train": "policy"}
"""The folder of the log of each stage that trains."""
RECENT = 10  # steps over which speeds and shares are taken
BARS = "▁▂▃▄▅▆▇█"
Log = Sequence[dict[str, Any]]


def sentence_of(log: Log, total: int | None) -> str:
    """The newest step of a training: reward or loss, dead groups, learnable prompts, speed."""
    last, recent = log[-1], log[-RECENT:]
    parts = [f"step {last['step'] + 1}" + (f" of {total}" if total else "")]
    name = "reward" if "reward" in last else "loss"
    if name in last:
        parts.append(f"{name} {last[name]:.3f} {spark([e[name] for e in log if name in e])}")
    if "dead_groups" in last:
        parts.append(f"dead groups {_mean(recent, 'dead_groups'):.0%}")
    if (share := learnable(recent)) is not None:
        parts.append(f"known to be learnable {share:.0%} of the prompts")
    if (speed := tokens_per_second(recent)) is not None:
        parts.append(f"{compact(speed)} tokens/s")
    if validated := [entry[METRIC] for entry in log if METRIC in entry]:
        parts.append(f"NDCG@10 on valid {validated[-1]:.4f}")
    return ", ".join(parts)


def _mean(log: Log, name: str) -> float:
    return statistics.fmean(entry[name] for entry in log if name in entry)


def learnable(log: Log) -> float | None:
    """Share of the prompts of live selection that were known to be learnable when chosen."""
    names = ("chosen_in_band", "chosen_value", "chosen_unknown", "chosen_nearest")
    sums = {name: sum(entry.get(name, 0) for entry in log) for name in names}
    every = sum(sums.values())
    return (sums["chosen_in_band"] + sums["chosen_value"]) / every if every else None


def tokens_per_second(log: Log) -> float | None:
    """Forward-equivalent tokens in a second of some steps, without their validations."""
    used = sum(e.get("forward_tokens", 0) for e in log)
    worked = sum(
        e.get("seconds", 0.0)
        - e.get("validation_seconds", 0.0)
        - e.get("start_validation_seconds", 0.0)
        for e in log
    )
    return used / worked if used and worked > 0 else None


def spark(values: Sequence[float], width: int = 20) -> str:
    """The newest values as a line of bars from their least to their largest."""
    values = values[-width:]
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def cost_so_far(run: Run, stage: str | None, log: Log, seconds: float) -> tuple[int, int, float]:
    """Rollouts, forward-equivalent tokens and seconds of the finished stages and the running one.

    Args:
        stage: the running stage; its earlier attempts count with their seconds.
        log: of the running training, if any.
        seconds: that the running stage has worked.
    """
    costs = costs_of(run)
    others = [cost for cost in costs if cost["stage"] != stage]
    # The record of a bench has the rollouts of its trials, which `trials` counts.
    counted = [c for c in [*others, *_shared(run)] if c["stage"] not in FOLDERS]
    rollouts = sum(cost["rollouts"] for cost in counted)
    tokens = sum(cost["forward_tokens"] for cost in counted)
    if log:
        with suppress(KeyError):
            rollouts += spent(list(log), "rollouts")
            tokens += sum(entry["forward_tokens"] for entry in log)
    return rollouts, tokens, seconds + sum(cost["seconds"] for cost in costs)


def _shared(run: Run) -> list[dict[str, Any]]:
    """The costs of what the variants of a comparison share."""
    folder = run.path(FOLDERS["compare"], FOLDER)
    paths = [*folder.iterdir()] if folder.is_dir() else []
    return [cost for path in paths for cost in costs_of(Run(path, say=lambda line: None))]


@dataclass(frozen=True)
class TrialState:
    """A trial: its name, ``finished``, ``running``, ``begun``, ``stopped`` or ``to come``, its
    steps, NDCG@10 on valid, and the seconds and rollouts of its own stages."""

    name: str
    word: str
    steps: int = 0
    ndcg: float | None = None
    seconds: float = 0.0
    rollouts: int = 0


def trials(
    run: Run, planned: Sequence[str], *, running: bool, logs: dict[Path, Log]
) -> list[TrialState]:
    """The trials of a sweep or comparison, the planned ones and those that have a folder.

    `logs`: the logs of the trials by path, see `jobs.watch.watch.Watcher`.
    """
    found = []
    for folder in (run.path(name) for name in FOLDERS.values()):
        if folder.is_dir():
            found += [path for path in folder.iterdir() if (path / "stages").is_dir()]
    there = {path.name: path for path in found}
    names = [*planned, *sorted(there.keys() - {*planned})]
    return [
        _trial(there[n], running, logs) if n in there else TrialState(n, "to come") for n in names
    ]


def _trial(path: Path, running: bool, logs: dict[Path, Log]) -> TrialState:
    own = Run(path, say=lambda line: None)
    log = logs.get(path / "policy" / "log.jsonl", ())
    ndcg = next((entry[METRIC] for entry in reversed(log) if METRIC in entry), None)
    if (path / STOPPED).exists():
        word = "stopped"
    elif "evaluate" in stage_names(records(own), ".json"):
        word = "finished"
        with suppress(MiniRecError, KeyError, TypeError):
            policies = read_json(path / "evaluation.json")["policies"]
            ndcg = policies["trained"]["valid"]["ndcg@10"]["mean"]
    else:
        word = "running" if running else "begun"
    costs = costs_of(own)
    rollouts = sum(cost["rollouts"] for cost in costs)
    if word in ("running", "begun") and not any(cost["stage"] == "train" for cost in costs):
        rollouts += sum(entry.get("rollouts", 0) for entry in log)
    seconds = sum(cost["seconds"] for cost in costs)
    return TrialState(path.name, word, len(log), ndcg, seconds, rollouts)
