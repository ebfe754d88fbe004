"""Plan and result of a sweep, from folders that imitate its trials."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.plan import plan
from jobs.trials.bench import trial_of
from jobs.trials.result import Result, charge, drop_damaged, read_rows, rows_of, write_rows
from jobs.trials.tune import concurrent
from jobs.trials.views import publish_sweep, with_fronts
from minirec.config.reading import load
from minirec.corpus import schema
from minirec.errors import ConfigError
from minirec.store.files import write_json
from minirec.store.run import Run
from minirec.store.tables import write_table
from minirec.trials.trial import trials_of


def config_of(tmp_path, *overrides):
    words = ["sweep.budget=[10, 20, 40]", "sweep.seeds=[1, 2]", "evaluation.bootstrap=50"]
    return load(None, [f"run_dir={tmp_path / 'run'}", *words, *overrides])


def test_plan_counts_trials_steps_and_rollouts(tmp_path):
    training = "{epochs: 2, prompts_per_step: 10, prompts_per_micro_batch: 10"
    training += ", rollouts_per_prompt: 3, validation_samples: 7}"
    config = config_of(tmp_path, f"training={training}")
    rows = {what: value for stage, what, value in plan(config) if stage == "sweep"}
    # Two seeds of 2, 4 and 8 steps; at a grace fraction of a half, two validations each.
    assert rows["trials"].startswith("6: 3 settings")
    assert rows["budgets"] == "10, 20, 40"
    assert rows["optimizer steps, at most"] == "28"
    assert rows["rollouts, at most"] == "840, and 84 greedy ones to validate"


def test_a_trial_that_cannot_work_is_refused_by_the_plan(tmp_path):
    with pytest.raises(ConfigError, match="selection.groups 12 exceeds the budget of 10"):
        plan(config_of(tmp_path, "sweep.groups=[2, 12]"))


def test_a_sweep_over_nothing_is_refused(tmp_path, capsys):
    assert main(["sweep", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "nothing to vary" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trials_at_a_time(tmp_path):
    config = config_of(tmp_path)
    assert concurrent(config, {"CPU": 2.0}, limit="auto") == 1
    assert concurrent(config, {"CPU": 1.0}, limit="auto") == 1
    assert concurrent(config, {"CPU": 9.0}, limit="auto") == 4
    assert concurrent(config, {"CPU": 2.0}, limit=3) == 3


def row(trial, status, *, rollouts, seconds, quality=None, cause=None):
    selection = trial.config.selection
    return dict.fromkeys(schema.TRIALS.names) | {
        "trial": trial.name,
        "setting": trial.setting,
        "method": trial.method,
        "budget": selection.budget,
        "samples": selection.budget,
        "alpha": selection.alpha,
        "groups": selection.groups,
        "learnability": selection.learnability,
        "seed": trial.config.seed,
        "status": status,
        "cause": cause,
        "steps": 5,
        "own_rollouts": rollouts - 100,
        "own_seconds": seconds - 10.0,
        "rollouts": rollouts,
        "seconds": seconds,
        "valid_ndcg@10": quality,
    }


def write_ranks(trial, ranks):
    """Write ranks of the trained policy, after ranks of a reference, which must not count."""
    count = len(ranks)
    table = pa.table(
        {
            "policy": ["popularity"] * count + ["trained"] * count,
            "split": ["valid"] * 2 * count,
            "sample_id": [*range(count), *range(count)],
            "rank": [1] * count + ranks,
        },
        schema=schema.RANKS,
    )
    write_table(Run(trial.config.run_dir).path("ranks.parquet"), table)


def show(run, config, planned, rows):
    result = Result(run, config, planned, rows)
    write_rows(run, "sweep", with_fronts(result))
    publish_sweep(result)


@pytest.fixture
def published(tmp_path, capsys):
    config = config_of(tmp_path)
    planned = trials_of(config, "sweep", 1000)
    small, small2, middle, middle2, large, large2 = planned
    rows = [
        row(small, "finished", rollouts=200, seconds=20.0, quality=0.9),
        row(small2, "failed", rollouts=200, seconds=20.0, cause="<b>no room</b>"),
        row(middle, "finished", rollouts=300, seconds=30.0, quality=1.0),
        row(middle2, "finished", rollouts=320, seconds=30.0, quality=1.0),
        row(large, "finished", rollouts=400, seconds=25.0, quality=1.0),
        row(large2, "finished", rollouts=400, seconds=25.0, quality=1.0),
    ]
    write_ranks(small, [1, 1])
    # NDCG@10 by hand: 1, and 1/log2(3) = .6309 for rank 2; 0 beyond rank 10.
    write_ranks(middle, [1, 2])
    write_ranks(middle2, [1, 1])
    write_ranks(large, [1, 1])
    write_ranks(large2, [1, 11])
    run = Run(tmp_path / "run")
    write_table(run.path("corpus", "valid.parquet"), pa.table({"user": ["a", "b"]}))
    show(run, config, planned, rows)
    return config, run, capsys.readouterr().out


def test_a_setting_counts_when_all_its_seeds_have_finished(published):
    _, run, shown = published
    rows = {r["trial"]: r for r in read_rows(run, "sweep")}
    assert not rows["budget-10_seed-1"]["front_rollouts"]
    # middle: (1 + .8155) / 2 = .9077 for 310 rollouts; large: .75 for 400, fewer seconds.
    assert rows["budget-20_seed-1"]["front_rollouts"]
    assert not rows["budget-40_seed-1"]["front_rollouts"]
    assert rows["budget-40_seed-1"]["front_seconds"]
    assert "310 *" in shown
    assert "0.9077" in shown
    assert "budget-20, which is the best itself" in shown


def test_intervals_of_finished_trials(published):
    config, run, _ = published
    planned = trials_of(config, "sweep", 1000)
    write_json(Run(planned[5].config.run_dir).path("stopped.json"), {"valid_ndcg@10": 0.3})
    errors = {planned[1].name: ValueError("no room")}
    found = rows_of(run, config, planned, errors, samples=1000, validations=True)
    rows = {row["trial"]: row for row in found}
    middle = rows["budget-20_seed-1"]
    assert (middle["low"], middle["high"]) == (pytest.approx(1 / np.log2(3)), 1.0)
    failed, stopped = rows["budget-10_seed-2"], rows["budget-40_seed-2"]
    assert (failed["status"], failed["cause"], failed["low"]) == ("failed", "no room", None)
    assert (stopped["status"], stopped["valid_ndcg@10"], stopped["low"]) == ("stopped", 0.3, None)
    assert pq.read_table(run.path("sweep", "trials.parquet")).schema.equals(schema.TRIALS)


def test_best_yaml_is_a_run_of_its_own(published):
    config, run, shown = published
    best = load(run.path("best.yaml"))
    assert best.run_dir == f"{config.run_dir}-best"
    assert best.selection.budget == 20
    assert best.seed == config.seed
    assert not best.sweep.varies
    assert best.training == config.training
    assert "minirec run --config" in shown


def test_the_page_shows_causes_as_text(published):
    _, run, _ = published
    page = run.path("sweep.html").read_text()
    assert "&lt;b&gt;no room&lt;/b&gt;" in page
    assert page.count("<svg") == 2


def test_showing_the_result_again_does_not_write_the_table(published):
    """The table is an output with a checksum. Another tolerance changes only the page."""
    config, run, _ = published
    table, page = run.path("sweep", "trials.parquet"), run.path("sweep.html")
    before, first = (table.stat().st_mtime_ns, table.read_bytes()), page.stat().st_mtime_ns
    other = config_of(run.root.parent, "sweep.tolerance=0.5")
    publish_sweep(Result(run, other, trials_of(other, "sweep", 1000), read_rows(run, "sweep")))
    assert (table.stat().st_mtime_ns, table.read_bytes()) == before
    assert page.stat().st_mtime_ns > first


def test_damage_to_a_trial_removes_that_trial_alone(tmp_path):
    run, found = Run(tmp_path / "run", say=lambda line: None), []
    files = ("trials/a/stages/train.json", "trials/a/policy/log", "trials/b/policy/log", "table")

    def body(cost):
        found.append({name for name in files if run.path(name).exists()})
        for name in files:
            run.path(name).parent.mkdir(parents=True, exist_ok=True)
            run.path(name).write_text(name)

    def sweep():
        outputs = ["trials", "table"]
        run.stage("sweep", settings={}, inputs=[], outputs=outputs, body=body, part_of=trial_of)

    sweep()
    run.path("trials/a/policy/log").write_text("x")
    sweep()
    run.path("table").write_text("x")
    sweep()
    assert found == [set(), {"trials/b/policy/log", "table"}, {*files} - {"table"}]


@pytest.mark.parametrize("harm", ["none", "damage", "loss"])
def test_a_damaged_trial_that_had_ended_is_deleted_and_the_others_stay(tmp_path, harm):
    said: list[str] = []
    run = Run(tmp_path / "run", say=said.append)
    planned = trials_of(
        config_of(run.root, "sweep.budget=[10, 20]", "sweep.seeds=[1]"), "sweep", 99
    )
    for trial in planned:
        found = Run(trial.config.run_dir)

        def body(cost, found=found):
            found.path("policy").mkdir()
            found.path("policy", "log.jsonl").write_text("{}")

        for stage, outputs in (("train", ["policy"]), ("evaluate", [])):
            made = body if outputs else lambda cost: None
            found.stage(stage, settings={}, inputs=[], outputs=outputs, body=made)
    log = Run(planned[0].config.run_dir).path("policy", "log.jsonl")
    if harm == "damage":
        log.write_text("[]")
    elif harm == "loss":
        log.unlink()
    drop_damaged(run, planned)
    kept = [Run(trial.config.run_dir).root.exists() for trial in planned]
    assert kept == [harm == "none", True]
    assert [line.endswith("; the trial runs again") for line in said] == [True] * (harm != "none")


def test_without_a_complete_setting_there_is_no_front(tmp_path, capsys):
    config = config_of(tmp_path, "sweep.budget=[10]", "sweep.seeds=[1]")
    planned = trials_of(config, "sweep", 1000)
    run = Run(tmp_path / "run")
    write_table(run.path("corpus", "valid.parquet"), pa.table({"user": ["a"]}))
    rows = [row(planned[0], "stopped", rollouts=150, seconds=12.0)]
    show(run, config, planned, rows)
    assert "there is no front" in capsys.readouterr().out
    assert not run.path("best.yaml").exists()
    assert run.path("sweep.html").exists()


def test_a_trial_is_charged_with_what_it_uses(tmp_path):
    run = Run(tmp_path / "run")

    def body(rollouts):
        def spend(cost):
            cost.rollouts = rollouts

        return spend

    for stage, rollouts in {"prepare": 1, "proxy": 20, "score": 300, "gradients": 4000}.items():
        run.stage(stage, settings={}, inputs=[], outputs=[], body=body(rollouts))

    def charged(*words):
        config = config_of(tmp_path, "preset=paper", *words)
        return charge(run, trials_of(config, "sweep", 1000)[0])["rollouts"]

    assert charged() == 320
    assert charged("selection.directions=lora_projected") == 4320
    assert charged("selection.method=random") == 320, "its order uses rewards"
    assert charged("selection.method=random", "selection.curriculum=shuffled") == 0
