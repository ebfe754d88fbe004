"""Forward-equivalent tokens of small steps, counted by hand."""

from __future__ import annotations

import pytest

from minirec.config.training import TrainingConfig
from minirec.model.sharing import Sharing
from minirec.model.tokens import StepTokens, read, rolled_out, trained
from minirec.rl.group import Group

SHARED = Sharing(pairs_per_token=1000.0)
ITEMS = [3, 4, 5]


def group(prompt, completions, written, target=0):
    return Group([1] * prompt, [[2] * n for n in completions], written, [], target)


PAIR = group(10, [4, 6], [3, 6])


def grpo(**settings):
    return TrainingConfig(prompts_per_step=1, prompts_per_micro_batch=1, **settings)


def counted(training, step=0, sharing=SHARED, candidates=(0,), **more):
    groups = [PAIR] if training.loss == "grpo" else [group(10, [1], [0])]
    return StepTokens(training, ITEMS, sharing).count(step, groups, candidates=candidates, **more)


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
    assert counted(grpo(kl_steps=2), step=1) == counted(grpo(), step=1)
    assert counted(grpo(), candidates=(0, 2)) == 19 + 40 + 12 + 16
    assert counted(grpo(), choice_tokens=7) == 19 + 40 + 12 + 6 + 7


@pytest.mark.parametrize(("step", "encoded"), [(0, 12), (1, 3), (2, 12)])
def test_between_two_tables_only_the_items_of_the_step_are_encoded(step, encoded):
    refreshed = grpo(item_refresh_steps=2)
    assert counted(refreshed, step) == 19 + 40 + encoded + 6


def test_a_supervised_step_has_no_rollouts_and_reads_no_table():
    # Training 2 * 11, the item's vector 3, and its training 2 * 3.
    assert counted(grpo(loss="supervised")) == 22 + 3 + 6
    assert counted(grpo(loss="supervised", item_candidates="catalogue")) == 22 + 12 + 6
