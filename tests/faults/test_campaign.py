"""Seeded trials: something breaks at a random moment, the same command again makes the same bytes.

MINIREC_TRIALS says how many; `make faults` makes 56.
"""

from __future__ import annotations

import os
import subprocess

import pytest
from trials import Trial, again, assert_equal, disturb, mount, prepared

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FIRST, COUNT = (
    int(os.environ.get(f"MINIREC_{name}", n)) for name, n in (("SEED", 0), ("TRIALS", 5))
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_trial(seed, undisturbed, tmp_path):
    trial = Trial.of(seed)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    if trial.kind == "disk" and not mount(run_dir, "64m"):
        pytest.skip("a file system of limited size needs the right to mount one")
    try:
        prepared(undisturbed, run_dir, trial)
        done = disturb(trial, run_dir)
        print(f"trial {seed}: {trial.command}: {done}")
        printed = again(trial, run_dir)
        if trial.kind == "corrupt":
            assert "damaged" in printed, printed[-3000:]
        assert_equal(run_dir, undisturbed)
    finally:
        if trial.kind == "disk":
            subprocess.run(["umount", "--lazy", str(run_dir)], check=True, timeout=60)
