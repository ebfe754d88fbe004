"""Compares MaxMin in Ray actors with MaxMin in one process."""

import numpy as np
import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.scoring.maxmin import sharded_maxmin
from minirec.errors import EngineError
from minirec.selection.diversity import maxmin

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("shards", [1, 2])
def test_the_picks_are_those_of_one_process(shards):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 32))
    embeddings = centres[rng.integers(20, size=900)] + 0.3 * rng.normal(size=(900, 32))
    embeddings = embeddings.astype(np.float32)
    embeddings[500] = embeddings[100]  # equal rows on both sides of the cut
    scores = rng.random(900).round(2)
    whole = maxmin(embeddings, scores=scores, budget=200, block=32)
    parts = sharded_maxmin(embeddings, scores=scores, budget=200, shards=shards, block=32)
    assert parts.indices.tolist() == whole.indices.tolist()
    assert parts.novelty == pytest.approx(whole.novelty, abs=1e-4)


def test_the_shards_of_a_trial_are_outside_its_placement_group():
    """The placement group of the trial captures its actors and has no CPU for them."""
    group = ray.util.placement_group([{"memory": 1 << 20}])
    place = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)

    @ray.remote(num_cpus=0, memory=1 << 20, scheduling_strategy=place)
    def trial():
        return sharded_maxmin(np.eye(5), scores=np.ones(5), budget=3, shards=2).indices.tolist()

    assert len(ray.get(trial.remote(), timeout=120)) == 3
    ray.util.remove_placement_group(group)


def test_shards_without_a_cpu_fail_after_the_deadline():
    with pytest.raises(
        EngineError, match="3 shards of the selection did not start and answer in 4 s"
    ):
        sharded_maxmin(np.eye(5), scores=np.ones(5), budget=2, shards=3, deadline_s=4)


def test_bad_arguments_are_refused_before_an_actor_starts():
    with pytest.raises(ValueError, match="embeddings row 3 has length 0"):
        sharded_maxmin(np.diag([1.0, 1, 1, 0]), scores=np.ones(4), budget=2, shards=2)
    with pytest.raises(ValueError, match="shards is 0; expected 1 or more"):
        sharded_maxmin(np.eye(4), scores=np.ones(4), budget=2, shards=0)
