"""The item tables that scorers read are encoded once, before they start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import ray
from helpers.scoring import spec_of

from actors.scoring.shards import Scorer
from jobs.shards import parts, score_shards
from minirec.config.reading import load
from minirec.errors import EngineError
from minirec.resources.allocation import Allocation, Shape

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ONE = Shape(1, 0)
TWO_SCORERS = Allocation(1, 1, 1, ONE, 2, ONE, 1, 1, 1, ONE)


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def config():
    return load(None, ["scoring.shard_deadline_s=300"])


def test_two_scorers_write_the_bytes_of_one(cluster, config, tmp_path):
    spec = replace(spec_of(tmp_path, pool=False), scoring=None, shard_size=7)
    score_shards([spec], config, TWO_SCORERS, label="evaluate")
    alone = replace(spec, output=str(tmp_path / "alone"), item_table=str(tmp_path / "alone.npy"))
    scorer = Scorer([alone])
    for shard in range(4):
        scorer.write(0, shard)
        assert spec.part(shard).read_bytes() == alone.part(shard).read_bytes()
    assert (tmp_path / "items.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
    assert sum(part.num_rows for part in parts(spec)) == 24


def test_a_failure_is_one_sentence(cluster, config, tmp_path):
    spec = replace(spec_of(tmp_path, pool=False), scoring=None, shard_size=7)
    broken = replace(spec, adapter=str(tmp_path / "missing"))
    with pytest.raises(EngineError, match="evaluate stopped before its shards, at the vectors"):
        score_shards([broken], config, TWO_SCORERS, label="evaluate")
