"""What a session does in a process that has joined a cluster already, as a sweep's trial has."""

import os

import pytest
import ray

from actors import cluster
from jobs.cluster.session import Session
from minirec.config.reading import load
from minirec.errors import ConfigError
from minirec.resources.allocation import Node

VARIABLES = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S")


@pytest.fixture
def joined(monkeypatch):
    """Ray's answers in a trial; the bundles that were waited for."""
    for name in (*VARIABLES, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        monkeypatch.setenv(name, "")  # so that what the session sets is taken back
        monkeypatch.delenv(name)
    waited = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0})
    monkeypatch.setattr(cluster.Room, "nodes", lambda self, engine, here: [])
    monkeypatch.setattr(cluster, "grows", lambda: True)
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: pytest.fail("asked ahead"))
    monkeypatch.setattr(
        cluster, "placement_group", lambda bundles, strategy: Group(waited, bundles)
    )
    monkeypatch.setattr(cluster, "remove_placement_group", lambda group: None)
    return waited


class Group:
    def __init__(self, waited, bundles):
        self.waited, self.bundles = waited, bundles

    def wait(self, seconds):
        self.waited.append((self.bundles, seconds))
        return True


def test_a_trial_on_a_cluster_waits_for_its_room(joined):
    config = load(None, ["resources.wait_s=77", "resources.cpus_per_worker=4"])
    session = Session(config, on_cluster=True)
    session.make_room("train")
    assert joined == [([{"CPU": 1.0}, {"CPU": 4.0}], 77)]
    assert [os.environ[name] for name in VARIABLES] == ["77", "0.2"]
    assert session.allocation.engines == session.allocation.engines_max == 1
    session.close()


def test_a_trial_in_a_ray_of_its_commands_own_does_not_wait(joined):
    Session(load(None, [])).make_room("train")
    assert joined == []


def test_a_ray_of_its_own_refuses_what_it_never_can_hold(joined, monkeypatch):
    monkeypatch.setattr(cluster, "alive_nodes", lambda: [Node("here", 2, 0)])
    session = Session(load(None, []))
    session.wait_for_room([{"CPU": 1.0}] * 2)
    with pytest.raises(ConfigError, match="asks for 3 CPUs, the cluster has 2"):
        session.wait_for_room([{"CPU": 1.0}] * 3)


@pytest.mark.parametrize(("grows", "room"), [(False, 3), (True, 8)])
def test_shards_beside_the_engines_of_a_cluster(joined, monkeypatch, grows, room):
    """No more than are free, unless an autoscaler may add nodes for them."""
    monkeypatch.setattr(cluster, "grows", lambda: grows)
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: None)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.5})
    with Session(load(None, []), on_cluster=True) as session:
        assert session.room_for(8) == room
        assert session.room_for(2) == 2
