"""Holding a run directory."""

import threading
import time

import pytest

from jobs.run import holding
from jobs.train import in_thread
from minirec import lease
from minirec.artifacts import Run, located, write_json


def test_a_lost_lease_wakes_a_command_that_waits_for_a_thread(bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    training = threading.Event()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), holding(Run(bucket_folder)):
        write_json(located(bucket_folder) / ".lock" / "999999999", {})
        in_thread(lambda: training.wait(60))
    assert time.monotonic() - started < 50
    training.set()
