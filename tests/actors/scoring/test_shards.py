"""Which worker computes which shard, of scores and of gradients."""

from __future__ import annotations

from actors.scoring import gradients, shards
from actors.scoring.gradients import GradientShard


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
