"""A function that runs on each node, with a real Ray."""

from pathlib import Path

import pytest
import ray

from actors.cluster import Cluster
from minirec.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def nodes():
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=200_000_000)
    yield [node.id for node in Cluster().nodes()]
    ray.shutdown()


def test_a_function_runs_on_a_node_and_its_error_comes_back_as_it_is(nodes, tmp_path):
    # Nested functions: a worker cannot import this module.
    def note(folder):
        Path(folder, "seen").touch()

    def refuse(name):
        raise ConfigError(f"no model {name}")

    assert len(nodes) == 1
    Cluster().on_nodes(nodes, note, str(tmp_path))
    assert (tmp_path / "seen").exists()
    with pytest.raises(ConfigError, match="^no model a/b$"):
        Cluster().on_nodes(nodes, refuse, "a/b")
