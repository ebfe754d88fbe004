"""A sweep that is killed and interrupted, and has a failed trial, gives the undisturbed result."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.small import command, finish, start, steps_logged, wait_for

from jobs.trials.result import read_rows
from minirec.config.reading import load
from minirec.store.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SWEEP = (
    "sweep",
    "sweep.budget=[0.25, 0.1]",
    "sweep.alpha=[0, 4]",
    "training.steps=null",
    "training.epochs=2",
)
FIRST, SECOND, THIRD, LAST = (f"budget-{b}_alpha-{a}" for b in (0.1, 0.25) for a in (0, 4))
TIMES = ("seconds", "own_seconds", "front_seconds")


def trial(run_dir, setting):
    return run_dir / "sweep" / f"{setting}_seed-7"


def kill_all(process):
    """Kill the driver and all processes that it started; wait until they are gone."""
    started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(30)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive


def interrupt(run_dir):
    """Press Ctrl-C while the third trial trains; all processes end within 35 s."""
    process = start(run_dir, *SWEEP)
    wait_for(lambda: steps_logged(trial(run_dir, THIRD), "policy") > 1, process, "the third trial")
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive


def without_times(run_dir):
    return [
        {k: v for k, v in row.items() if k not in TIMES} for row in read_rows(Run(run_dir), "sweep")
    ]


def best(run_dir):
    return {**yaml.safe_load((run_dir / "best.yaml").read_text()), "run_dir": None}


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_killed_and_restored(undisturbed, tmp_path):
    whole, run_dir = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, run_dir):
        shutil.copytree(undisturbed, folder)
    assert "train it: minirec run" in finish(whole, *SWEEP)
    assert pq.read_table(whole / "sweep" / "trials.parquet").num_rows == 4

    obstacle = trial(run_dir, LAST) / "selection.parquet"  # a folder in the place of a file
    obstacle.mkdir(parents=True)
    process = start(run_dir, *SWEEP)
    wait_for(
        lambda: steps_logged(trial(run_dir, SECOND), "policy") > 1, process, "the second trial"
    )
    kill_all(process)
    done = trial(run_dir, FIRST) / "costs.jsonl"
    before = done.read_bytes()
    assert json.loads(before.splitlines()[-1])["stage"] == "evaluate"

    interrupt(run_dir)
    words = command(run_dir, *SWEEP)
    result = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert result.returncode == 1
    assert "1 of 4 trials failed" in result.stderr
    rows = {row["setting"]: row for row in read_rows(Run(run_dir), "sweep")}
    assert rows[LAST]["status"] == "failed"
    assert "Is a directory" in rows[LAST]["cause"]
    assert "\n" not in rows[LAST]["cause"]

    obstacle.rmdir()
    finish(run_dir, *SWEEP)
    assert done.read_bytes() == before, "a finished trial ran again"
    assert without_times(run_dir) == without_times(whole)
    assert best(run_dir) == best(whole)
    assert load(run_dir / "best.yaml").run_dir == f"{run_dir}-best"

    assert "nothing to do" in finish(run_dir, *SWEEP)
    other = subprocess.run([*words, "sweep.alpha=[0]"], capture_output=True, text=True, timeout=60)
    assert other.returncode == 1
    assert "sweep.alpha" in other.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_damage_to_a_trial_makes_that_trial_again(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    words = ("sweep", "sweep.budget=[0.25, 0.1]", "training.steps=2", "sweep.asha=null")
    finish(run_dir, *words)
    adapters = [
        run_dir / "sweep" / f"budget-{budget}_seed-7" / "policy/adapter/adapter_model.safetensors"
        for budget in (0.1, 0.25)
    ]
    kept, damaged = adapters
    before, rows = [path.stat().st_mtime_ns for path in adapters], without_times(run_dir)
    damaged.write_bytes(b"")
    assert "adapter_model.safetensorsisdamaged" in "".join(finish(run_dir, *words).split())
    assert kept.stat().st_mtime_ns == before[0] and damaged.stat().st_mtime_ns > before[1]
    assert without_times(run_dir) == rows
    assert "nothing to do" in finish(run_dir, *words)
