"""Makes `small` importable in the tests of this folder, and runs it once for all."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Directory of a small run that nothing interrupted; not to be changed."""
    from small import finish

    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run_dir)
    return run_dir
