"""Ray clusters of several raylets on this machine."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time

import pytest
from helpers.marked import MARK, marked
from helpers.nodes import SAME, NodesProcess


@pytest.fixture
def cluster(monkeypatch):
    """Starts clusters and ends them; fails if a process of a node or a run outlives the test."""
    token, folder = secrets.token_hex(16), tempfile.mkdtemp(prefix="mrc", dir="/tmp")
    for name, value in {
        MARK: token,
        "RAY_TMPDIR": folder,  # so that no other program joins this cluster
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    made = []

    def start(*cpus: int):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        nodes = NodesProcess(*cpus)
        made.append(nodes)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        return nodes

    yield start
    for nodes in made:
        nodes.shutdown()
    end = time.monotonic() + 20
    while (left := marked(token)) and time.monotonic() < end:
        time.sleep(0.5)
    names = [" ".join(process.cmdline())[:80] for process in left]
    for process in left:
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    assert not names, f"left behind: {names}"


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    """Directory of the run on one machine; tests must not change it."""
    from helpers.small import finish

    run_dir = tmp_path_factory.mktemp("single") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as in `cluster`: the last digits depend on it
        finish(run_dir, "run", *SAME)
    return run_dir
