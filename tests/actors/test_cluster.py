"""Checks of a cluster that run without Ray."""

import time

import pytest

from actors import cluster
from actors.pool.pool import match
from minirec.errors import ConfigError, EngineError
from minirec.resources.allocation import Node, Shape


class Fixed:
    """A cluster with fixed answers; `requested` records requests to the autoscaler."""

    def __init__(self, *nodes, by_node=None, room=True):
        self.there, self.by_node, self.room, self.requested = nodes, by_node, room, []

    def nodes(self):
        return self.there

    def free(self):
        return {"CPU": 1.0}

    def free_by_node(self):
        return self.by_node

    def has_room(self, bundles, *, wait_s):
        return self.room

    def request(self, bundles):
        self.requested.append(bundles)


def test_without_an_autoscaler_impossible_bundles_are_refused():
    fixed = Fixed(Node("a", 2))
    room = cluster.Room(fixed, wait_s=1, autoscaling=False)
    room.refuse_impossible([{"CPU": 2.0}])
    with pytest.raises(ConfigError, match="asks for 3 CPUs, the cluster has 2"):
        room.refuse_impossible([{"CPU": 3.0}])
    room.wait([{"CPU": 2.0}])
    room.close()
    assert fixed.requested == []


def test_an_autoscaler_is_asked_for_room_and_nothing_is_refused():
    fixed = Fixed(Node("a", 2))
    room = cluster.Room(fixed, wait_s=1, autoscaling=True)
    room.refuse_impossible([{"CPU": 3.0}])
    room.wait([{"CPU": 3.0}], held=[{"CPU": 1.0}])
    room.close()
    assert fixed.requested == [[{"CPU": 1.0}, {"CPU": 3.0}], []]


def test_a_cluster_without_room_is_described():
    room = cluster.Room(Fixed(Node("a", 2), room=False), wait_s=7, autoscaling=False)
    with pytest.raises(EngineError, match=r"within 7 s .*CPU: 2 asked, 1 free of 2; wait for"):
        room.wait([{"CPU": 1.0}] * 2)


def test_a_probe_that_cannot_be_read_fails_at_once(tmp_path):
    (tmp_path / "probe").write_text("token")
    assert cluster._read._function(str(tmp_path / "probe")) == "token"
    started = time.monotonic()
    assert cluster._read._function(str(tmp_path)) is None  # an OSError
    assert time.monotonic() - started < 5


def test_what_other_jobs_use_is_not_counted():
    free = {"A": {"CPU": 5.0}, "B": {"CPU": 4.0, "GPU": 1.5}}
    fixed = Fixed(Node("a", 8, id="A"), Node("b", 4, 2, id="B"), by_node=free)
    room, engine = cluster.Room(fixed, wait_s=1, autoscaling=False), Shape(1, 0.5)

    def counted(here):
        return [(node.cpus, node.gpus) for node in room.nodes(engine, here)]

    assert counted({}) == [(5, 0), (4, 1.5)]
    free["B"] = {"CPU": 2.0, "GPU": 0.5}  # two engines of the run, not counted yet
    assert counted({}) == [(5, 0), (4, 1.5)]
    free["B"] = {"GPU": 0.5}  # and its worker with 2 CPUs; Ray omits 0 CPUs
    assert counted({"B": 2}) == [(5, 0), (4, 1.5)]
    free["A"] = {"CPU": 7.0}  # the other job has ended, a scorer of the run has 1 CPU
    assert counted({"B": 2}) == [(7, 0), (4, 1.5)]


@pytest.mark.parametrize(
    ("nodes", "wanted", "placed", "left"),
    [
        ({}, ["A", "B"], set(), ["A", "B"]),
        ({"0": "A", "1": "A"}, ["A", "B"], {"0"}, ["B"]),
        ({"0": "A", "1": "C"}, ["B", "A", ""], {"0", "1"}, ["B"]),
        ({"0": "", "1": "B"}, ["B", "B"], {"1"}, ["B"]),
        ({"0": "A"}, [], set(), []),
    ],
)
def test_engines_are_matched_with_wanted_nodes(nodes, wanted, placed, left):
    assert match(nodes, wanted) == (placed, left)
