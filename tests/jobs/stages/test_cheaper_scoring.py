"""Scoring with a screen and two stages of rollouts gives the same bytes after a restart."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small import finish

from minirec.store.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHEAP = ("scoring.screen=prefill", "scoring.rollouts=[2, 4]", "scoring.control=0.2")
OUTPUTS = ("scores.parquet", "selection.parquet")


def contents(run_dir):
    paths = [*sorted((run_dir / "features").glob("part-*.parquet"))]
    paths += [run_dir / name for name in OUTPUTS]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_cheaper_scoring_is_resumed_to_the_same_bytes(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    printed = finish(run_dir, "score", *CHEAP, "--overwrite")
    finish(run_dir, "select", *CHEAP, "--overwrite")
    assert "rollouts instead of" in printed and "samples screened" in printed
    parts = sorted((run_dir / "features").glob("part-*.parquet"))
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    rows = table.select(["sample_id", "rewards", "screened", "control", "tokens"]).to_pylist()
    train = pq.read_table(run_dir / "corpus" / "train.parquet")["sample_id"].to_pylist()
    assert sorted(row["sample_id"] for row in rows) == sorted(train)
    lengths = {len(row["rewards"]) for row in rows}
    assert lengths == {0, 2, 4}, "the settings do not reach every case"
    assert any(row["control"] for row in rows)
    assert all((len(row["rewards"]) == 0) == row["screened"] for row in rows)
    made = sum(len(row["rewards"]) + (not row["screened"]) for row in rows)
    costs = {row["stage"]: row["rollouts"] for row in Run(run_dir).costs()}
    assert costs["score"] == made < 5 * len(train)

    first = contents(run_dir)
    # As after a kill: two shards and the records of the stages are missing.
    for part in (parts[1], parts[-1]):
        part.unlink()
    for stage in ("score", "select"):
        (run_dir / "stages" / f"{stage}.json").unlink()
    kept = parts[0].stat().st_mtime_ns
    finish(run_dir, "score", *CHEAP)
    finish(run_dir, "select", *CHEAP)
    assert contents(run_dir) == first
    assert parts[0].stat().st_mtime_ns == kept

    partly = (*CHEAP, "scoring.samples=0.5")
    with pytest.raises(AssertionError, match=r"scoring\.samples"):
        finish(run_dir, "score", *partly)
    assert contents(run_dir) == first
    finish(run_dir, "score", *partly, "--overwrite")
    finish(run_dir, "select", *partly, "--overwrite")
    half = pq.read_table(run_dir / "scores.parquet")["sample_id"].to_pylist()
    assert len(half) == len(train) // 2 and set(half) < set(train)
    whole = {row["sample_id"]: row for row in rows}
    for part in (run_dir / "features").glob("part-*.parquet"):
        for row in pq.read_table(part, columns=list(rows[0])).to_pylist():
            full = whole[row["sample_id"]]
            # Other shards have other batches of the forward pass, with other rounding.
            assert row.pop("rewards") == pytest.approx(full["rewards"], rel=1e-5)
            assert row == {name: full[name] for name in row}, "it depends on the other samples"

    less = (*partly, "selection.method=less", "scoring.validation_samples=8")
    finish(run_dir, "gradients", *less)
    found = [pq.read_table(part) for part in sorted((run_dir / "gradients").glob("part-*"))]
    assert sorted(pa.concat_tables(found)["sample_id"].to_pylist()) == sorted(half)
    finish(run_dir, "select", *less, "--overwrite")
    chosen = pq.read_table(run_dir / "selection.parquet")["sample_id"].to_pylist()
    assert chosen and set(chosen) <= set(half)
