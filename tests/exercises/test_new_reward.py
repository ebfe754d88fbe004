"""Exercise: a reward of your own.

A reward is a function of a `Ranking` and the cutoff m. Here it is named by the setting as
``package.module:function``. To ship it with MiniRec instead, move it to `minirec.rl.reward` and add
the line ``"top_heavy": top_heavy`` to `REWARDS` there: it then has a name of its own.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minirec.config.reading import described, load
from minirec.rl.reward import Ranking, item_scores, rank_target, reward_function


def top_heavy(ranking: Ranking, cutoff: int) -> Tensor:
    """1 / rank squared up to rank m, else 0."""
    return (ranking.rank <= cutoff) / ranking.rank.float() ** 2


def test_the_setting_names_the_reward():
    config = load(None, [f"reward.name={__name__}:top_heavy", "reward.cutoff=2"]).reward
    reward = reward_function(config.name, softmax_weight=config.softmax_weight)
    # Three items; the hidden states point at items 0, 0 and 1, and item 2 is always the target.
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    hidden = torch.tensor([[1.0, 0.0], [2.0, 1.9], [0.0, 3.0]])
    scores = item_scores(hidden, items=items, temperature=0.02)
    mask = torch.tensor([[False, False, False], [False, False, False], [True, True, False]])
    ranking = rank_target(scores, target=torch.tensor([2, 2, 2]), mask=mask)
    assert ranking.rank.tolist() == [2, 1, 1]
    assert reward(ranking, config.cutoff).tolist() == pytest.approx([0.25, 1.0, 1.0])


def test_the_settings_tell_that_a_function_may_be_named():
    ((_, _, meaning),) = described("reward.name")
    assert "package.module:function" in meaning
