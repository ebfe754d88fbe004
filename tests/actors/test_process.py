"""The deadline ends a process that hangs, and shows where."""

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
print("continues")
"""


def run(inside):
    program = PROGRAM.format(inside=inside)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_a_block_that_hangs_ends_the_process_and_is_shown():
    ended = run(60)
    assert ended.returncode != 0 and ended.stdout == ""
    assert "in hangs" in ended.stderr


def test_a_block_that_ends_in_time_has_no_effect():
    assert run(0).stdout == "continues\n"
