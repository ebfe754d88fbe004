"""The variants of a comparison: their trials, and what a variant may set."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from minirec.config.reading import load
from minirec.errors import ConfigError
from minirec.trials.checks import check_trials
from minirec.trials.trial import trials_of
from minirec.trials.variants import is_chosen, is_whole

SUPERVISED = {
    "training": {"loss": "supervised", "start": "base"},
    "selection": {"method": "full", "curriculum": "shuffled"},
}


def compared(variants, *words):
    given = yaml.safe_dump(variants, default_flow_style=True, sort_keys=False, width=10_000).strip()
    values = ["run_dir=r", f"compare.variants={given}", "compare.seeds=[1, 2]", *words]
    return trials_of(load(None, values), "compare", 1000)


def test_each_variant_is_trained_at_equal_steps_and_at_equal_cost():
    found = compared({"control": SUPERVISED, "ours": {}}, "compare.tokens=6400")
    assert [trial.name for trial in found[:4]] == [
        "control_steps_seed-1",
        "control_tokens_seed-1",
        "ours_steps_seed-1",
        "ours_tokens_seed-1",
    ]
    assert len(found) == 8 and {trial.config.seed for trial in found} == {1, 2}
    steps, tokens = (trial.config.training for trial in found[:2])
    assert (steps.loss, steps.steps, steps.token_limit) == ("supervised", 60, None)
    # 32 prompts of a step cost 2 tokens each at least, so the cost ends the training.
    assert (tokens.steps, tokens.token_limit) == (100, 6400)
    assert found[0].variant == found[0].method == "control"
    assert found[0].free and not found[2].free


def test_without_tokens_there_is_one_table_and_full_data_belongs_to_methods():
    assert {trial.table for trial in compared({"ours": {}})} == {"steps"}
    both = compared({"ours": {}}, "compare.methods=[random]", "compare.budget=[10]")
    assert [trial.setting for trial in both[:3]] == ["full", "random_steps_budget-10", "ours_steps"]
    assert [trial.variant for trial in both[:3]] == [None, None, "ours"]


def test_settings_may_be_dotted_or_nested():
    nested, dotted = (
        compared({"ours": settings})[0].config
        for settings in ({"model": {"prior": "none"}}, {"model.prior": "none"})
    )
    assert nested == dotted and nested.model.prior == "none"


def test_a_variant_without_scores_needs_no_proxy():
    """Otherwise the proxy, which cannot learn from equal rollouts, would be refused."""
    quiet = SUPERVISED | {"rollout": {"max_new_tokens": 0}}
    trial = compared({"control": quiet}, "scoring.policy=proxy")[0]
    assert "proxy" not in trial.config.earlier_policies


def test_patience_is_off_unless_the_variant_sets_it():
    assert compared({"ours": {}}, "training.patience=2")[0].config.training.patience is None
    patient = compared({"ours": {"training.patience": 3}})[0].config.training
    assert patient.patience == 3


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        ({"x": {"training.los": "grpo"}}, "the variant x of compare.variants: training.los is not"),
        ({"x": {"seed": 3}}, "the variant x of compare.variants sets seed, which is the same"),
        ({"x": {"corpus": {"category": "a"}}}, "variant x .*sets corpus.category"),
        ({"x": {"model": {"name": "gpt2"}}}, "variant x .*sets model.name, which is the same"),
        ({"x": {"model.demo.layers": 3}}, "variant x .*sets model.demo.layers"),
        ({"x": {"evaluation.bootstrap": 3}}, "variant x .*sets evaluation.bootstrap"),
        ({"x": {"training.steps": 3}}, "sets training.steps.*set compare.steps outside"),
        ({"x": {"training.token_limit": 3}}, "sets training.token_limit.*set compare.tokens"),
        ({"x": {"selection.budget": -1}}, "the variant x of compare.variants: selection.budget"),
        ({"a/b": {}}, "the variant 'a/b' names a folder; write letters"),
        ({"random": {}}, "the variant random has the name of a method"),
        ({"full": {}}, "the variant full has the name of a method"),
        ({"x": 3}, "the variant x is 3; write its settings"),
    ],
)
def test_what_a_variant_may_not_be_is_one_sentence(variants, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        compared(variants)
    assert "\n" not in str(error.value)


def test_variants_are_references_and_unknown_names_are_refused():
    found = compared({"ours": {}, "control": SUPERVISED}, "compare.references=[control]")
    assert len(found) == 4
    with pytest.raises(ConfigError, match="'contrl' is unknown"):
        compared({"ours": {}}, "compare.references=[contrl]")


def test_variants_without_a_table_and_twins_are_refused():
    with pytest.raises(ConfigError, match="compare.variants and compare.steps or compare.tokens"):
        compared({"ours": {}}, "compare.steps=null")
    with pytest.raises(ConfigError, match="a_steps_seed-1 and b_steps_seed-1 are the same; remove"):
        check_trials(compared({"a": {}, "b": {}}), 1000)


def test_the_ledger_of_the_demo_loads_and_its_variants_differ():
    config = load(Path(__file__).parents[3] / "configs" / "ledger-demo.yaml", ["run_dir=r"])
    found = trials_of(config, "compare", 2000)
    check_trials(found, 2000)
    assert len(found) == 16 * 5 and {trial.table for trial in found} == {"tokens"}
    assert {name for name in config.compare.references} <= {trial.variant for trial in found}
    paper = next(t.config for t in found if t.variant == "warm-paper")
    published = load(None, ["preset=paper"]).selection
    assert paper.selection == published.model_copy(update={"budget": paper.selection.budget})


def test_settings_of_live_selection_need_a_variant_that_chooses_live():
    with pytest.raises(ConfigError, match="the variant ours of compare.variants sets live"):
        compared({"ours": {"live.share": 0.1}})
    (one, *_) = compared({"ours": {"live.share": 0.1, "selection.mode": "live"}})
    assert one.config.live.share == 0.1 and one.config.selection.mode == "live"


def test_a_warm_start_that_chooses_live_is_a_choice():
    everything = SUPERVISED["selection"]
    warm = {"selection": everything, "warm.live": True, "training.start": "warm"}
    (one, *_) = compared({"ours": warm})
    assert is_chosen(one.config) and not is_whole(one.config)
    (other, *_) = compared({"ours": warm | {"warm.live": False}})
    assert is_whole(other.config) and not is_chosen(other.config)
