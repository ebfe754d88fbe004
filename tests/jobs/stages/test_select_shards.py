"""`selection.shards` in a run: Ray actors share the rows of MaxMin."""

import shutil

import pytest
from helpers.small import finish

from minirec.store.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_shards_change_no_pick(undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run", ignore=shutil.ignore_patterns("ray"))
    (run / "selection.parquet").unlink()
    finish(run, "select", "selection.shards=2")
    found, expected = (read_table(r / "selection.parquet") for r in (run, undisturbed))
    assert found.drop_columns("novelty") == expected.drop_columns("novelty")
    novelty = [table["novelty"].to_pylist() for table in (found, expected)]
    assert novelty[0] == pytest.approx(novelty[1], abs=1e-2)  # by distances of about 1e-3, float32
