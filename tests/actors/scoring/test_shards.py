"""Which worker computes which shard, of scores and of gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.scoring import spec_of
from helpers.tiny_model import build_adapter

from actors.scoring import gradients, shards
from actors.scoring.gradients import GradientShard
from actors.scoring.policy import LoadedPolicy
from actors.scoring.shards import Scorer
from jobs.shards import by_policy


def test_the_kept_worker_skips_finished_shards(monkeypatch, tmp_path):
    written = []

    class Recorder:
        def __init__(self, specs):
            pass

        def write(self, number, shard):
            written.append((number, shard))

    class Spec:
        item_table = str(tmp_path / "table.npy")

        def __init__(self, name):
            self.name = name

        def part(self, shard):
            return tmp_path / f"{self.name}-{shard}"

    monkeypatch.setattr(shards, "Scorer", Recorder)
    missing = [(0, 0), (0, 1), (1, 0)]
    work = shards.ShardsSpec([Spec("a"), Spec("b")], missing, deadline_s=60)
    (tmp_path / "b-0").touch()  # not finished without the item table
    shards.score_loop({"spec": work})
    assert written == missing
    written.clear()
    (tmp_path / "table.npy").touch()
    shards.score_loop({"spec": work})
    assert written == [(0, 0), (0, 1)]


def test_gradient_workers_use_the_missing_shards_of_rank_0(monkeypatch, tmp_path):
    """Another node may see a new file late."""
    shards_ = [GradientShard("train", "", str(tmp_path / name)) for name in "abc"]
    (tmp_path / "a").touch()
    found = []

    def broadcast(box, src):
        found.append(box[0])
        box[0] = shards_[1:]

    monkeypatch.setattr(gradients.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(gradients.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(gradients.dist, "broadcast_object_list", broadcast)
    assert gradients._missing(shards_) == shards_[1:]
    (tmp_path / "a").unlink()
    assert gradients._missing(shards_) == shards_[1:]
    assert found == [shards_[1:], shards_]
    monkeypatch.setattr(gradients.dist, "get_world_size", lambda: 1)
    assert gradients._missing(shards_) == shards_


@pytest.fixture
def specs(tmp_path):
    """Base and trained policy on three splits, as `evaluate` asks for them: train comes last."""
    one = spec_of(tmp_path, splits=("train", "valid", "test"), pool=False)
    adapter = build_adapter(one.model_path, tmp_path / "adapter", seed=1).path
    asked = [(p, s) for p in ("base", "trained") for s in ("valid", "test")]
    return [
        replace(
            one,
            split=split,
            output=str(tmp_path / f"{policy}-{split}"),
            item_table=str(tmp_path / f"{policy}.npy"),
            adapter=adapter if policy == "trained" else None,
            scoring=None,
            shard_size=7,
        )
        for policy, split in [*asked, ("base", "train"), ("trained", "train")]
    ]


@pytest.mark.parametrize("scorers", [1, 2, 3])
def test_a_scorer_loads_each_policy_at_most_once(specs, scorers):
    """Scorers take the next shard of the list in turn, whatever their number."""
    dealt = [(number, shard) for number in by_policy(specs) for shard in range(4)]
    loads = [[] for _ in range(scorers)]

    def loader(mine):
        def load(spec):
            mine.append(spec.adapter)
            return LoadedPolicy(spec)

        return load

    team = [Scorer(specs, loader(mine)) for mine in loads]
    for turn, (number, shard) in enumerate(dealt):
        team[turn % scorers].write(number, shard)
    assert all(len(mine) == len(set(mine)) == 2 for mine in loads)
    assert all(spec.part(shard).exists() for spec in specs for shard in range(4))


def test_specs_of_a_policy_are_neighbours(specs):
    assert by_policy(specs) == [0, 1, 4, 2, 3, 5]
    assert by_policy(specs[1:2]) == [0]
