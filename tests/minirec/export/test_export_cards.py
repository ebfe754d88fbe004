"""The commands in the README of an exported subset have the settings of the run."""

from __future__ import annotations

import re
import shlex

import pytest

from minirec.config.reading import load
from minirec.export.cards import data_card, model_card

NAMED = ["model.name=some/model"]


def card(to, *overrides, samples, steps, has_template=True):
    config = load(None, [*NAMED, *overrides])
    return data_card(
        config, to=to, samples=samples, steps=steps, policy="proxy", has_template=has_template
    )


def command(text):
    """Words of the command, as a shell splits them."""
    (found,) = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return shlex.split(found.replace("\\\n", " "))  # shlex would read it as a word


def verl(*overrides, **about):
    words = command(card("verl", *overrides, **about))
    assert words[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    settings = dict(word.split("=", 1) for word in words[3:])
    assert len(settings) == len(words) - 3
    return settings


def openrlhf(*overrides, **about):
    words = command(card("openrlhf", *overrides, **about))[3:]
    assert len(words) % 2 == 0
    return dict(zip(words[::2], words[1::2], strict=True))


def trl(*overrides, **about):
    found = re.findall(r"(\w+)=([\w.]+),", card("trl", *overrides, **about))
    return {name: float(value) for name, value in found if value[0].isdigit()}


def test_the_card_of_a_live_selection_says_how_it_was_chosen():
    live = ["selection.mode=live", "live.band=[0.05, 0.9]", "training.prompts_per_step=64"]
    said = " ".join(card("trl", *live, samples=100, steps=7).split())
    for words in (
        "Chosen live by MiniRec (`selection.mode=live`, `live.rule=band`",
        "each of 7 training steps took its 64 prompts for the policy of that moment",
        "some/model with LoRA, trained from the adapter of `warm`",
        "in the band from 0.05 to 0.9",
        "it trains this subset statically",
    ):
        assert words in said
    assert "selection.method" not in said and "diversity" not in said
    said = " ".join(card("trl", *live, "live.rule=value", samples=100, steps=7).split())
    assert "ranks by learnability, representativeness and diversity" in said
    assert max(map(len, card("jsonl", *live, samples=9, steps=7).splitlines())) <= 100


BATCHES = ["training.prompts_per_step=64", "training.prompts_per_micro_batch=16"]


def test_verl_gets_batches_groups_and_lengths_of_the_run():
    found = verl(*BATCHES, "preset=paper-amazon", samples=584, steps=30)
    assert found["algorithm.adv_estimator"] == "grpo"
    assert found["actor_rollout_ref.rollout.n"] == "4"
    assert found["data.train_batch_size"] == "64"
    assert found["actor_rollout_ref.actor.ppo_mini_batch_size"] == "64"
    assert found["data.max_prompt_length"] == "1024"
    assert found["data.truncation"] == "error" and found["data.shuffle"] == "False"
    assert found["actor_rollout_ref.rollout.agent.num_workers"] == "8"
    # 584 rows hold 9 batches of 64, so that 30 steps need 4 epochs.
    assert found["trainer.total_training_steps"] == "30" and found["trainer.total_epochs"] == "4"
    assert "actor_rollout_ref.model.custom_chat_template" not in found
    text = card("verl", *BATCHES, samples=584, steps=30)
    assert "The last 8 samples do not fill a batch" in text
    assert "do not fill" not in card("verl", *BATCHES, samples=640, steps=30)


def test_a_batch_is_no_larger_than_the_file():
    few = ["training.prompts_per_step=32", "training.rollouts_per_prompt=2"]
    found = verl(*few, "rollout.max_new_tokens=20000", samples=7, steps=2)
    assert found["data.train_batch_size"] == "7" and found["trainer.total_epochs"] == "2"
    assert found["actor_rollout_ref.rollout.agent.num_workers"] == "2"  # 14 in equal parts
    assert found["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] == "20512"
    assert openrlhf(*few, samples=7, steps=2)["--rollout.batch_size"] == "7"
    found = trl(*few, samples=7, steps=2)
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] == 14


def test_openrlhf_gets_groups_and_lengths_of_the_run():
    found = openrlhf(*BATCHES, "rollout.max_new_tokens=40", samples=640, steps=30)
    assert found["--algo.advantage.estimator"] == "group_norm"
    assert found["--rollout.n_samples_per_prompt"] == "4"
    assert found["--rollout.batch_size"] == "64" and found["--train.batch_size"] == "256"
    assert found["--rollout.max_new_tokens"] == "40" and found["--data.max_len"] == "552"
    assert found["--train.num_episodes"] == "3"


def test_trl_gets_batches_and_groups_of_the_run():
    found = trl(*BATCHES, "training.rollouts_per_prompt=6", samples=640, steps=30)
    assert found["num_generations"] == 6 and found["max_steps"] == 30
    assert found["per_device_train_batch_size"] == 16 * 6
    assert found["gradient_accumulation_steps"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ["model.name=demo"]])
def test_verl_gets_a_template_that_leaves_the_prompt_of_a_base_model(encoder, overrides):
    found = verl(*overrides, samples=64, steps=2, has_template=False)
    quoted = found["actor_rollout_ref.model.custom_chat_template"]
    assert quoted[0] == quoted[-1] == '"'
    words = encoder.words(["Jazz Piano Night", 'Robot "War"'])
    rendered = encoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": words}],
        chat_template=quoted[1:-1],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert rendered == encoder.text(words)
    text = card("verl", *overrides, samples=64, steps=2, has_template=False)
    assert "The model has no chat template" in text


@pytest.mark.parametrize(("samples", "steps", "episodes"), [(235, 8, 1), (584, 19, 1), (640, 5, 1)])
def test_openrlhf_trains_the_nearest_number_of_whole_passes(samples, steps, episodes):
    """235 samples are 7 steps of 32 prompts, 584 are 18, 640 are 20."""
    about = {"samples": samples, "steps": steps}
    assert openrlhf(**about)["--train.num_episodes"] == str(episodes)
    said = card("openrlhf", **about)
    assert f"about {samples // 32} steps, and MiniRec trains {steps}" in " ".join(said.split())


def test_cards_name_the_prior_of_a_policy_that_has_one():
    about = {"to": "merged", "base": "base", "policy": "trained", "evaluation": None}
    weights = {"cooccurrence": 1.25, "transitions": 3.0, "titles": 2.0}
    config = load(None, [*NAMED, "model.prior=shortcut", "model.temperature=0.05"])
    found = model_card(config, weights=weights, **about)
    assert "cosine / 0.05 + 1.25 * co-occurrence + 3.00 * transitions + 2.00 * likeness" in found
    assert "for item, score in" in found and "refresh" not in found
    assert "figures below were measured without" in " ".join(
        model_card(config, weights=weights, refreshed=True, **about).split()
    )
    plain = model_card(load(None, NAMED), **about)
    assert "for item, cosine in" in plain and "prior" not in plain
    settings = {"samples": 64, "steps": 2}
    assert "prior.npz" in card("trl", "model.prior=shortcut", **settings)
    assert "prior" not in card("trl", "model.prior=none", **settings)


def test_the_card_of_a_policy_without_an_analysis_says_so():
    figures = {"test": {"ndcg@10": {"mean": 0.5, "low": 0.4, "high": 0.6}}}
    about = {"to": "merged", "base": "base", "policy": "trained", "evaluation": figures}
    words = ["rollout.max_new_tokens=0", "training.loss=supervised"]
    found = " ".join(model_card(load(None, [*NAMED, *words]), **about).split())
    assert "reads a history and writes nothing; its hidden state" in found
    assert "Full ranking of the catalogue, no analysis." in found
    assert "writes a short analysis" in model_card(load(None, NAMED), **about)


WEIGHTED = "reward.item_weight=margin"


def test_trainers_do_not_cancel_the_weights_of_items():
    about = {"samples": 640, "steps": 10}
    assert "scale_rewards=False," in card("trl", WEIGHTED, **about)
    assert verl(WEIGHTED, **about)["algorithm.norm_adv_by_std_in_grpo"] == "False"
    assert openrlhf(WEIGHTED, **about)["--algo.advantage.estimator"] == "dr_grpo"
    assert openrlhf(**about)["--algo.advantage.estimator"] == "group_norm"
    for to in ("jsonl", "trl", "verl", "openrlhf"):
        assert "its `margin` over the mean\nof the targets" in card(to, WEIGHTED, **about)
        plain = card(to, **about)
        assert not any(word in plain for word in ("margin", "factor", "scale_rewards", "by_std"))


def test_the_card_of_a_policy_shows_its_value():
    mean = {"mean": 0.5, "low": 0.4, "high": 0.6}
    options = {"to": "merged", "base": "base", "policy": "trained"}
    evaluation = {"test": {"value@10": mean, "ndcg@10": mean}}
    text = model_card(load(None, [WEIGHTED]), evaluation=evaluation, **options)
    assert "| test | value@10 | 0.5000 | 0.4000 to 0.6000 |" in text
    assert "value@10 is NDCG@10 times the target's `margin`" in text


def test_the_card_of_a_subset_has_the_figures_of_the_policy_trained_on_it():
    config = load(None, NAMED)
    about = {"samples": 9, "steps": 7, "policy": "proxy", "has_template": True}
    figures = {"test": {"ndcg@10": {"mean": 0.25, "low": 0.125, "high": 0.5}}}
    said = data_card(config, to="datasets", evaluation=figures, **about)
    assert "The figures of some/model, trained on these interactions by MiniRec:" in said
    assert "| test | ndcg@10 | 0.2500 | 0.1250 to 0.5000 |" in said
    assert "figures" not in data_card(config, to="datasets", **about)
