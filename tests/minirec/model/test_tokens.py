"""Forward-equivalent tokens of small steps, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minirec.config.training import TrainingConfig
from minirec.model.sharing import Sharing
from minirec.model.tokens import StepTokens, read, refresh_steps, rolled_out, trained
from minirec.rl.group import Group

SHARED = Sharing(pairs_per_token=1000.0)
ITEMS = [3, 4, 5]


def group(prompt, completions, written, target=0):
    return Group([1] * prompt, [[2] * n for n in completions], written, [], target)


PAIR = group(10, [4, 6], [3, 6])


def grpo(**settings):
    return TrainingConfig(prompts_per_step=1, prompts_per_micro_batch=1, **settings)


def counted(training, step=0, sharing=SHARED, candidates=(0,), refresh=1, words=None, **more):
    groups = [PAIR] if training.rolls_out else [group(10, [1], [0])]
    counts = StepTokens(training, ITEMS, refresh, sharing, [2] * bool(words), words)
    return counts.count(step, groups, candidates=candidates, **more)


def test_a_backward_pass_costs_one_or_two_forwards():
    assert (trained(frozen=True), trained(frozen=False)) == (2, 3)


def test_an_engine_reads_the_prompt_once():
    assert rolled_out(10, [3, 6]) == 10 + 9


def test_the_trainer_reads_the_prompt_once_where_that_is_cheaper():
    assert read(PAIR, SHARED) == 10 + 4 + 6
    assert read(PAIR, None) == (10 + 4) + (10 + 6)
    # Two long answers to one token: packed, the squares of the length weigh more than the prompt.
    assert read(group(1, [400, 400], [0, 0]), Sharing(pairs_per_token=1.0)) == 2 * 401


def test_a_step_with_rollouts():
    # Rollouts 10 + 9, training 2 * 20, the catalogue 12, and item 0 with gradient 2 * 3.
    assert counted(grpo()) == 19 + 40 + 12 + 6
    assert counted(grpo(), sharing=None) == 19 + 60 + 12 + 6
    assert counted(grpo(live_tokens=True)) == 19 + 60 + 12 + 6
    assert counted(grpo(kl_steps=1)) == 19 + 2 * 20 + 40 + 12 + 6
    assert counted(grpo(kl_weight=0.1)) == 19 + 20 + 40 + 12 + 6
    start = {"loss": "dpo", "preference_reference": "start"}
    assert counted(grpo(**start)) == counted(grpo(**start, kl_weight=0.1)) == 97
    # The answers after half of the text: 10 + 2 + 3 tokens, with an empty marker.
    assert counted(grpo(credit="prefill")) == 19 + 15 + 40 + 12 + 6
    assert counted(grpo(kl_steps=2), step=1) == counted(grpo(), step=1)
    assert counted(grpo(), candidates=(0, 2)) == 19 + 40 + 12 + 16
    assert counted(grpo(), choice_tokens=7) == 19 + 40 + 12 + 6 + 7


def test_agreement_is_read_once_more():
    """Three rollouts of 4, 6 and 8 tokens after a prompt of 10, in a group with and one without a
    target: 28 tokens each; the first two rollouts have 20 of them."""
    settings = {"prompts_per_step": 2, "prompts_per_micro_batch": 1, "replays": 2}

    def cost(step, **more):
        with_target = group(10, [4, 6, 8], [3, 5, 7])
        groups = [with_target, replace(with_target, labelled=False)]
        counts = StepTokens(TrainingConfig(**settings, **more), ITEMS, 1, SHARED)
        return counts.count(step, groups, candidates=[0])

    plain = cost(0)
    assert cost(0, unlabelled=0.5) == plain + 28
    assert cost(0, consistency=0.1) == plain + 2 * 20
    # Steps on the same rollouts keep the pseudo-targets.
    assert cost(1, unlabelled=0.5) == cost(1)
    assert cost(1, consistency=0.1) == cost(1) + 2 * 20


def test_a_reference_reads_the_words_of_the_target_after_each_rollout():
    # The prompt, rollouts of 4 and 6 tokens and the bare marker, each with 3 words.
    assert counted(grpo(), words=[3, 3, 3]) == 19 + (10 + 7 + 9 + 4) + 40 + 12 + 6
    # Which groups live is measured first, with the same reward.
    assert counted(grpo(live_tokens=True), words=[3, 3, 3]) == 19 + 2 * 30 + 60 + 12 + 6


@pytest.mark.parametrize(("step", "encoded"), [(0, 12), (1, 3), (2, 12)])
def test_between_two_tables_only_the_items_of_the_step_are_encoded(step, encoded):
    assert counted(grpo(), step, refresh=2) == 19 + 40 + encoded + 6


def test_a_supervised_step_has_no_rollouts_and_reads_no_table():
    # Training 2 * 11, the item's vector 3, and its training 2 * 3.
    assert counted(grpo(loss="supervised")) == 22 + 3 + 6
    assert counted(grpo(loss="supervised", item_candidates="catalogue")) == 22 + 12 + 6


def every(catalogue, prompts=(10, 30), answer=1, sharing=SHARED, **settings):
    """Two prompts a step and two rollouts of each. The engines read
    10 + 30 tokens, and the training 2 x (12 + 32): S = 128."""
    settings = {"prompts_per_step": 2, "prompts_per_micro_batch": 1, **settings}
    training = TrainingConfig(rollouts_per_prompt=2, **settings)
    items = [catalogue // 2, catalogue - catalogue // 2]
    return refresh_steps(training, items=items, prompts=prompts, answer=answer, sharing=sharing)


def test_auto_encodes_the_catalogue_at_a_quarter_of_a_step():
    # n >= 3 C / 128
    assert [every(c, checkpoint_steps=60) for c in (42, 43, 85, 86, 128)] == [1, 2, 2, 3, 3]
    # Four prompts a step cost twice as much.
    assert every(85, checkpoint_steps=60, prompts_per_step=4) == 1
    # Separate sequences: 40 + 2 x 2 x (11 + 31) = 208.
    assert every(69, checkpoint_steps=60) == 2 and every(69, checkpoint_steps=60, sharing=None) == 1


def test_auto_is_a_divisor_of_the_checkpoints():
    # 3 x 300 / 128 = 7.03, so n is 8.
    assert [every(300, checkpoint_steps=c) for c in (8, 10, 7, 12, 11)] == [8, 5, 7, 6, 1]
    assert every(10**6, checkpoint_steps=10) == 10


def test_auto_is_one_where_it_must_be_or_saves_nothing():
    assert every(10**6, item_candidates="catalogue") == 1
    assert every(10**6, loss="supervised") == 1
    assert every(10**6, item_refresh_steps=5) == 5
    assert every(1) == 1
