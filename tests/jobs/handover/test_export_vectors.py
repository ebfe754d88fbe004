"""The item vectors of an export are those that the run has, if they are of the same weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from jobs.cli import main
from jobs.handover.export_source import encoded
from minirec.config.reading import load
from minirec.store.files import write_record
from minirec.store.run import Run
from minirec.store.tables import read_array, write_array

CONFIG = load(None, ["scoring.policy=proxy"])


def record(run: Run, stage: str, fingerprint: str, **inputs: str) -> None:
    write_record(
        run.path("stages", f"{stage}.json"), {"fingerprint": fingerprint, "inputs": inputs}
    )


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    record(run, "proxy", "p1")
    record(run, "train", "t1")
    record(run, "score", "s1", proxy="p1")
    record(run, "evaluate", "e1", train="t1", proxy="p1")
    for parts in (("features", "item_table.npy"), ("evaluation", "trained.npy")):
        write_array(run.path(*parts), np.ones((2, 2), np.float32))
    return run


def test_a_table_belongs_to_the_weights_that_its_stage_read(run):
    assert encoded(run, CONFIG, "trained") == run.path("evaluation", "trained.npy")
    assert encoded(run, CONFIG, "proxy") == run.path("features", "item_table.npy")
    record(run, "train", "t2")
    record(run, "proxy", "p2")
    assert encoded(run, CONFIG, "trained") is None
    assert encoded(run, CONFIG, "proxy") is None


def test_another_policy_has_not_encoded_the_table_of_score(run):
    record(run, "warm", "w1")
    record(run, "score", "s1", warm="w1", proxy="p1")
    config = load(None, ["scoring.policy=warm"])
    assert encoded(run, config, "proxy") is None
    assert encoded(run, config, "warm") == run.path("features", "item_table.npy")


def test_a_file_that_is_not_there_is_not_read(run):
    run.path("evaluation", "trained.npy").unlink()
    assert encoded(run, CONFIG, "trained") is None


@pytest.mark.slow
def test_export_takes_the_stored_vectors(with_prior, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(with_prior, copy)
    stored = np.eye(*read_array(copy / "evaluation" / "trained.npy").shape)
    write_array(copy / "evaluation" / "trained.npy", stored.astype(np.float32))
    for to in ("adapter", "merged"):
        out = tmp_path / to
        words = ["--run", str(copy), "--to", to, "--out", str(out)]
        assert main(["export", *words]) == 0
        assert np.array_equal(np.load(out / "items.npy"), stored)
