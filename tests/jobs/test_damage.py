"""A damaged file of each stage is found, reported and made again with the same bytes."""

from __future__ import annotations

import shutil

import psutil
import pytest
from helpers.small import descendants, finish, start, steps_logged, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DAMAGED = {
    "prepare": "corpus/train.parquet",
    "model": "model/model.safetensors",
    "proxy": "proxy/adapter/adapter_model.safetensors",
    "score": "features/part-000001.parquet",
    "select": "selection.parquet",
    "train": "policy/adapter/adapter_model.safetensors",
    "evaluate": "evaluation/trained-test/part-000000.parquet",
}
ALSO = ("features/item_table.npy", "evaluation/base.npy", "evaluation.json", "report.html")
SHARED = (*DAMAGED.values(), *ALSO[:-1], "scores.parquet", "ranks.parquet")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_damage_to_every_stage_is_found_and_repaired(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    for name in (*DAMAGED.values(), *ALSO):
        flip(run_dir / name)
    (run_dir / "stages" / "train.json").write_text("{")
    others = sorted((run_dir / "features").glob("part-*.parquet"))
    others.remove(run_dir / DAMAGED["score"])
    others.remove(run_dir / "features" / "part-000000.parquet")  # its scorer makes the item table
    before = [path.stat().st_mtime_ns for path in others]
    said = " ".join(finish(run_dir).split())
    for name in (*DAMAGED.values(), *ALSO):
        # The console may break a long path anywhere.
        assert f"{name}isdamaged" in said.replace(" ", ""), name
    assert "train.jsonisdamaged" in said.replace(" ", "")
    for name in SHARED:
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert before == [path.stat().st_mtime_ns for path in others], "a whole shard was done again"
    assert "skipped" in finish(run_dir, "score")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_training_continues_from_the_newest_undamaged_checkpoint(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(run_dir / "policy")
    (run_dir / "stages" / "train.json").unlink()
    process = start(run_dir, "train")
    wait_for(lambda: steps_logged(run_dir, "policy") >= 5, process, "the fifth training step")
    workers = descendants(process, "RayTrainWorker")
    for one in (*workers, process):  # workers that outlive the driver for a moment may finish
        one.kill()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    newest = sorted((run_dir / "policy" / "checkpoints").glob("step-*/manifest.json"))[-1].parent
    flip(next(newest.glob("state/*model_states.pt")))
    said = finish(run_dir, "train").replace("\n", "")
    assert "model_states.pt is damaged" in said
    adapter = "policy/adapter/adapter_model.safetensors"
    assert (run_dir / adapter).read_bytes() == (undisturbed / adapter).read_bytes()
    assert steps_logged(run_dir, "policy") == 8
