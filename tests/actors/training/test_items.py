"""The item side of a training step: candidates, their vectors and their gradient."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers.loop import one_process

from actors.training.items import ItemSide, item_backwards, negatives
from minirec.config.training import TrainingConfig

ITEMS = [[1, 5], [2, 5], [3, 5], [4, 5]]


class Engine:
    """Replaces DeepSpeed; the vector of an item depends on its first token."""

    device = torch.device("cpu")

    def __init__(self):
        self.weight = torch.arange(1.0, 11.0).view(5, 2).requires_grad_(True)
        self.encoded = self.steps = 0
        self.boundaries = []
        self.seen = lambda: None  # called in each pass

    def __call__(self, sequences):
        self.seen()
        self.encoded += len(sequences)
        return self.weight[[tokens[0] for tokens in sequences]], None

    def backward(self, loss):
        loss.backward()

    def set_gradient_accumulation_boundary(self, last):
        self.boundaries.append(last)

    def step(self):
        self.steps += 1


@pytest.fixture
def alone():
    with one_process():
        yield


def side(engine, refresh_steps=1, **settings):
    training = TrainingConfig(**settings)
    return ItemSide(engine, ITEMS, training=training, refresh_steps=refresh_steps, seed=7)


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


def test_a_table_for_a_validation_is_read_by_the_next_step_if_it_is_due(alone):
    engine = Engine()
    items = side(engine, refresh_steps=2)
    old = items.refresh(0).clone()
    with torch.no_grad():
        engine.weight += torch.tensor([5.0, 0.0])
    engine.encoded = 0
    new = items.table_of(1)
    assert torch.allclose(new, F.normalize(engine.weight[1:], dim=-1)) and engine.encoded == 4
    assert torch.equal(items.refresh(1), old)  # not due, so training keeps its table
    found = items.table_of(2)
    assert engine.encoded == 8
    assert items.refresh(2) is found and items.table_of(2) is found and engine.encoded == 8
    with torch.no_grad():
        engine.weight += torch.tensor([5.0, 0.0])
    assert not torch.equal(items.table_of(3), found)


def loss(vectors):
    return (vectors @ torch.tensor([0.3, -2.0])).exp().sum()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_gradient_equals_encoding_inside_the_loss(alone, monkeypatch, workers):
    """With three workers, the last one has no item."""
    found = []
    for rank in range(workers):
        engine = Engine()
        items = side(engine)
        items.rank, items.world = rank, workers
        reduced: list[torch.Tensor] = []
        monkeypatch.setattr(dist, "all_reduce", reduced.append)  # one worker computes the sum
        candidates = items.candidates(0, [0, 3])
        for _ in range(2):  # micro-batches
            loss(candidates.vectors).backward()
        items.backward(candidates)
        found.append(engine.weight.grad)
        assert len(reduced) == (workers > 1)
    direct = Engine()
    (2 * loss(F.normalize(direct([ITEMS[0], ITEMS[3]])[0], dim=-1))).backward()
    assert torch.allclose(sum(found), direct.weight.grad)
    assert [bool(gradient.any()) for gradient in found] == [True, True, False][:workers]


def test_other_items_join_the_targets_and_the_seed_and_the_step_choose_them(alone):
    def drawn(step, seed=7, count=3):
        return negatives({2, 5}, items=50, count=count, seed=seed, step=step)

    assert len(drawn(0)) == 3 and not drawn(0) & {2, 5}
    assert drawn(0) == drawn(0)
    assert len({tuple(sorted(drawn(step))) for step in range(5)}) == 5
    assert drawn(0, seed=8) != drawn(0)
    assert drawn(0, count=0) == set()
    everything = set(range(50)) - {2, 5}
    assert drawn(0, count=48) == drawn(0, count=99) == drawn(0, count=None) == everything


def test_each_item_is_drawn_equally_often():
    counts = dict.fromkeys(range(6), 0)
    for step in range(3000):
        for item in negatives({4}, items=6, count=2, seed=1, step=step):
            counts[item] += 1
    assert counts.pop(4) == 0
    assert all(abs(count - 1200) < 110 for count in counts.values())  # four standard deviations


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_joined_items_are_the_same_on_all_workers_and_have_a_gradient(alone, monkeypatch, workers):
    """All four items, two targets a step: two backwards, of two items over all workers."""
    found, ids = [], []
    monkeypatch.setattr(dist, "all_reduce", lambda gradient: None)
    for rank in range(workers):
        engine = Engine()
        settings = {"prompts_per_step": 2, "prompts_per_micro_batch": 1, "item_negatives": None}
        items = side(engine, **settings)
        items.rank, items.world = rank, workers
        candidates = items.candidates(0, [0, 3])
        ids.append(candidates.ids.tolist())
        loss(candidates.vectors).backward()
        items.backward(candidates)
        assert engine.steps == 1
        assert engine.boundaries == [False, True]
        found.append(engine.weight.grad)
    assert ids == [[0, 1, 2, 3]] * workers
    direct = Engine()
    loss(F.normalize(direct(ITEMS)[0], dim=-1)).backward()
    assert torch.allclose(sum(found), direct.weight.grad)


def test_items_are_divided_by_their_number_and_by_their_tokens():
    """At most 32 items over all workers; each counts as long as the longest, 20 tokens."""

    def parts(count, tokens=None, workers=1):
        training = TrainingConfig(tokens_per_micro_batch=tokens)
        return item_backwards(training, [20] + [5] * (count - 1), workers=workers)

    assert [parts(count) for count in (1, 32, 33, 100)] == [1, 1, 2, 4]
    assert [parts(40, tokens) for tokens in (1000, 400, 399, 100)] == [2, 2, 3, 8]
    assert [parts(10, 50), parts(10, 1)] == [5, 10]  # two items of 20 fit into 50, never none
    assert parts(40, 100, workers=4) == 2


def test_without_rewards_only_the_candidates_are_encoded(alone):
    engine = Engine()
    found = side(engine, loss="supervised").candidates(0, [1])
    assert (engine.encoded, found.table, found.catalogue_size) == (1, None, 4)
    wide = side(engine, loss="supervised", item_candidates="catalogue").candidates(0, [1])
    assert len(wide.table) == wide.catalogue_size == 4


@pytest.mark.parametrize("negatives", [0, 1])
def test_training_on_candidates_never_encodes_the_catalogue(alone, negatives):
    """Supervision needs no rank, so no step reads the vectors of all items."""
    engine = Engine()
    items = side(engine, loss="supervised", item_negatives=negatives)
    for step in range(4):
        assert items.refresh(step) is None
        found = items.candidates(step, [1, 1])
        assert found.table is None and len(found.ids) == 1 + negatives
        (loss(found.vectors)).backward()
        items.backward(found)
    assert engine.encoded == 4 * 2 * (1 + negatives)


def test_a_refresh_keeps_one_table(alone):
    """Two tables of a large catalogue may not fit, so the old one goes before the new one comes."""
    engine = Engine()
    items = side(engine, refresh_steps=2)
    kept = weakref.ref(items.refresh(0))
    alive = []
    engine.seen = lambda: alive.append(kept() is not None)
    items.refresh(2)
    assert alive == [False]
