"""Preparing a corpus on several nodes, of which one may leave."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.small import finish, start, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

PARTS = "resources.corpus_mib=1"
"""Ten parts of the corpus of these tests."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Settings for 60,000 events of 3,000 users, about 2 MiB of text in four files."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(1)
    (folder / "events").mkdir()
    for part in range(4):
        rows = ["user,item,rating,time"]
        users, items = rng.integers(3000, size=15_000), rng.integers(99, size=15_000)
        for user, item in zip(users, items, strict=True):
            time = 1_600_000_000 + rng.integers(10_000_000)
            rows.append(f"user{user},item{item},{1 + item % 5},{time}")
        (folder / "events" / f"part-{part}.csv").write_text("\n".join(rows))
    titles = [f"item{item},Thing {item}" for item in range(99)]
    (folder / "items.csv").write_text("\n".join(["item,title", *titles]))
    return ("corpus.source=table", f"corpus.path={folder}", "corpus.ratings=events")


@pytest.fixture(scope="module")
def single(shop, tmp_path_factory):
    """The bytes of the corpus that one process prepares."""
    run_dir = tmp_path_factory.mktemp("single") / "run"
    finish(run_dir, "prepare", *shop)
    return content(run_dir)


def content(run_dir):
    return {file.name: file.read_bytes() for file in (run_dir / "corpus").iterdir()}


@pytest.mark.parametrize("nodes", [(2,), (2, 1), (1, 1, 1)])
def test_any_number_of_nodes_gives_the_same_bytes(single, shop, cluster, tmp_path, nodes):
    cluster(*nodes)
    finish(tmp_path / "run", "prepare", *shop, PARTS)
    assert content(tmp_path / "run") == single


def test_a_node_leaves_during_the_shuffle(single, shop, cluster, tmp_path):
    """The command ends with the same bytes or with a sentence, and the next one with the bytes."""
    nodes = cluster(1, 1, 1)
    run_dir = tmp_path / "run"
    process = start(run_dir, "prepare", *shop, PARTS)
    wait_for(lambda: nodes.running("Shuffle"), process, "the shuffle")
    nodes.kill(nodes.running("Shuffle")[0])
    status = process.wait(timeout=400)
    log = (tmp_path / "run.log").read_text()
    if status:
        assert "Traceback" not in log and not (run_dir / "corpus").exists()
        finish(run_dir, "prepare", *shop, PARTS)
    assert content(run_dir) == single
    shutil.rmtree(run_dir)
