"""Which worker scores which shard."""

from __future__ import annotations

from actors import shards


def test_training_workers_share_the_missing_shards(monkeypatch, tmp_path):
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
    monkeypatch.setattr(shards.dist, "get_world_size", lambda: 2)
    work = shards.ShardsSpec([Spec("a"), Spec("b")], [(0, 0), (0, 1), (1, 0)], deadline_s=60)
    (tmp_path / "b-0").touch()  # of no use without the table of item vectors

    def share(rank):
        written.clear()
        monkeypatch.setattr(shards.dist, "get_rank", lambda: rank)
        shards.score_loop({"spec": work})
        return list(written)

    assert share(0) == [(0, 0), (1, 0)]
    assert share(1) == [(0, 1)]
    (tmp_path / "table.npy").touch()
    assert share(0) == [(0, 0)]
