"""A session in a process that has already joined a cluster, as the trial of a sweep has."""

import os

import pytest

from jobs.cluster.session import Session
from minirec.config.reading import load
from minirec.errors import ConfigError
from minirec.resources.allocation import Node

VARIABLES = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S")


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    """Remove the variables that a session sets, and restore them afterwards."""
    for name in (*VARIABLES, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


class Joined:
    """A cluster that the process has already joined; records waits and requests."""

    def __init__(self, *, cpus=16.0, free=16.0, gpus=0.0):
        self.cpus, self.unused, self.gpus = cpus, free, gpus
        self.waited, self.requested = [], []

    def joined(self):
        return True

    def nodes(self):
        return [Node("here", self.cpus, self.gpus, id="A")]

    def free(self):
        return {"CPU": self.unused, "GPU": self.gpus}

    def free_by_node(self):
        return {"A": self.free()}

    def has_room(self, bundles, *, wait_s):
        self.waited.append((bundles, wait_s))
        return True

    def request(self, bundles):
        self.requested.append(bundles)


def test_a_trial_on_a_cluster_waits_for_room():
    """It sends no request to the autoscaler: trials would replace each other's request."""
    cluster = Joined()
    words = ["resources.wait_s=77", "resources.cpus_per_worker=4", "resources.autoscaling=true"]
    session = Session(load(None, words), on_cluster=True, cluster=cluster)
    session.make_room("train")
    assert cluster.waited == [([{"CPU": 1.0}, {"CPU": 4.0}], 77)]
    assert [os.environ[name] for name in VARIABLES] == ["77", "0.2"]
    assert session.allocation.engines == session.allocation.engines_max == 1
    session.close()
    assert cluster.requested == []


def test_a_trial_in_a_local_ray_does_not_wait():
    cluster = Joined()
    Session(load(None, []), cluster=cluster).make_room("train")
    assert cluster.waited == []


def test_a_local_ray_refuses_what_it_can_never_hold():
    session = Session(load(None, []), cluster=Joined(cpus=2))
    session.wait_for_room([{"CPU": 1.0}] * 2)
    with pytest.raises(ConfigError, match="asks for 3 CPUs, the cluster has 2"):
        session.wait_for_room([{"CPU": 1.0}] * 3)


@pytest.mark.parametrize(("autoscaling", "room"), [("false", 3), ("true", 8)])
def test_shards_beside_the_engines_of_a_cluster(autoscaling, room):
    """At most as many as there are free CPUs, unless an autoscaler may add nodes."""
    config = load(None, [f"resources.autoscaling={autoscaling}"])
    with Session(config, on_cluster=True, cluster=Joined(free=3.5)) as session:
        assert session.room_for(8) == room
        assert session.room_for(2) == 2


def test_without_an_analysis_there_is_no_pool_and_no_room_for_engines():
    cluster = Joined()
    words = ["rollout.max_new_tokens=0", "training.loss=supervised"]
    session = Session(load(None, words), on_cluster=True, cluster=cluster)
    assert session.pool("a model", beside="score") is None
    (bundles,) = [bundles for bundles, _ in cluster.waited]
    assert bundles == [{"CPU": 1.0}] * session.allocation.scorers
    session.close()


HUB = ["model.name=some/model", "training.loss=supervised"]


def test_a_model_of_the_hub_is_fetched_before_the_pool_starts(monkeypatch):
    events = []
    session = Session(load(None, HUB), cluster=Joined(), fetch=lambda name: events.append(name))
    monkeypatch.setattr(session, "_start_pool", lambda model: events.append("pool") or Engines())
    for _ in range(2):
        session.pool("some/model", beside="train")
    assert events == ["some/model", "pool"]
    session.close()


class Engines:
    """A pool that starts nothing."""

    def handle(self):
        return self

    def close(self):
        pass


def test_training_without_engines_also_waits_for_the_model():
    events = []
    with Session(load(None, HUB), cluster=Joined(), fetch=events.append) as session:
        session.make_room("warm", engines=False)
    assert events == ["some/model"]


@pytest.mark.parametrize("name", ["demo", "a/b.gguf"])
def test_a_model_that_a_stage_makes_is_not_fetched(name):
    events = []
    words = [f"model.name={name}", "rollout.engine=transformers"]
    with Session(load(None, words), cluster=Joined(), fetch=events.append) as session:
        session.make_room("train")
    assert events == []


class Growing(Joined):
    """A cluster that gets a second node while the session waits for room."""

    def __init__(self):
        super().__init__()
        self.events = []

    def nodes(self):
        grown = any(event == "room" for event in self.events)
        return [Node("here", 16.0, id=name) for name in "AB"[: 1 + grown]]

    def has_room(self, bundles, *, wait_s):
        self.events.append("room")
        return True

    def on_nodes(self, ids, function, text):
        self.events.append((*ids, text))


def test_each_node_of_a_cluster_fetches_the_model_once():
    cluster = Growing()
    with Session(load(None, HUB), on_cluster=True, cluster=cluster) as session:
        session.make_room("train")
        session.make_room("train")
    assert cluster.events == [("A", "some/model"), "room", ("B", "some/model"), "room"]


class FakePool:
    """Notes what happens to it."""

    def __init__(self, events):
        self.events = events

    def wait_ready(self):
        self.events.append("ready")
        return self

    def handle(self):
        self.events.append("handle")

    def close(self):
        self.events.append("closed")


@pytest.mark.parametrize(("gpus", "waits"), [(0.5, True), (1, False), (0, False)])
def test_engines_that_share_a_gpu_are_ready_before_workers_start(gpus, waits, tmp_path):
    """The caller starts its workers when it has the handle."""
    events = []

    def start(spec, **arguments):
        events.append("started")
        assert spec.gpus == arguments["gpus_per_engine"] == gpus
        return FakePool(events)

    words = [f"resources.gpus_per_engine={gpus}", "rollout.engine=transformers"]
    cluster = Joined(gpus=2.0)
    session = Session(load(None, words), on_cluster=True, cluster=cluster, start_pool=start)
    session.pool(str(tmp_path), beside="train")
    assert events == ["started", *(["ready"] if waits else []), "handle"]
    session.pool(str(tmp_path), beside="score")  # the engines that run already
    assert events[-2:] == ["handle", "handle"]
    session.close()
    assert events[-1] == "closed"
