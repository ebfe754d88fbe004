"""Validation during training agrees with the full evaluation of the same adapter."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.small import finish

from actors.training.validation import drawn, due
from jobs.training_log import read_log
from minirec.store.run import Run


def test_when_the_policy_is_validated():
    assert [s for s in range(7) if due(s, last=s == 6, every=3)] == [2, 5, 6]
    assert not any(due(s, last=s == 6, every=None) for s in range(7))


def test_the_seed_fixes_the_draw_which_keeps_the_order():
    one = drawn(10, count=4, seed=1)
    assert one == drawn(10, count=4, seed=1) == sorted(set(one))
    assert set(one) < set(range(10))
    assert len({tuple(drawn(10, count=4, seed=seed)) for seed in range(5)}) > 1
    assert drawn(10, count=50, seed=1) == list(range(10))


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_with_sharded_weights_agree_with_the_evaluation(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    # 40 samples in blocks of 16: the second worker has one block fewer and repeats a block.
    options = [
        "training.steps=4",
        "training.checkpoint_steps=4",
        "resources.training_workers=2",
        "resources.zero_stage=3",
        "training.prompts_per_micro_batch=4",
        "training.validation_steps=3",
    ]
    finish(run_dir, "train", "--overwrite", *options)
    log = read_log(run_dir / "policy" / "log.jsonl")
    assert ["valid_ndcg@10" in entry for entry in log] == [False, False, True, True]
    finish(run_dir, "evaluate", "--overwrite", *options)
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    free = ["popularity", "cooccurrence", "transitions", "title_likeness", "shortcut"]
    references = [*free, "sasrec"]
    assert {*evaluation["policies"]} == {"base", "trained", *references}
    valid = evaluation["policies"]["trained"]["valid"]["ndcg@10"]["mean"]
    assert log[-1]["valid_ndcg@10"] == pytest.approx(valid, abs=1e-6)
    assert log[-2]["valid_ndcg@10"] != log[-1]["valid_ndcg@10"]
    (cost,) = [cost for cost in Run(run_dir).costs() if cost["stage"] == "train"]
    validations = sum(entry.get("validation_rollouts", 0) for entry in log)
    assert cost["rollouts"] == 4 * 16 * 4 + validations
