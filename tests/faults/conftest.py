"""Makes `small` and `trials` importable, and a run that nothing interrupted."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "jobs")]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Directory of a small run that nothing interrupted; not to be changed."""
    from small import finish

    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run_dir)
    return run_dir
