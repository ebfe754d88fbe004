"""What variants share, what they are charged with, and what is left for their training."""

from __future__ import annotations

import json

import pytest
import yaml
from helpers.small import finish

from jobs.stages.score import SCORE
from jobs.training_log import read_log
from jobs.trials.bench import trial_of
from jobs.trials.result import read_rows
from jobs.trials.shared import charge, check_settings, layers, limited, note_settings, own
from minirec.config.reading import load
from minirec.errors import ArtifactError
from minirec.store.run import Run
from minirec.trials.trial import trials_of

VARIANTS = {
    "control": {
        "training": {"loss": "supervised", "start": "base"},
        "selection": {"method": "full", "curriculum": "shuffled"},
    },
    "continued": {"training": {"loss": "supervised"}, "selection": {"method": "full"}},
    "blind": {"selection": {"method": "random", "curriculum": "shuffled"}},
    "static": {},
    "slower": {"training": {"learning_rate": 1e-5}},
    "deeper": {"scoring": {"rollouts": 8}},
    "papers": {"scoring.policy": "proxy"},
    "wider": {"model.lora_rank": 32},
}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", say=lambda line: None)


def planned(run, variants=VARIANTS, *words):
    given = yaml.safe_dump(variants, default_flow_style=True, sort_keys=False, width=10_000).strip()
    fixed = ["model.prior=none", "rollout.engine=transformers", "compare.seeds=[1]"]
    values = [f"run_dir={run.root}", f"compare.variants={given}", *fixed, *words]
    return {trial.setting: trial for trial in trials_of(load(None, values), "compare", 1000)}


def folders(run, trial):
    return {layer.stage.name: layer.run.root.name for layer in layers(run, trial)}


def spend(run, trial, **tokens):
    """Write what the shared stages of a trial cost, in forward-equivalent tokens."""
    for layer in layers(run, trial):
        cost = {"stage": layer.stage.name, "finished": True, "seconds": 2.0, "rollouts": 3}
        cost |= {"forward_tokens": tokens[layer.stage.name], "validation_forward_tokens": 1}
        layer.run.root.mkdir(parents=True, exist_ok=True)
        line = json.dumps(cost | {"peak_memory_mib": 1.0}) + "\n"
        (layer.run.root / "costs.jsonl").write_text(line)


def test_a_variant_has_the_stages_that_it_uses(run):
    trials = planned(run)
    used = {name: [*folders(run, trial)] for name, trial in trials.items()}
    assert used == {
        "control_steps": [],
        "continued_steps": ["warm", "score"],  # grouped: the order needs rewards
        "blind_steps": ["warm"],
        "static_steps": ["warm", "score"],
        "slower_steps": ["warm", "score"],
        "deeper_steps": ["warm", "score"],
        "papers_steps": ["warm", "proxy", "score"],
        "wider_steps": ["warm", "score"],
    }


def test_equal_settings_share_a_folder_and_others_do_not(run):
    trials = planned(run)
    static, slower, deeper, paper, wider, random = (
        folders(run, trials[f"{name}_steps"])
        for name in ("static", "slower", "deeper", "papers", "wider", "blind")
    )
    assert static == slower
    assert {one["warm"] for one in (static, deeper, paper, random)} == {static["warm"]}
    assert len({one["score"] for one in (static, deeper, paper, wider)}) == 4
    assert wider["warm"] != static["warm"]


def test_the_seed_of_the_trial_is_not_that_of_the_features(run):
    one, two = (planned(run, VARIANTS, f"compare.seeds=[{seed}]") for seed in (1, 2))
    assert folders(run, one["static_steps"]) == folders(run, two["static_steps"])


def test_a_trial_reads_each_output_where_it_was_made(run):
    trial = planned(run)["papers_steps"]
    there = {layer.stage.name: layer.run.root for layer in layers(run, trial)}
    mine = own(run, trial)
    assert mine.path("corpus") == run.root / "corpus"
    assert mine.path("model") == run.root / "model"
    assert mine.path("warm", "adapter") == there["warm"] / "warm" / "adapter"
    assert mine.path("proxy", "adapter") == there["proxy"] / "proxy" / "adapter"
    assert mine.path("features") == there["score"] / "features"
    assert mine.path("policy").parent == mine.root


def test_scoring_again_deletes_no_gradients_of_the_run(run):
    """The body of `score` removes the gradients of former rollouts, where its run has them."""
    scored = next(x for x in layers(run, planned(run)["static_steps"]) if x.stage is SCORE)
    assert scored.run.path("gradients").parent == scored.run.root


def test_a_variant_pays_for_what_it_uses_alone(run):
    trials = planned(run, VARIANTS, "compare.tokens=1000", "compare.steps=null")
    spend(run, trials["papers_tokens"], warm=100, proxy=200, score=400)
    spend(run, trials["static_tokens"], warm=100, score=1000)
    found = {name: charge(run, trials[f"{name}_tokens"]) for name in ("control", "blind", "papers")}
    assert {name: cost["forward_tokens"] for name, cost in found.items()} == {
        "control": 0,
        "blind": 100,
        "papers": 700,
    }
    paper = {"rollouts": 9, "seconds": 6.0, "validation_forward_tokens": 3}
    assert found["papers"] == paper | {"forward_tokens": 700}


def test_training_has_what_the_choice_leaves(run):
    few = {name: VARIANTS[name] for name in ("control", "blind", "papers", "static")}
    trials = planned(run, few, "compare.tokens=1000")
    spend(run, trials["papers_tokens"], warm=100, proxy=200, score=400)
    spend(run, trials["static_tokens"], warm=100, score=1000)
    found, left_out = limited(run, [*trials.values()])
    limits = {trial.setting: trial.config.training.token_limit for trial in found}
    assert limits["control_tokens"] == 1000 and limits["control_steps"] is None
    assert (limits["blind_tokens"], limits["papers_tokens"]) == (900, 300)
    assert left_out == {
        "static_tokens_seed-1": "what precedes its training costs 1.10k of 1.00k tokens"
    }


def test_a_variant_with_other_settings_is_refused_until_it_may_be_overwritten(run):
    before = [*planned(run).values()]
    check_settings(run, before)
    note_settings(run, before)
    check_settings(run, before)
    root = own(run, before[0]).root
    changed = VARIANTS | {"control": VARIANTS["control"] | {"training.learning_rate": 1e-5}}
    after = [*planned(run, changed).values()]
    check_settings(run, after)  # nothing was trained
    root.mkdir(parents=True)
    sentence = "variant control was trained with training.learning_rate=None, now it is 1e-05"
    with pytest.raises(ArtifactError, match=sentence):
        check_settings(run, after)
    assert root.exists()
    check_settings(Run(run.root, overwrite=True, say=lambda line: None), after)
    assert not root.exists()


COMPARE = """
compare:
  methods: []
  seeds: [1]
  steps: 4
  tokens: 130000
  validation_steps: 2
  references: [labels]
  variants:
    labels:
      training: {loss: supervised, start: base}
      selection: {method: full, curriculum: shuffled}
      rollout: {max_new_tokens: 0}
    blind: {training.start: warm, selection: {method: random, curriculum: shuffled}}
    static: {training.start: warm, scoring.policy: warm, model.prior: shortcut}
    expensive: {scoring: {policy: proxy, rollouts: 8}, proxy.training.steps: 40}
"""
WARM = "warm={training: {steps: 6, prompts_per_step: 32, prompts_per_micro_batch: 16}}"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_comparison_of_variants(tmp_path):
    given = yaml.safe_load(COMPARE)["compare"]
    words = [
        f"compare.{name}={yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()}"
        for name, value in given.items()
        if not isinstance(value, int)
    ]
    words += [f"compare.{name}={value}" for name, value in given.items() if isinstance(value, int)]
    folder = tmp_path / "run"
    said = finish(folder, "compare", WARM, *words)
    assert "Test NDCG@10 at equal total cost" in said and "Reinforcement " in said
    assert "expensive: not trained, what precedes its training costs" in said
    rows = {row["setting"]: row for row in read_rows(Run(folder), "comparison")}
    assert len(rows) == 8
    assert rows["expensive_tokens"]["status"] == "untrained"
    for name in ("labels_tokens", "blind_tokens", "static_tokens"):
        last = read_log(folder / "comparison" / f"{name}_seed-1" / "policy" / "log.jsonl")[-1]
        assert rows[name]["status"] == "finished"
        # The step that reaches the limit is the last one.
        assert 0 <= rows[name]["forward_tokens"] - 130_000 < last["forward_tokens"]
        assert rows[name]["validation_forward_tokens"] > 0
    assert [rows[f"{name}_steps"]["steps"] for name in ("labels", "blind", "static")] == [4] * 3
    made = sorted(path.name.rpartition("-")[0] for path in (folder / "comparison/shared").iterdir())
    assert made == ["prior", "proxy", "score", "score", "warm", "warm"]
    assert not (folder / "features").exists(), "the run itself needs no scores"
    assert "compare: finished before, skipped" in finish(folder, "compare", WARM, *words)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("comparison", "comparison"),
        ("comparison/trials.parquet", "comparison/trials.parquet"),
        ("comparison/ours_steps_seed-1/policy/log.jsonl", "comparison/ours_steps_seed-1"),
        ("comparison/shared/warm-0a1b2c3d/warm/log.jsonl", "comparison/shared/warm-0a1b2c3d"),
    ],
)
def test_damage_costs_one_trial_or_one_shared_stage(path, part):
    assert trial_of(path) == part
