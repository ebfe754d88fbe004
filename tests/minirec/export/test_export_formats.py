"""The exported rows list the excluded items, and the exported reward excludes them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from minirec.corpus.table import Catalogue, Sample
from minirec.export.formats import FORMATS, Example
from minirec.export.reward import Scorer
from minirec.rl import reward
from minirec.rl.horizon import graded
from minirec.rl.ranker import Ranker

CATALOGUE = Catalogue([f"Title {i}" for i in range(5)], [""] * 5, "things")
EXAMPLE = Example(0, Sample(1, history=[1, 2], target=3, same_time=[4]), "prompt", "prompt")


def excluded(to: str, row: dict) -> list[int]:
    """The excluded items in the arguments of a trainer's reward function."""
    found = {"verl": row.get("extra_info"), "openrlhf": row.get("label")}.get(to, row)
    return (json.loads(found) if isinstance(found, str) else found)["excluded"]


@pytest.mark.parametrize("to", FORMATS)
def test_rows_exclude_what_the_user_took_with_the_target(to):
    _, made = FORMATS[to]
    assert excluded(to, made(EXAMPLE, CATALOGUE)) == [1, 2, 4]


@pytest.mark.parametrize("to", FORMATS)
def test_rows_have_the_following_items_only_with_a_horizon(to):
    _, made = FORMATS[to]
    assert "following" not in json.dumps(made(EXAMPLE, CATALOGUE))
    assert '"following": [0]' in json.dumps(
        made(replace(EXAMPLE, following=[0]), CATALOGUE)
    ).replace("\\", "")


def frozen(factors=None):
    # Items 4, 1, 0 rank above the target 3; 1 is in the history, 4 has the target's time.
    cosines = torch.tensor([0.5, 0.7, 0.1, 0.4, 0.9])
    return SimpleNamespace(
        device=torch.device("cpu"),
        settings={"cutoff": 1000, "temperature": 1.0},
        items=torch.stack([cosines, (1 - cosines**2).sqrt()], 1),
        ranking=reward,
        reward=reward.reciprocal_rank,
        factors=factors,
    )


def test_the_reward_ranks_without_the_excluded_items():
    scorer = frozen()
    for out, expected in (([1, 4], 1 / 2), ([1], 1 / 3), ([], 1 / 4)):
        found = Scorer._rewards(scorer, torch.tensor([[2.0, 0.0]]), [out], torch.tensor([3]))
        assert found == pytest.approx([expected])


def test_a_horizon_counts_the_following_items_by_hand():
    """Without 1 and 4, the ranks of 0, 3 and 2 are 1, 2 and 3. The best sum of two is 1 + 1/2."""
    scorer = frozen()
    hidden, targets = torch.tensor([[2.0, 0.0]] * 4), torch.tensor([3, 3, 3, 3])
    later = [[0], [], [2], [0, 2]]
    found = Scorer._rewards(scorer, hidden, [[1, 4]] * 4, targets, None, later)
    pair, three = 1 + 1 / 2, 1 + 1 / 2 + 1 / 3
    assert found == pytest.approx([1, 1 / 2, (1 / 2 + 1 / 3) / pair, three / three])


def test_a_horizon_needs_the_following_items():
    scorer = frozen()
    scorer.settings, scorer.prior = {"horizon": 2}, None
    with pytest.raises(ValueError, match="give the following items of each row"):
        Scorer.rewards(scorer, ["p"], ["c"], excluded=[[]], targets=[3])


@pytest.mark.parametrize("name", ["ndcg", "ndcg_softmax", "reciprocal_rank"])
def test_the_exported_horizon_is_that_of_the_training(name):
    function = reward.reward_function(name, softmax_weight=0.3)
    draw = torch.Generator().manual_seed(4)
    scorer = frozen()
    scorer.items = torch.nn.functional.normalize(torch.randn((9, 3), generator=draw), dim=-1)
    scorer.reward, hidden = function, torch.randn((4, 3), generator=draw)
    samples = [
        Sample(0, [1], 2, following=[3, 5]),
        Sample(1, [2], 4, [7], [8]),
        Sample(2, [0, 6], 0),  # the target is in the history
        Sample(3, [], 8, following=[0, 1, 2]),
    ]
    excluded = [sample.excluded for sample in samples]
    targets = torch.tensor([sample.target for sample in samples])
    later = [sample.following for sample in samples]
    found = Scorer._rewards(scorer, hidden, excluded, targets, None, later)
    ranker = Ranker(scorer.items, 1.0)
    expected = graded(ranker, hidden, ranker.targets(samples), reward=function, cutoff=9)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_reward_has_the_factor_of_the_target():
    scorer = frozen(torch.tensor([9.0, 9.0, 0.5, 2.0, 9.0]))
    hidden, targets = torch.tensor([[2.0, 0.0]] * 2), torch.tensor([3, 2])
    found = Scorer._rewards(scorer, hidden, [[1, 4], []], targets)
    assert found == pytest.approx([2 / 2, 0.5 / 5])
