"""After a kill at any stage, the same command completes the run with the same bytes."""

from __future__ import annotations

import shutil
import signal

import psutil
import pyarrow.parquet as pq
import pytest
from helpers.small import descendants, finish, start, steps_logged, wait_for

from jobs.training_log import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COMPARED = (
    "scores.parquet",
    "selection.parquet",
    "policy/adapter/adapter_model.safetensors",
    "ranks.parquet",
    "evaluation.json",
)


def parts(run_dir):
    return sorted((run_dir / "features").glob("part-*.parquet"))


def state(run_dir):
    """Modification times of the shards, and the seconds of each logged step."""
    seconds = {
        name: [entry["seconds"] for entry in read_log(run_dir / name / "log.jsonl")]
        for name in ("proxy", "policy")
    }
    return seconds | {"parts": {p.name: p.stat().st_mtime_ns for p in parts(run_dir)}}


def assert_same(run_dir, other):
    assert [p.name for p in parts(run_dir)] == [p.name for p in parts(other)]
    for one, two in zip(parts(run_dir), parts(other), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    ids = [i for p in parts(run_dir) for i in pq.read_table(p)["sample_id"].to_pylist()]
    train = pq.read_table(run_dir / "corpus" / "train.parquet")["sample_id"].to_pylist()
    assert sorted(ids) == sorted(train), "a sample is missing or duplicated"
    for name in COMPARED:
        assert (run_dir / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kill_the_driver_at_each_long_stage(undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    moments = {
        "prepare": lambda: (run_dir / "stages" / "prepare.begun.json").exists(),
        "proxy": lambda: steps_logged(run_dir, "proxy") >= 3,
        "score": lambda: len(parts(run_dir)) >= 2,
        "train": lambda: steps_logged(run_dir, "policy") >= 5,
        "evaluate": lambda: (
            run_dir / "evaluation" / "base-valid" / "part-000000.parquet"
        ).exists(),
    }
    left = {}
    for stage, reached in moments.items():
        process = start(run_dir)
        wait_for(reached, process, f"the middle of {stage}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        left[stage] = state(run_dir)
    finish(run_dir)
    assert_same(run_dir, undisturbed)
    # Nothing was repeated: the shards are the same files, and the steps up to the last checkpoint
    # (one every two steps) have the same seconds.
    end = state(run_dir)
    assert left["score"]["parts"].items() <= end["parts"].items()
    assert left["proxy"]["proxy"][:2] == end["proxy"][:2]
    assert left["train"]["policy"][:4] == end["policy"][:4]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_kill_an_engine_and_a_training_worker(undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    process = start(run_dir)
    wait_for(lambda: len(parts(run_dir)) >= 2, process, "the second shard")
    engines = descendants(process, ":EngineActor")
    assert engines
    for engine in engines:
        engine.kill()
    wait_for(lambda: steps_logged(run_dir, "policy") >= 5, process, "the fifth training step")
    workers = descendants(process, "SingleWorker")
    assert workers
    for worker in workers:
        worker.kill()
    assert process.wait(timeout=300) == 0, (tmp_path / "run.log").read_text()[-3000:]
    assert_same(run_dir, undisturbed)
    assert steps_logged(run_dir, "policy") == 8, "a step is missing or duplicated"


@pytest.mark.timeout(300)
def test_a_finished_run_is_skipped(undisturbed):
    printed = finish(undisturbed)
    for stage in ("prepare", "model", "proxy", "score", "select", "train", "evaluate", "report"):
        assert f"{stage}: finished before, skipped" in printed


@pytest.mark.timeout(300)
def test_an_interruption_ends_everything_and_says_how_to_continue(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(run_dir / "policy")
    process = start(run_dir, "train", "training.steps=500", "--overwrite")
    wait_for(lambda: steps_logged(run_dir, "policy") >= 2, process, "the second training step")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert "run the same command again to continue" in (tmp_path / "run.log").read_text()


@pytest.mark.timeout(300)
def test_an_interruption_of_scoring_prints_nothing_of_ray(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(run_dir / "features")
    process = start(run_dir, "score", "--overwrite")
    wait_for(lambda: len(parts(run_dir)) >= 2, process, "the second shard")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    printed = (tmp_path / "run.log").read_text()
    assert "raylet" not in printed and "retries" not in printed
