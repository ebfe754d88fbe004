"""ASHA stops trials within one seed, also after a restart."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
from ray.tune.schedulers import TrialScheduler

from jobs.trials.result import STOPPED
from jobs.trials.trial import METRIC, PROGRESS, Asha, reports
from minirec.config.reading import load
from minirec.config.trials import AshaConfig
from minirec.store.files import read_json, write_json
from minirec.store.run import Run
from minirec.store.tables import write_table
from minirec.trials.trial import trials_of


@pytest.fixture
def planned(tmp_path):
    words = ["sweep.budget=[0.4, 0.1, 0.2]", "sweep.seeds=[1, 2]", "training.steps=4"]
    return trials_of(load(None, [f"run_dir={tmp_path}", *words]), "sweep", 100)


def decisions(planned, base):
    """A function: the decision of ASHA about a trial that reports a value after half its steps."""
    scheduler = Asha(Run(base), planned, AshaConfig(grace_fraction=0.5, reduction_factor=2))
    scheduler.set_search_properties(METRIC, "max")
    shown = {t.name: SimpleNamespace(trial_id=t.name, config={"name": t.name}) for t in planned}
    for trial in shown.values():
        scheduler.on_trial_add(None, trial)

    def decide(budget, seed, value):
        result = {PROGRESS: 0.5, METRIC: value, "steps": 2}
        return scheduler.on_trial_result(None, shown[f"budget-{budget}_seed-{seed}"], result)

    return decide


def write_log(trial, values):
    """A training log of four steps with a validation after some of them."""
    run = Run(trial.config.run_dir)
    entries = [{"step": s, "rollouts": 8, "tokens": 80, "seconds": 2.0} for s in range(4)]
    for step, value in values.items():
        entries[step] |= {METRIC: value, "validation_rollouts": 5, "validation_tokens": 50}
    run.path("policy").mkdir(parents=True)
    run.path("policy", "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    write_table(run.path("selection.parquet"), pa.table({"sample_id": [1, 2]}))


def test_trials_start_with_the_smallest_budget_and_are_validated_at_the_rungs(planned):
    assert [t.config.selection.budget for t in planned] == [0.1, 0.1, 0.2, 0.2, 0.4, 0.4]
    assert {t.config.training.validation_steps for t in planned} == {2}


OWN = ["training.validation_steps=3", "training.patience=null"]


def test_own_validation_steps_stay(tmp_path):
    config = load(None, [f"run_dir={tmp_path}", "sweep.seeds=[1]", *OWN])
    assert trials_of(config, "sweep", 100)[0].config.training.validation_steps == 3


def test_rungs_are_shares_of_steps_that_follow_from_the_budget(tmp_path):
    words = ["sweep.budget=[64, 640]", "training.prompts_per_step=32", "training.epochs=1.5"]
    config = load(None, [f"run_dir={tmp_path}", *words])
    # 3 and 30 steps; half of them, rounded up.
    assert [t.config.training.validation_steps for t in trials_of(config, "sweep", 1000)] == [2, 15]


def test_reports_carry_progress_but_not_the_last_step(planned, tmp_path):
    write_log(planned[0], {1: 0.3, 3: 0.4})
    (one,) = reports(Run(planned[0].config.run_dir), planned[0].config)
    assert one == {PROGRESS: 0.5, METRIC: 0.3, "steps": 2}


def test_the_worse_is_stopped_within_its_seed(planned, tmp_path):
    decide = decisions(planned, tmp_path)
    assert decide(0.1, 1, 0.30) == TrialScheduler.CONTINUE
    assert decide(0.1, 2, 0.20) == TrialScheduler.CONTINUE  # worse, but of another seed
    assert decide(0.2, 1, 0.29) == TrialScheduler.STOP
    assert decide(0.2, 2, 0.29) == TrialScheduler.CONTINUE
    assert decide(0.4, 1, 0.296) == TrialScheduler.CONTINUE  # above the median .295 of .30 and .29


def test_a_trial_that_has_ended_counts_but_is_not_stopped(planned, tmp_path):
    """A restarted sweep gives all trials to Tune again."""
    stopped = Run(planned[2].config.run_dir).path(STOPPED)
    write_json(stopped, {"steps": 1})
    decide = decisions(planned, tmp_path)
    assert decide(0.1, 1, 0.3) == TrialScheduler.CONTINUE
    assert decide(0.2, 1, 0.2) == TrialScheduler.CONTINUE
    assert read_json(stopped) == {"steps": 1}
    assert decide(0.4, 1, 0.1) == TrialScheduler.STOP
    last = {PROGRESS: 0.5, METRIC: 0.1, "steps": 2}
    assert read_json(Run(planned[4].config.run_dir).path(STOPPED)) == last
