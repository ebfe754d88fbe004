"""A comparison: costs and results of small folders computed by hand, and a killed comparison."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small import finish, start, steps_logged, wait_for

from jobs.run import SHARED
from jobs.trials import diagnostics, views
from jobs.trials.diagnostics import shared_by_budget
from jobs.trials.result import (
    Result,
    charge,
    curve,
    drop_outdated,
    gains,
    read_rows,
    rows_of,
    whole_rows,
    write_rows,
)
from jobs.trials.views import publish_comparison, with_reached
from minirec.config.reading import changed, load
from minirec.corpus import schema
from minirec.selection.features import Features
from minirec.store.files import write_json, write_record
from minirec.store.run import Run
from minirec.store.tables import write_table
from minirec.trials.trial import trials_of

COST = {"finished": True, "generated_tokens": 0, "optimizer_steps": 0, "peak_memory_mib": 1.0}


def spend(folder, **stages):
    """Write the costs of a run; each stage: (seconds, rollouts).

    A rollout costs 10 forward-equivalent tokens, and the validations of a stage cost 5.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fixed = COST | {"validation_forward_tokens": 5, "extra": {}}
    lines = [
        json.dumps({"stage": stage, "seconds": s, "rollouts": n, "forward_tokens": 10 * n} | fixed)
        for stage, (s, n) in stages.items()
    ]
    (folder / "costs.jsonl").write_text("".join(line + "\n" for line in lines))


def finished_trial(run, trial, *, ids, valid, test=(1, 11)):
    """Write the files of a finished trial: 3 s of selection and 12 s of training.

    Each of the 4 steps takes 10 rollouts, 100 tokens and 2 s, and every second step a validation of
    50 tokens and 1 s.
    """
    own = Run(trial.config.run_dir, base=run, shared=SHARED)
    spend(own.root, select=(3.0, 0), train=(12.0, 40), evaluate=(50.0, 9))
    each = {"rollouts": 10, "seconds": 2.0, "forward_tokens": 100}
    log = [{"step": i, "dead_groups": 0.25 * i, **each} for i in range(4)]
    for entry, ndcg in zip(log[1::2], valid, strict=True):
        entry |= {"seconds": 3.0, "validation_seconds": 1.0, "valid_ndcg@10": ndcg}
        entry |= {"validation_forward_tokens": 50}
    own.path("policy").mkdir(parents=True)
    own.path("policy", "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log))
    pq.write_table(pa.table({"sample_id": ids}), own.path("selection.parquet"))
    ranks = {("trained", "valid"): [1, 2], ("trained", "test"): list(test)}
    ranks |= {("base", "train"): [11, 1, 11, 2], ("trained", "train"): [1, 1, 2, 2]}
    rows = [
        {"policy": policy, "split": split, "sample_id": i, "rank": rank}
        for (policy, split), values in ranks.items()
        for i, rank in enumerate(values)
    ]
    write_table(own.path("ranks.parquet"), pa.Table.from_pylist(rows, schema=schema.RANKS))


def judged(run, config, planned, errors=None):
    rows = rows_of(run, config, planned, errors or {}, samples=4, validations=False)
    return with_reached(Result(run, config, planned, rows))


@pytest.fixture
def compared(tmp_path):
    """Run, config and trials (full data, `random`, `minirec`) of a finished comparison."""
    words = ["compare.methods=[random, minirec]", "compare.budget=[2]", "compare.seeds=[1]"]
    words += ["training.prompts_per_step=1", "training.prompts_per_micro_batch=1"]
    words += ["preset=paper"]  # the proxy scores, and training starts from the base
    config = load(None, [f"run_dir={tmp_path / 'run'}", *words])
    run = Run(config.run_dir)
    spend(run.root, prepare=(1.0, 0), proxy=(20.0, 300), score=(30.0, 700), gradients=(7.0, 0))
    write_json(run.path("corpus", "corpus.json"), {"samples": {"train": 4}})
    write_table(run.path("corpus", "test.parquet"), pa.table({"user": ["a", "b"]}))
    write_table(run.path("corpus", "valid.parquet"), pa.table({"user": ["a", "b"]}))
    planned = trials_of(config, "compare", 4)
    for trial, valid in zip(planned, ([0.2, 0.4], [0.1, 0.2], [0.39, 0.1]), strict=True):
        finished_trial(run, trial, ids=[0, 3], valid=valid)
    return run, config, planned


def test_the_features_are_charged_to_the_methods_that_use_them(compared):
    run, config, planned = compared
    full, random, ours = judged(run, config, planned)
    # Training took 12 s with 2 s of validations; before its steps 12 - 2 - 4 * 2 = 2 s.
    assert (full["own_rollouts"], full["own_seconds"]) == (40, 3 + 2 + 8)
    assert (random["rollouts"], random["seconds"]) == (40, 13)
    assert (ours["rollouts"], ours["seconds"]) == (1000 + 40, 50 + 13)
    assert (full["samples"], random["samples"], ours["samples"]) == (4, 2, 2)
    # 95% of the best validation of full data is .38: ours reaches it at its first, random never.
    assert (ours["reached_step"], ours["reached_samples"]) == (2, 2)
    assert (ours["reached_rollouts"], ours["reached_seconds"]) == (1000 + 20, 50 + 3 + 2 + 4)
    assert (random["forward_tokens"], ours["forward_tokens"]) == (400, 10_000 + 400)
    assert (ours["own_forward_tokens"], ours["reached_tokens"]) == (400, 10_000 + 200)
    # Of the own validations, and of those of proxy, scoring and gradients that are charged.
    assert (random["validation_forward_tokens"], ours["validation_forward_tokens"]) == (100, 110)
    assert full["reached_step"] == 4 and random["reached_step"] is None
    assert ours["dead_groups"] == pytest.approx(0.375)
    # NDCG@10 by hand: 1 for rank 1, 1/log2(3) = .6309 for rank 2, 0 beyond 10.
    assert ours["valid_ndcg@10"] == pytest.approx((1 + 0.63093) / 2)
    assert ours["test_ndcg@10"] == 0.5


@pytest.mark.parametrize(
    ("words", "charged"),
    [
        # Stage: seconds, and 100 rollouts for each: warm 5, proxy 20, score 30.
        ([], {"full": 0, "random": 0, "minirec": 50, "supervised": 0}),
        (["training.start=warm"], {"full": 5, "random": 5, "minirec": 55, "supervised": 0}),
        (["training.start=proxy"], {"full": 0, "random": 0, "minirec": 50, "supervised": 0}),
        (["scoring.policy=warm"], {"full": 0, "random": 0, "minirec": 35, "supervised": 0}),
        (
            ["scoring.policy=warm", "training.start=warm"],
            {"full": 5, "random": 5, "minirec": 35, "supervised": 0},
        ),
        (
            ["proxy.training.start=warm"],
            {"full": 0, "random": 0, "minirec": 55, "supervised": 0},
        ),
    ],
)
def test_the_warm_start_is_charged_to_what_begins_with_it(tmp_path, words, charged):
    methods = "compare.methods=[random, minirec, supervised]"
    fixed = ["preset=paper", methods, "compare.seeds=[1]"]
    config = load(None, [f"run_dir={tmp_path}", *fixed, *words])
    run = Run(tmp_path)
    spend(run.root, warm=(5.0, 0), proxy=(20.0, 300), score=(30.0, 700))
    found = {t.method: charge(run, t)["seconds"] for t in trials_of(config, "compare", 4)}
    assert found == charged


def test_the_start_is_the_first_point_of_a_curve(compared):
    run, config, planned = compared
    path = Run(planned[0].config.run_dir).path("policy", "log.jsonl")
    log = [json.loads(line) for line in path.read_text().splitlines()]
    log[0] |= {"start_valid_ndcg@10": 0.5, "start_validation_seconds": 0.5, "seconds": 2.5}
    log[0] |= {"start_validation_rollouts": 4}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in log))
    found = curve(run, planned[0], chosen=4)
    assert (found.ndcg, found.steps, found.samples) == ([0.5, 0.2, 0.4], [0, 2, 4], [0, 2, 4])
    # Before the steps: 3 s of selection, and 12 - 2.5 - 2 - 2 * 3 of the training's 12 s.
    assert found.seconds == [4.5, 8.5, 12.5]
    assert found.rollouts == [0, 20, 40]
    counted = curve(run, planned[0], chosen=4, validations=True)
    assert counted.rollouts == [0, 24, 44] and counted.seconds == [4.5, 10.0, 15.0]


def test_gradients_are_charged_to_less(compared):
    run, _, _ = compared
    words = ["compare.methods=[less]", "compare.full_steps=null", "scoring.validation_samples=8"]
    words += [f"run_dir={run.root}", "compare.budget=[2]", "compare.seeds=[1]", "preset=paper"]
    found = curve(run, trials_of(load(None, words), "compare", 4)[0], chosen=2)
    assert (found.cost["rollouts"], found.cost["seconds"]) == (1000, 57)
    assert (found.ndcg, found.cost["own_rollouts"]) == ([], 0)


def test_gains_of_kept_and_dropped_and_shared_selections(compared):
    run, _, planned = compared
    # Kept are 0 and 3: gains 1 and 0. Dropped are 1 and 2: gains 0 and .6309.
    assert gains(run, planned[1]) == pytest.approx((0.5, 0.63093 / 2))
    names = ("random", "minirec")
    expected = {(a, b): None if a == b else 1.0 for a in names for b in names}
    assert shared_by_budget(run, planned) == [(2, expected)]


def test_other_order_of_methods_same_rows(compared, monkeypatch):
    run, config, planned = compared
    for trial, test in zip(planned, ([1, 1], [11, 11], [2, 2]), strict=True):
        shutil.rmtree(trial.config.run_dir)
        finished_trial(run, trial, ids=[0, 3], valid=[0.1, 0.2], test=test)
    rows = judged(run, config, planned)
    found = shown(Result(run, config, planned[::-1], rows[::-1]), monkeypatch)
    assert {one.setting: one.quality for one in found} == {
        row["setting"]: row["test_ndcg@10"] for row in rows
    }


def shown(result, monkeypatch):
    """The outcomes that the comparison is judged by."""
    found = []
    race = views.race
    monkeypatch.setattr(views, "race", lambda o, *a, **b: found.extend(o) or race(o, *a, **b))
    publish_comparison(result)
    return found


def test_without_samples_of_train_there_are_no_gains(compared):
    run, config, _ = compared
    none = changed(config, {"compare.train_samples": None})
    trial = trials_of(none, "compare", 4)[1]
    assert gains(run, trial) == (None, None)


def test_scores_are_judged_by_ten_random_selections(tmp_path, monkeypatch):
    words = ["compare.methods=[random]", "compare.budget=[2]", "compare.full_steps=null"]
    seeds = f"compare.seeds={list(range(10))}"
    config = load(None, [f"run_dir={tmp_path / 'run'}", *words, seeds])
    run = Run(config.run_dir)
    write_table(run.path("corpus", "items.parquet"), pa.table({"item_id": range(20)}))
    # Sample i has reward i / 4. Even seeds select {0, 1}; odd ones select {2, 3} and train better.
    features = Features(
        sample_id=np.arange(4),
        mean_reward=np.arange(4) / 4,
        rollouts=np.full(4, 4),
        hits=np.full(4, 2),
        screened=np.zeros(4, bool),
    )
    monkeypatch.setattr(diagnostics, "load_features", lambda *_, **__: features)
    planned = trials_of(config, "compare", 4)
    for trial in planned:
        good = trial.config.seed % 2
        ids, test = ([2, 3], [1, 1]) if good else ([0, 1], [11, 11])
        finished_trial(run, trial, ids=ids, valid=[0.1, 0.2], test=test)
    found = {name: one for name, _, one in diagnostics.utility(run, config, planned)}
    assert found["mean reward, equal steps"].correlation == pytest.approx(1.0)
    assert found["mean reward, equal steps"].runs == 10
    assert diagnostics.utility(run, config, planned[:9]) == []


def test_rows_of_other_commands_count_if_their_trials_are_complete(compared):
    run, config, planned = compared
    assert whole_rows(run, "comparison") == []
    errors = {planned[0].name: ValueError("no room")}
    write_rows(run, "comparison", judged(run, config, planned, errors))
    assert [row["method"] for row in whole_rows(run, "comparison")] == ["random", "minirec"]
    (run.root / "comparison" / planned[1].name / "ranks.parquet").unlink()
    assert [row["method"] for row in whole_rows(run, "comparison")] == ["minirec"]


def test_a_trial_selected_with_old_gradients_is_deleted(compared):
    run, config, (_, random, _) = compared
    used = changed(config, {"compare.methods": ["less"], "scoring.validation_samples": 8})
    (less,) = trials_of(changed(used, {"compare.full_steps": None}), "compare", 4)
    for trial in (less, random):
        record = {"fingerprint": "x", "inputs": {"gradients": "of before"}, "settings": {}}
        write_record(Path(trial.config.run_dir) / "stages" / "select.json", record)
    gradients = run.root / "stages" / "gradients.json"
    write_record(gradients, {"fingerprint": "of before", "inputs": {}, "settings": {}})
    drop_outdated(run, [less, random])
    assert Path(less.config.run_dir).exists()
    write_record(gradients, {"fingerprint": "of now", "inputs": {}, "settings": {}})
    drop_outdated(Run(run.root, say=lambda _: None), [less, random])
    assert not Path(less.config.run_dir).exists() and Path(random.config.run_dir).exists()


def test_the_goal_follows_from_the_trainings_shown(compared):
    """The rows may come from a command without trainings on full data."""
    run, config, planned = compared
    rows = judged(run, config, planned)
    blank = {name: None for name in rows[0] if name.startswith("reached_")}
    assert with_reached(Result(run, config, planned, [row | blank for row in rows])) == rows


def test_a_failed_trial_has_its_cause_and_no_quality(compared):
    run, config, planned = compared
    row = judged(run, config, planned, {planned[1].name: ValueError("no room")})[1]
    assert (row["status"], row["cause"]) == ("failed", "no room")
    assert row["test_ndcg@10"] is None and row["gain_kept"] is None


FULL = "full_seed-1"
COMPARE = (
    "compare",
    "compare.methods=[random, minirec]",
    "compare.budget=[0.25]",
    "compare.seeds=[1]",
    "compare.steps=4",
    "compare.full_steps=6",
    "compare.validation_steps=2",
    "compare.train_samples=16",
)


def quality(run_dir):
    names = ("trial", "steps", "rollouts", "test_ndcg@10", "gain_kept", "gain_dropped")
    return [{name: row[name] for name in names} for row in read_rows(Run(run_dir), "comparison")]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_and_restarted(undisturbed, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(undisturbed, folder)
    assert "Test NDCG@10 at equal steps" in finish(whole, *COMPARE)
    assert "Do scores predict" not in (whole / "comparison.html").read_text()  # one run

    first, second = (
        killed / "comparison" / name for name in ("full_seed-1", "random_steps_budget-0.25_seed-1")
    )
    process = start(killed, *COMPARE)
    wait_for(lambda: steps_logged(second, "policy") > 0, process, "the second trial")
    process.kill()
    process.wait(30)
    done = (first / "costs.jsonl").read_bytes()
    assert not (killed / "comparison" / "trials.parquet").exists()
    finish(killed, *COMPARE)
    assert (first / "costs.jsonl").read_bytes() == done, "a finished trial ran again"
    assert quality(killed) == quality(whole)
    assert all(row["gain_dropped"] is not None for row in quality(whole) if row["trial"] != FULL)
    for words in ((), ("compare.methods=[minirec, random]",)):
        assert "compare: finished before, skipped" in finish(killed, *COMPARE, *words)

    finish(killed, *COMPARE, "compare.methods=[minirec, less]")
    assert (first / "costs.jsonl").read_bytes() == done, "a finished trial ran again"
    rows = {row.pop("trial"): row for row in quality(killed)}
    before = {row.pop("trial"): row for row in quality(whole)}
    assert {name: rows[name] for name in before} == before, "a row is missing or differs"
    assert len(rows) == 4
    assert load(killed / "config.yaml").selection.method == "value", "not the method of a trial"
    assert "compare: finished before, skipped" in finish(killed, *COMPARE)


def test_rows_have_value_where_items_have_weights(compared):
    run, config, planned = compared
    assert {row["test_value@10"] for row in judged(run, config, planned)} == {None}
    weighted = [
        replace(trial, config=changed(trial.config, {"reward.item_weight": "margin"}))
        for trial in planned
    ]
    for number, trial in enumerate(weighted):
        value = {"valid": {"value@10": {"mean": 1.5}}, "test": {"value@10": {"mean": number}}}
        evaluation = {"policies": {"trained": value}}
        write_json(Run(trial.config.run_dir).path("evaluation.json"), evaluation)
    rows = judged(run, config, weighted)
    assert [row["test_value@10"] for row in rows] == [0, 1, 2]
    assert {row["valid_value@10"] for row in rows} == {1.5}
    write_rows(run, "comparison", rows)
    assert [row["test_value@10"] for row in read_rows(run, "comparison")] == [0, 1, 2]
