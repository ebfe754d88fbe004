"""Workers and micro-batches change no gradient; a restart computes only what is missing."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.small import finish

from minirec.corpus import schema
from minirec.store.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

USED = "selection.method=less"
FEW = "scoring.validation_samples=20"


@pytest.fixture(scope="module")
def scored(undisturbed, tmp_path_factory):
    """A copy of the finished run, with gradients."""
    run_dir = shutil.copytree(undisturbed, tmp_path_factory.mktemp("gradients") / "run")
    finish(run_dir, "score", USED, FEW)
    return run_dir


def parts(folder):
    return sorted(folder.glob("part-*.parquet"))


def vectors(folder):
    """(N, dim) float64 gradients of all parts, and their sample_id."""
    tables = [pq.read_table(part) for part in parts(folder)]
    ids = np.concatenate([table["sample_id"].to_numpy() for table in tables])
    columns = [table["gradient"].combine_chunks() for table in tables]
    found = [c.flatten().to_numpy().reshape(len(c), -1).astype(np.float64) for c in columns]
    return ids, np.concatenate(found)


@pytest.mark.timeout(600)
def test_a_run_has_a_gradient_for_each_sample_and_the_validation_mean(scored):
    run = Run(scored)
    assert run.done("gradients")["inputs"] == {"score": run.fingerprint("score")}
    ids, found = vectors(scored / "gradients")
    assert [p.name for p in parts(scored / "gradients")] == [
        p.name for p in parts(scored / "features")
    ]
    assert ids.tolist() == pq.read_table(scored / "corpus/train.parquet")["sample_id"].to_pylist()
    assert found.shape[1] == 4096
    first = pq.read_table(parts(scored / "gradients")[0])
    assert first.schema == schema.gradients(found.shape[1])
    rewards = np.concatenate(
        [np.array(pq.read_table(p)["rewards"].to_pylist()) for p in parts(scored / "features")]
    )
    live = np.ptp(rewards, axis=1) > 0
    assert live.sum() > 0
    assert np.array_equal(found.any(axis=1), live)
    valid_ids, valid = vectors(scored / "gradients" / "valid_gradients")
    corpus = pq.read_table(scored / "corpus/valid.parquet")["sample_id"].to_pylist()
    assert len(set(valid_ids)) == 20 and set(valid_ids) < set(corpus)
    mean = np.load(scored / "gradients" / "validation.npy")
    assert np.allclose(mean, valid.mean(axis=0), rtol=1e-6, atol=1e-9)
    cost = next(row for row in run.costs() if row["stage"] == "gradients")
    assert cost["rollouts"] == 20 * 3 and cost["generated_tokens"] > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero_stage", [pytest.param(0, marks=pytest.mark.long), 3])
def test_workers_micro_batches_and_a_restart_change_nothing(scored, tmp_path, zero_stage):
    run_dir = shutil.copytree(scored, tmp_path / "run")
    before = parts(run_dir / "gradients")
    digests = [hashlib.sha256(part.read_bytes()).hexdigest() for part in before]
    # As after a kill: the stage has no record, and only the first two files exist.
    (run_dir / "stages" / "gradients.json").unlink()
    (run_dir / "gradients" / "validation.npy").unlink()
    kept = [part.stat().st_mtime_ns for part in before[:2]]
    for part in before[2:]:
        part.unlink()
    finish(
        run_dir,
        "score",
        USED,
        FEW,
        "resources.training_workers=2",
        f"resources.zero_stage={zero_stage}",
        "training.prompts_per_micro_batch=8",
        "scoring.gradient_micro_batch=3",
    )
    assert [part.stat().st_mtime_ns for part in before[:2]] == kept
    assert [hashlib.sha256(part.read_bytes()).hexdigest() for part in before[:2]] == digests[:2]
    ids, found = vectors(run_dir / "gradients")
    expected_ids, expected = vectors(scored / "gradients")
    assert np.array_equal(ids, expected_ids)
    size = np.linalg.norm(expected, axis=1)
    assert np.all(np.linalg.norm(found - expected, axis=1) <= 1e-5 * size)
    mean, other = (np.load(d / "gradients" / "validation.npy") for d in (scored, run_dir))
    assert np.linalg.norm(mean - other) < 1e-5 * np.linalg.norm(mean)
