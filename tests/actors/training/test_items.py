"""The item side of a training step: candidates, their vectors and their gradient."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from actors.training.items import ItemSide

ITEMS = [[1, 5], [2, 5], [3, 5], [4, 5]]


class Engine:
    """Replaces DeepSpeed; the vector of an item depends on its first token."""

    device = torch.device("cpu")

    def __init__(self, backwards=1):
        self.weight = torch.arange(1.0, 11.0).view(5, 2).requires_grad_(True)
        self.encoded = 0
        self.backwards = backwards

    def __call__(self, sequences):
        self.encoded += len(sequences)
        return self.weight[[tokens[0] for tokens in sequences]], None

    def backward(self, loss):
        (loss / self.backwards).backward()


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def side(engine, refresh_steps=1):
    return ItemSide(engine, ITEMS, refresh_steps=refresh_steps)


def test_the_distinct_targets_compete(alone):
    assert side(Engine()).candidates(0, [2, 0, 2]).ids.tolist() == [0, 2]


def test_vectors_are_always_new_and_the_table_is_refreshed(alone):
    engine = Engine()
    items = side(engine, refresh_steps=2)
    old = items.candidates(0, [1]).table.clone()
    with torch.no_grad():
        engine.weight += torch.tensor([5.0, 0.0])
    new = F.normalize(engine.weight[1:], dim=-1)
    engine.encoded = 0
    found = items.candidates(1, [1])
    assert engine.encoded == 1
    assert torch.allclose(found.vectors, new[[1]])
    assert torch.equal(found.table, old)
    assert torch.allclose(items.candidates(2, [1]).table, new)


def loss(vectors):
    return (vectors @ torch.tensor([0.3, -2.0])).exp().sum()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_gradient_equals_encoding_inside_the_loss(alone, monkeypatch, workers):
    """With three workers, the last one has no item."""
    found = []
    for rank in range(workers):
        engine = Engine(backwards=3)
        items = side(engine)
        items.rank, items.world = rank, workers
        reduced: list[torch.Tensor] = []
        monkeypatch.setattr(dist, "all_reduce", reduced.append)  # one worker computes the sum
        candidates = items.candidates(0, [0, 3])
        for _ in range(2):  # micro-batches
            loss(candidates.vectors).backward()
        items.backward(candidates, backwards=3)
        found.append(engine.weight.grad)
        assert len(reduced) == (workers > 1)
    direct = Engine()
    (2 * loss(F.normalize(direct([ITEMS[0], ITEMS[3]])[0], dim=-1))).backward()
    assert torch.allclose(sum(found), direct.weight.grad)
    assert [bool(gradient.any()) for gradient in found] == [True, True, False][:workers]
