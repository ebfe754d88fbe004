"""A run on several nodes gives the bytes of one machine, even if nodes leave and join."""

from __future__ import annotations

import shutil

import pytest
from helpers.nodes import SAME
from helpers.small import start, steps_logged, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def parts(run_dir):
    return sorted((run_dir / "features").glob("part-*.parquet"))


def assert_same(run_dir, other, *names):
    assert [p.name for p in parts(run_dir)] == [p.name for p in parts(other)]
    for one, two in zip(parts(run_dir), parts(other), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    for name in ("scores.parquet", "selection.parquet", *names):
        assert (run_dir / name).read_bytes() == (other / name).read_bytes(), name


def unscored(single, run_dir):
    """A copy of the run as it was before scoring."""
    shutil.copytree(single, run_dir)
    shutil.rmtree(run_dir / "features")
    for name in ("stages/score.json", "stages/select.json", "scores.parquet", "selection.parquet"):
        (run_dir / name).unlink()
    return run_dir


def ended(process, run_dir):
    log = run_dir.parent / f"{run_dir.name}.log"
    assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
    return log.read_text()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_three_nodes_equal_one(single, cluster, tmp_path):
    """The head has no CPU, so the driver's node runs nothing."""
    nodes = cluster(2, 2, 2)
    run_dir = tmp_path / "run"
    process = start(run_dir, "run", *SAME, "resources.engines=2", "resources.scorers=2")
    wait_for(lambda: len(parts(run_dir)) >= 2, process, "the second shard")
    assert len(nodes.running(":EngineActor")) == 2
    log = ended(process, run_dir)
    assert "resources: 2 engines (1 CPU), 2 scorers (1 CPU), 1 training worker (1 CPU)" in log
    assert_same(run_dir, single, "policy/adapter/adapter_model.safetensors", "ranks.parquet")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nodes_leave_and_join_during_score(single, cluster, tmp_path):
    nodes = cluster(2, 2)
    run_dir = unscored(single, tmp_path / "run")
    words = (*SAME, "resources.engines=[1, 4]", "resources.scorers=1")
    process = start(run_dir, "run", *words)
    wait_for(lambda: len(parts(run_dir)) >= 1, process, "the first shard")
    new = nodes.add(2)
    wait_for(lambda: new in nodes.running(":EngineActor"), process, "an engine on the new node")
    nodes.kill(min(nodes.running(":EngineActor")))
    ended(process, run_dir)
    assert_same(run_dir, single)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_that_dies_during_train(single, cluster, tmp_path):
    nodes = cluster(2, 2)
    run_dir = tmp_path / "run"
    shutil.copytree(single, run_dir)
    (run_dir / "stages" / "train.json").unlink()
    shutil.rmtree(run_dir / "policy")
    process = start(run_dir, "run", *SAME)
    wait_for(lambda: steps_logged(run_dir, "policy") >= 3, process, "the third training step")
    (node,) = nodes.running("RayTrainWorker")
    nodes.kill(node)
    ended(process, run_dir)
    assert steps_logged(run_dir, "policy") == 8, "a step was lost or doubled"
    assert_same(run_dir, single, "policy/adapter/adapter_model.safetensors")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_same_command_continues_after_a_restart_of_the_head(single, cluster, tmp_path):
    nodes = cluster(2, 2)
    run_dir = unscored(single, tmp_path / "run")
    process = start(run_dir, "run", *SAME, "resources.engines=2")
    wait_for(lambda: len(parts(run_dir)) >= 2, process, "the second shard")
    before = {p.name: p.stat().st_mtime_ns for p in parts(run_dir)}
    nodes.kill_all()
    assert process.wait(timeout=180) != 0
    cluster(2, 2)
    process = start(run_dir, "run", *SAME, "resources.engines=2")
    ended(process, run_dir)
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in parts(run_dir)}.items()
    assert_same(run_dir, single)
