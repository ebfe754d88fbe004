"""The cost of a catalogue by hand, and against the products that torch runs."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minirec.config.training import TrainingConfig
from minirec.resources import flops
from minirec.resources.catalogue import candidates, catalogue_cost
from minirec.resources.estimates import ModelShape
from minirec.rl import grpo
from minirec.rl.candidates import Candidates, batch, beside_rest
from minirec.rl.cells import Cells
from minirec.rl.ranker import Ranker, Targets

# One layer, 2 heads of 2, 1 key-value head, 8 words, as in the tests of FLOPs.
TINY = ModelShape(1, 4, 2, 1, 2, 6, 8)
SIZE = {"items": 100, "item": 3, "prompt": 2, "written": 1, "rank": 2}


def settings(**values):
    return TrainingConfig(
        **{"prompts_per_step": 5, "prompts_per_micro_batch": 5, "rollouts_per_prompt": 2} | values
    )


def test_a_step_by_hand():
    found = catalogue_cost(TINY, settings(item_negatives=7), **SIZE)
    assert found.table == 100 * 4 * 4
    item = flops.forward(TINY, flops.Pass(3, 6), rank=2)
    assert found.refresh == 100 * item
    # 10 rollouts are ranked; 5 prompts have 12 candidates, with two gradients.
    assert found.scores == 2 * 10 * 100 * 4 + 3 * 2 * 5 * 12 * 4
    group = flops.Pass(4, 3 + 2 * 3, 2)
    written = flops.Pass(2, 3, 2)
    prompt = (
        flops.forward(TINY, group, rank=2)
        + flops.backward(TINY, group, rank=2)
        + flops.forward(TINY, written, rank=2)
    )
    trained = item + flops.backward(TINY, flops.Pass(3, 6), rank=2)
    assert found.step == 5 * prompt + 12 * trained + found.scores


def test_supervision_writes_and_ranks_nothing():
    found = catalogue_cost(TINY, settings(loss="supervised"), **SIZE)
    assert found.scores == 3 * 2 * 5 * 5 * 4
    more = catalogue_cost(TINY, settings(loss="supervised"), **SIZE | {"items": 10**6})
    assert more.step == found.step  # it does not depend on the size of the catalogue
    assert more.refresh == 10**4 * found.refresh


def test_candidates_are_at_most_the_catalogue():
    assert candidates(settings(), items=100) == 5
    assert candidates(settings(item_negatives=50), items=100) == 55
    assert candidates(settings(item_negatives=99), items=100) == 100
    assert candidates(settings(item_negatives=None), items=10**6) == 10**6


@pytest.mark.parametrize("kind", ["batch", "catalogue"])
def test_the_scores_are_what_torch_multiplies(kind):
    """With one rollout, so that the ranking and the loss have as many rows."""
    items, prompts, d = 300, 4, 8
    draw = torch.Generator().manual_seed(0)
    table = F.normalize(torch.randn(items, d, generator=draw), dim=-1)
    hidden = torch.randn(prompts, d, generator=draw, requires_grad=True)
    ids = torch.arange(prompts)
    targets = Targets(ids, Cells((prompts, items), torch.zeros(0, dtype=torch.int64)))
    vectors = table[ids].clone().requires_grad_(True)
    rivals = {"batch": batch, "catalogue": beside_rest}[kind](
        Candidates(ids, vectors, table), targets
    )
    with FlopCounterMode(display=False) as counter:
        Ranker(table, 0.1).rank(hidden.detach(), targets)
        total, _ = grpo.item_loss(
            hidden,
            candidates=rivals.vectors,
            target=rivals.target,
            excluded=rivals.excluded,
            advantage=torch.ones(prompts),
            temperature=0.1,
            clip=grpo.Clip(),
            rest=rivals.rest,
        )
        total.backward()
    shape = ModelShape(1, d, 2, 1, 4, 6, 8)
    training = TrainingConfig(
        item_candidates=kind,
        prompts_per_step=prompts,
        prompts_per_micro_batch=prompts,
        rollouts_per_prompt=2,
    )
    counted = catalogue_cost(shape, training, **SIZE | {"items": items}).scores
    ranking = 2 * prompts * items * d  # of the second rollout, which is not ranked here
    assert counter.get_total_flops() == pytest.approx(counted - ranking, rel=0.02)
