"""Seeded trials: something breaks at a random moment, the same command again makes the same bytes.

MINIREC_TRIALS says how many, from the seed MINIREC_SEED on; `make faults` makes 56. Without it
`make test` makes three: a worker is killed in `train`, with and without live selection; a driver
is killed in `score`, and then a finished file is damaged. `make long` kills a driver in `train`.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest
from helpers.small import finish
from helpers.trials import LIVE, Place, Trial, again, assert_equal, disturb, mount, prepared

from minirec.store.remote import located

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FIRST = int(os.environ.get("MINIREC_SEED", 0))
COUNT = os.environ.get("MINIREC_TRIALS")
LONG = pytest.param(0, marks=pytest.mark.long)
SEEDS = range(FIRST, FIRST + int(COUNT)) if COUNT else (LONG, 2, 3, 34)


@pytest.fixture(scope="module")
def undisturbed_live(tmp_path_factory):
    """Directory of a small run with live selection that nothing interrupted; not to be changed."""
    run_dir = tmp_path_factory.mktemp("undisturbed_live") / "run"
    for word in ("prepare", "model", "train"):
        finish(run_dir, word, *LIVE)
    return run_dir


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
def test_trial(seed, undisturbed, tmp_path, request):
    trial = Trial.of(seed)
    whole = request.getfixturevalue("undisturbed_live") if trial.live else undisturbed
    local = tmp_path / "run"
    local.mkdir()
    if trial.kind == "disk" and not mount(local, "64m"):
        pytest.skip("a file system of limited size needs the right to mount one")
    try:
        for attempt in range(4):
            prepared(whole, local, trial)
            place = Place(local, local)
            if trial.kind == "store":
                place = stored(local, attempt, request)
            done = disturb(trial, place)
            if done:
                break
            trial = replace(trial, delay=trial.delay / 3)  # the command was quicker
        assert done, "nothing was disturbed"
        print(f"trial {seed}: {trial.command}: {done}")
        printed = again(trial, place)
        if trial.kind == "corrupt":
            assert "damaged" in printed, printed[-3000:]
        if trial.kind == "store":
            local = tmp_path / "fetched"
            place.run_dir.fs.get(place.run_dir.path, str(local), recursive=True)
        assert_equal(local, whole, trial)
    finally:
        if trial.kind == "disk":
            subprocess.run(["umount", "--lazy", str(local)], check=True, timeout=60)


def stored(local, attempt, request):
    """The prepared run directory on the object store, behind a gate."""
    gate = request.getfixturevalue("gate")
    address = f"{request.getfixturevalue('bucket_folder')}-{attempt}"
    folder = located(address)
    folder.fs.put(str(local), folder.path, recursive=True)
    return Place(folder, local, (f"run_dir={address}",), gate)
