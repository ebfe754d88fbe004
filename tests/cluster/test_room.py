"""Runs that do not fit a cluster are refused with numbers; engines follow the nodes."""

from __future__ import annotations

import subprocess
import time
from multiprocessing import get_context

import pytest
import ray
from helpers.small import command

from actors.cluster import Cluster, Room, _blind, check_shared
from actors.engines.engine import EngineSpec
from actors.pool.pool import Pool
from minirec.errors import ConfigError, EngineError
from minirec.resources.allocation import Shape

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@ray.remote(num_cpus=1)
class Holder:
    def here(self):
        return True


def engines_are_on_wanted_nodes():
    """Two on the larger node, though the other one has room; then one of them is dropped."""

    class Idle:  # nested, so that Ray pickles it by value
        def __init__(self, spec):
            pass

    (large,) = [node.id for node in Cluster().nodes() if node.cpus == 2]
    wanted = [large, large]
    spec = EngineSpec(model="none", max_model_len=8)
    pool = Pool(spec, engine=Idle, engines=0, max_restarts=0, target=lambda here: wanted)
    try:
        answers = ray.get([one.status.remote() for one in pool.actors.values()], timeout=60)
        assert [answer["node"] for answer in answers] == wanted
        assert all(answer["call"] is None for answer in answers)
        wanted.pop()
        end = time.monotonic() + 20
        while len(pool.actors) > 1 and time.monotonic() < end:
            time.sleep(0.2)
        assert [name[-2:] for name in pool.actors] == ["-0"]
    finally:
        pool.close()


def room_checks(folder):
    """Runs in a new process on a cluster of nodes with 0, 1 and 2 CPUs."""
    ray.init(log_to_driver=False)
    assert sorted(node.cpus for node in Cluster().nodes()) == [0, 1, 2]
    room = Room(Cluster(), wait_s=2, autoscaling=False)
    cpu = {"CPU": 1.0}
    with pytest.raises(ConfigError, match="asks for 4 CPUs, the cluster has 3; lower"):
        room.refuse_impossible([cpu] * 4)
    with pytest.raises(ConfigError, match="one process asks for 3 CPUs, the largest node has 2"):
        room.refuse_impossible([{"CPU": 3.0}])
    room.refuse_impossible([cpu] * 3)
    room.wait([cpu] * 3)
    holder = Holder.remote()
    assert ray.get(holder.here.remote())
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"within 2 s .*CPU: 3 asked, 2 free of 3; wait for"):
        room.wait([cpu] * 3)
    assert time.monotonic() - started < 30
    room.wait([cpu] * 2)  # the refused bundles hold nothing
    left = [[0, 0, 2], [0, 1, 1]]  # the holder may be on either node; Ray's numbers are late
    while (cpus := sorted(n.cpus for n in room.nodes(Shape(1, 0), {}))) not in left:
        assert time.monotonic() - started < 30, cpus
        time.sleep(0.2)
    ray.kill(holder)
    engines_are_on_wanted_nodes()
    check_shared(folder / "run", Cluster())
    assert list((folder / "run").iterdir()) == []
    (folder / "probe").write_text("of another run")  # every node can read it
    blind = _blind(Cluster(), folder / "probe", "x")
    assert sorted(blind) == sorted(node.name for node in Cluster().nodes()) and len(blind) == 3
    ray.shutdown()


@pytest.mark.timeout(300)
def test_room(cluster, tmp_path):
    cluster(1, 2)
    with get_context("spawn").Pool(1) as process:
        process.apply(room_checks, (tmp_path,))
    # The command also refuses before anything starts.
    words = ("run", "resources.engines=3")
    done = subprocess.run(command(tmp_path / "run", *words), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "minirec: the run asks for 4 CPUs, the cluster has 3; lower the numbers under resources, "
        "or enlarge the cluster (with an autoscaler, set resources.autoscaling=true)"
    )
