"""A worker that hangs ends, and says where."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import time
from actors.process import deadline

def hangs():
    time.sleep({inside})

with deadline(0.5):
    hangs()
time.sleep(1)
print("goes on")
"""


def run(inside):
    program = PROGRAM.format(inside=inside)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_what_takes_longer_ends_the_process_and_shows_the_place():
    ended = run(60)
    assert ended.returncode != 0 and ended.stdout == ""
    assert "in hangs" in ended.stderr


def test_what_is_in_time_is_not_ended_later():
    assert run(0).stdout == "goes on\n"
