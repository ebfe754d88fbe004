"""The exported rows list the excluded items, and the exported reward excludes them."""

import json
from types import SimpleNamespace

import pytest
import torch

from minirec.corpus.table import Catalogue, Sample
from minirec.export.formats import FORMATS, Example
from minirec.export.reward import Scorer
from minirec.rl import reward

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


def test_the_reward_has_the_factor_of_the_target():
    scorer = frozen(torch.tensor([9.0, 9.0, 0.5, 2.0, 9.0]))
    hidden, targets = torch.tensor([[2.0, 0.0]] * 2), torch.tensor([3, 2])
    found = Scorer._rewards(scorer, hidden, [[1, 4], []], targets)
    assert found == pytest.approx([2 / 2, 0.5 / 5])
