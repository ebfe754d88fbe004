"""What choosing cost and saved, by hand."""

from __future__ import annotations

import json

import pytest
from helpers.live_run import PROMPTS, STEPS, make_live_run, write_log
from helpers.report_run import SAMPLES, make_run

from jobs.stages.select import SELECT
from minirec.config.reading import load
from minirec.evaluation.choosing import Spent, charged, choosing
from minirec.store.run import Run

STATIC = (f"training.prompts_per_step={PROMPTS}", f"training.prompts_per_micro_batch={PROMPTS}")


def spend(run, **seconds):
    """Replace the costs of a run: seconds and forward tokens by stage."""
    charge = {"train": "policy", "evaluate": None}
    rows = [
        {"stage": stage, "charged": charge.get(stage, "selection"), "finished": True}
        | {"seconds": value, "rollouts": 10 * value, "forward_tokens": 100 * value}
        | {"peak_memory_mib": 0.0}
        for stage, value in seconds.items()
    ]
    run.path("costs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def static(tmp_path, **seconds):
    run = make_run(tmp_path / "run")
    SELECT.run(run, load(None, ["selection.budget=0.1"]), None)
    write_log(run)
    log = [json.loads(line) for line in run.path("policy", "log.jsonl").read_text().splitlines()]
    kept = ({k: v for k, v in entry.items() if not k.startswith("cho")} for entry in log)
    run.path("policy", "log.jsonl").write_text("\n".join(map(json.dumps, kept)))
    spend(run, **seconds)
    return choosing(run, load(None, [*STATIC]))


def test_prompts_of_replays_count_once(tmp_path):
    """8 steps of 4 prompts; three steps train the same ones, and the last batch only twice."""
    overrides = ("training.replays=3", "training.checkpoint_steps=3")
    found = live(tmp_path, *overrides)
    assert STEPS == 8 and found.prompts == 3 * 4


def live(tmp_path, *overrides, rollouts=True, **seconds):
    run = make_live_run(tmp_path / "run", *overrides, rollouts=rollouts)
    if seconds:
        spend(run, **seconds)
    return choosing(run, load(run.path("config.yaml")))


def test_live_selection_by_hand(tmp_path):
    found = live(tmp_path, train=20, evaluate=20)
    assert found.stages == () and found.measured == 5 * STEPS
    assert found.cost == Spent(0.5 * STEPS, 0, 100 * STEPS)
    assert found.share == 4 / 40
    assert found.training == Spent(1.5 * STEPS, 16 * STEPS, 900 * STEPS)
    # 128 of 160 prompts are left out, four times the 32 that were trained.
    assert found.avoided == Spent(48.0, 512, 28_800)
    assert found.sentences() == [
        "Choosing the samples took 4.0 s (10% of the run), no rollouts and 800 forward-equivalent "
        "tokens (20% of the run): ranking the targets of 40 prompts during the training.",
        "The training had 32 prompts of 25 samples and 128 rollouts; an epoch of all 160 samples "
        "has 160 prompts and 640 rollouts.",
        "Choosing cost less than the rollouts that it avoided: 800 tokens against 28,800, 4.0 s "
        "against 48.0 s, 0 rollouts against 512, if each prompt left out would have cost what a "
        "trained one cost.",
    ]


def test_supervision_avoids_no_rollouts(tmp_path):
    found = live(tmp_path, "training.loss=supervised", rollouts=False)
    assert found.avoided.rollouts == 0 and found.whole.tokens is None
    assert "Choosing cost less than the training that it avoided" in found.sentences()[2]
    assert "rollouts" not in " ".join(found.sentences()[1:])


def test_static_selection_that_costs_more_than_it_avoids(tmp_path):
    found = static(tmp_path, proxy=30, score=300, select=1, train=16, evaluate=10)
    assert found.stages == ("proxy", "score", "select")
    assert found.cost == Spent(331, 3310, 33_100)
    assert found.training == Spent(16.0, 128, 8000)
    assert found.avoided == Spent(64.0, 512, 32_000)
    assert found.distinct == SAMPLES // 10
    assert found.sentences()[2].startswith(
        "Choosing cost more than the rollouts that it avoided: 33,100 tokens against 32,000, "
    )


def test_tokens_decide_where_they_are_known(tmp_path):
    found = static(tmp_path, score=100, train=16)
    assert found.cost.seconds > found.avoided.seconds and found.cost.tokens < found.avoided.tokens
    assert "Choosing cost less" in found.sentences()[2]


def test_a_training_longer_than_an_epoch_avoids_nothing(tmp_path):
    run = make_live_run(tmp_path / "run")
    log = run.path("policy", "log.jsonl")
    log.write_text("\n".join([log.read_text()] * 5))
    found = choosing(run, load(run.path("config.yaml")))
    assert found.prompts == SAMPLES and found.avoided == Spent(0.0, 0, 0)
    assert found.sentences()[2] == "So choosing avoided no training: its cost comes on top."


def test_without_a_log_only_the_cost_is_known(tmp_path):
    run = make_live_run(tmp_path / "run")
    run.path("policy", "log.jsonl").unlink()
    assert len(choosing(run, load(run.path("config.yaml"))).sentences()) == 1


@pytest.mark.parametrize(
    ("chooses", "start", "paid"),
    [
        ("select", [], {"warm", "score", "select"}),
        ("select", ["warm"], {"score", "select"}),
        ("score", [], {"warm", "score"}),
        ("score", ["warm"], {"score"}),
        ("prepare", ["warm"], set()),
    ],
)
def test_the_warm_start_is_a_cost_of_selection_unless_the_policy_starts_from_it(
    tmp_path, chooses, start, paid
):
    run = Run(tmp_path, say=lambda _: None)
    stages = {"prepare": [], "warm": [], "score": ["warm"], "select": ["score"]}
    stages["train"] = [chooses, *start]
    for name, inputs in stages.items():
        options = {"settings": {}, "outputs": []}
        options["charged"] = {"train": "policy", "prepare": None}.get(name, "selection")
        run.stage(name, inputs=inputs, body=lambda cost: None, **options)
    rows = charged(run, live=chooses != "select")
    assert {row["stage"] for row in rows if row["charged"]} == paid
