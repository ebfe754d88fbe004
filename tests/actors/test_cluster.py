"""The parts of a cluster's checks that need no cluster."""

import json
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray.autoscaler._private.autoscaler import AutoscalerSummary
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.schema import Stats
from ray.autoscaler.v2.utils import ClusterStatusParser
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from actors import cluster
from actors.pool.roster import match
from minirec.errors import ConfigError
from minirec.resources.allocation import Node, Shape

ID = "0123456789abcdef" * 3 + "01234567"
WATCHED = format_readonly_node_type(ID)  # a node that Ray knows, but has not launched


def status_v1(active, idle):
    """As the monitor of Ray's first autoscaler writes it."""
    summary = AutoscalerSummary(active, idle, [], {}, [])
    return json.dumps({"autoscaler_report": asdict(summary), "time": 1.0}).encode()


@pytest.mark.parametrize(
    ("kept", "grows"),
    [
        (None, None),
        (json.dumps({"load_metrics_report": {}, "time": 1.0}).encode(), None),
        (status_v1({}, None), None),
        (status_v1({WATCHED: 1}, None), False),
        (status_v1({WATCHED: 1}, {format_readonly_node_type("f" * 56): 1}), False),
        (status_v1({"ray.head.default": 1}, None), True),
        (status_v1({}, {"node_small": 2}), True),
        (status_v1({WATCHED: 1}, {"ray.worker.default": 1}), True),
    ],
)
def test_the_first_autoscaler_is_known_by_its_status(kept, grows):
    assert cluster.owned(cluster.types_v1(kept)) is grows


@pytest.mark.parametrize(
    ("types", "grows"), [([], None), (["", ""], False), (["head"], True), (["", "gpu"], True)]
)
def test_the_second_autoscaler_is_known_by_its_status(types, grows):
    reply = GetClusterStatusReply()
    for i, name in enumerate(types):
        reply.cluster_resource_state.node_states.add(
            node_id=bytes([i]) * 28,
            ray_node_type_name=name,
            status=(1, 3)[i % 2],  # running, idle
        )
    status = ClusterStatusParser.from_get_cluster_status_reply(reply, stats=Stats())
    assert cluster.owned(cluster.types_v2(status)) is grows


@pytest.mark.parametrize(("later", "refused"), [(True, False), (False, True), (None, True)])
def test_nothing_is_refused_before_the_autoscaler_has_spoken(monkeypatch, later, refused):
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(cluster, "time", clock)
    monkeypatch.setattr(cluster, "alive_nodes", lambda: [Node("a", 2)])
    monkeypatch.setattr(cluster, "grows", lambda: None if clock.now < 4 else later)
    room = cluster.Room(wait_s=1)
    room.refuse_impossible([{"CPU": 2.0}])
    assert clock.now == 0
    if refused:
        with pytest.raises(ConfigError, match="asks for 3 CPUs, the cluster has 2"):
            room.refuse_impossible([{"CPU": 3.0}])
    else:
        room.refuse_impossible([{"CPU": 3.0}])
    assert clock.now == (10 if later is None else 4)


def test_a_probe_that_cannot_be_read_makes_the_node_blind_at_once(tmp_path):
    (tmp_path / "probe").write_text("token")
    assert cluster._read._function(str(tmp_path / "probe")) == "token"
    started = time.monotonic()
    assert cluster._read._function(str(tmp_path)) is None  # a folder: an OSError, as no permission
    assert time.monotonic() - started < 5


def test_what_other_jobs_use_is_not_counted(monkeypatch):
    free = {"A": {"CPU": 5.0}, "B": {"CPU": 4.0, "GPU": 1.5}}
    monkeypatch.setattr(cluster, "grows", lambda: False)
    monkeypatch.setattr(
        cluster, "alive_nodes", lambda: [Node("a", 8, id="A"), Node("b", 4, 2, id="B")]
    )
    monkeypatch.setattr(cluster.ray_state, "available_resources_per_node", lambda: free)
    room, engine = cluster.Room(wait_s=1), Shape(1, 0.5)

    def counted(here):
        return [(node.cpus, node.gpus) for node in room.nodes(engine, here)]

    assert counted({}) == [(5, 0), (4, 1.5)]
    free["B"] = {"CPU": 2.0, "GPU": 0.5}  # two engines of the run, which it has not seen yet
    assert counted({}) == [(5, 0), (4, 1.5)]
    free["B"] = {"GPU": 0.5}  # both, and a worker of it with 2 CPUs; Ray leaves out what is 0
    assert counted({"B": 2}) == [(5, 0), (4, 1.5)]
    free["A"] = {"CPU": 7.0}  # the other job has left, a scorer of the run has 1 CPU
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
def test_engines_and_the_places_that_are_wanted(nodes, wanted, placed, left):
    assert match(nodes, wanted) == (placed, left)
