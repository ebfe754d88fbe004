"""What rewards that read texts, and the loss contrastive, do not go together with."""

from __future__ import annotations

import pytest

from jobs.fingerprint import feedback_settings, policy_settings, training_settings
from jobs.handover.export import check_ranks
from jobs.plan import plan
from minirec.config.reading import load
from minirec.config.training import TrainingConfig
from minirec.errors import ConfigError
from minirec.trials.trial import trials_of

LIKELIHOOD = "reward.name=reference_likelihood"
JUDGE = "reward.judge=my.judges:mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.loss=contrastive", "training.live_tokens=true"], "loss contrastive is one of"),
        (
            ["training.loss=contrastive", "training.weighting=hard"],
            "weighting hard changes the advantages of tokens, but loss contrastive reads only the",
        ),
        (["training.loss=contrastive", "training.credit=prefill"], "credit prefill changes the"),
        (["training.contrastive_margin=0"], "contrastive_margin=0 is refused"),
        ([LIKELIHOOD, "reward.horizon=2"], "horizon 2 counts the ranks of later items"),
        ([JUDGE, "reward.horizon=2"], "horizon 2 counts the ranks of later items, but judge"),
        ([LIKELIHOOD, JUDGE], "name reference_likelihood is computed for nothing"),
        ([LIKELIHOOD, "training.item_loss=pairs"], "training.item_loss pairs rewards lists"),
        ([JUDGE, "training.item_loss=pairs"], "training.item_loss pairs rewards lists of items"),
        ([LIKELIHOOD, "training.credit=prefill"], "training.credit prefill needs rewards of parts"),
        ([LIKELIHOOD, "proxy.training.loss=maxrl"], "maxrl needs rewards of at least 0, but"),
        ([LIKELIHOOD, "scoring.rollouts=0", "selection.mode=static"], "scoring has none with"),
        ([LIKELIHOOD, "training.rollouts_first=2"], "looks at the ranks of the first"),
        (["corpus.choices=2", "training.unlabelled=0.5"], "last items have no rating"),
        (
            [JUDGE, "selection.curriculum=self_paced", "selection.mode=static"],
            "set selection.pace to hard or progress",
        ),
        ([LIKELIHOOD, "training.loss=supervised"], "reads the texts of rollouts, but training"),
        ([JUDGE, "training.loss=supervised"], "mine reads the texts of rollouts, but training.lo"),
        (["reward.judge=mine"], "judge mine does not name a function; write package.module:"),
        ([JUDGE, "reward.judge_deadline_s=9999"], "must exceed reward.judge_deadline_s 9999"),
        (["reward.reference_weight=0"], "reference_weight=0 is refused"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load(None, ["training.staleness=0", *changes])


@pytest.mark.parametrize(
    "changes",
    [
        [LIKELIHOOD, "reward.feedback=comparison", "training.loss=contrastive"],
        [LIKELIHOOD, "training.live_tokens=true", "training.weighting=middle"],
        [JUDGE, "reward.feedback=comparison", "training.replays=2", "training.imitate_best=0.1"],
        [JUDGE, "training.loss=maxrl"],
        ["training.loss=contrastive", "training.kl_weight=0.1"],
    ],
)
def test_what_goes_together(changes):
    load(None, ["selection.mode=static", *changes])


def test_settings_without_effect_are_in_no_fingerprint():
    plain, unused = load(), load(None, ["reward.reference=/an/lm", "reward.judge_calls=4"])
    assert policy_settings(unused) == policy_settings(plain)
    assert not {"reference", "judge"} & set(policy_settings(plain)["reward"])
    mixed = load(None, [LIKELIHOOD])
    assert policy_settings(mixed)["reward"]["reference"] == "base"
    neutral = TrainingConfig(contrastive_margin=0.5, contrastive_weight=2)
    assert training_settings(neutral) == training_settings(TrainingConfig())
    pairs = training_settings(TrainingConfig(loss="contrastive"))
    assert {"contrastive_margin", "contrastive_weight"} <= set(pairs)


def test_a_judge_is_in_the_fingerprint_of_trainings_alone():
    judge = load(None, [JUDGE])
    assert policy_settings(judge) == policy_settings(load())
    assert feedback_settings(judge) == {"feedback": {"judge": "my.judges:mine"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reward.judge=no.such:judge", r"reward\.judge='no\.such:judge' cannot be imported"),
        ("reward.reference=/no/lm", r"reward\.reference /no/lm is no folder with a model"),
    ],
)
def test_what_a_plan_refuses(change, message, tmp_path):
    words = [change] if "judge" in change else [change, LIKELIHOOD]
    with pytest.raises(ConfigError, match=message):
        plan(load(None, [f"run_dir={tmp_path}", *words]))


@pytest.mark.parametrize("change", [LIKELIHOOD, JUDGE])
def test_other_trainers_get_no_reward_of_texts(change):
    with pytest.raises(ConfigError, match="--to trl brings along the reward of a completion by"):
        check_ranks(load(None, [change]), "trl")
    check_ranks(load(), "trl")


@pytest.mark.parametrize("change", [LIKELIHOOD, JUDGE])
def test_a_supervised_trial_has_no_texts(change):
    words = ["compare.methods=[random, supervised]", "compare.seeds=[1]", change]
    config = load(None, ["selection.mode=static", *words])
    supervised = [t for t in trials_of(config, "compare", 1000) if t.method == "supervised"]
    assert supervised
    assert not any(trial.config.reward.reads_texts for trial in supervised)
