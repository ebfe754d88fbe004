"""The stage `sasrec`: its files, and which evaluations read them."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import cli
from jobs.stages.evaluate import EVALUATE, _sasrec
from jobs.stages.sasrec import _train
from minirec.config.evaluation import SasrecConfig
from minirec.config.reading import load
from minirec.corpus.schema import RANKS
from minirec.corpus.table import load_samples
from minirec.evaluation import sasrec
from minirec.evaluation.ranking import per_sample
from minirec.store.files import check_folder, read_json
from minirec.store.run import Run
from minirec.trials.trial import trials_of

SMALL = ["corpus.demo.users=40", "corpus.demo.items=30", "corpus.demo.tastes=3"]


def test_its_files_agree(tmp_path, capsys):
    assert cli.main(["prepare", f"run_dir={tmp_path}", *SMALL]) == 0
    corpus, folder = tmp_path / "corpus", tmp_path / "sasrec"
    steps, valid, peak = _train(corpus, folder, SasrecConfig(epochs=3, width=8), 1)
    check_folder(folder)
    assert read_json(folder / "epochs.json") == {"steps": steps, "valid_ndcg@10": valid}
    assert len(valid) == 3 and peak > 0
    assert "sasrec: epoch 3" in capsys.readouterr().out
    assert pq.read_schema(folder / "ranks.parquet").metadata == RANKS.metadata
    with (folder / "model.npz").open("rb") as file:
        model = sasrec.load(file)
    found = _sasrec(Run(tmp_path), ["valid", "test"])
    for split, ranks in found.items():
        assert np.array_equal(ranks, sasrec.ranks(model, load_samples(corpus, split)))
    assert per_sample(found["valid"])["ndcg@10"].mean() == pytest.approx(max(valid))


def test_the_evaluation_reads_it_unless_it_is_left_out():
    assert "sasrec" in EVALUATE.inputs(load())
    assert "sasrec" not in EVALUATE.inputs(load(overrides=["sasrec.epochs=0"]))


def test_trials_leave_it_out():
    """It does not depend on the trial."""
    sweep = load(overrides=["sweep.budget=[0.1, 0.2]"])
    assert {trial.config.sasrec.epochs for trial in trials_of(sweep, "sweep", 100)} == {0}


def test_the_command_refuses_no_epochs(tmp_path, capsys):
    assert cli.main(["sasrec", f"run_dir={tmp_path}", "sasrec.epochs=0"]) == 2
    assert "sasrec.epochs=0 leaves SASRec out" in capsys.readouterr().err
