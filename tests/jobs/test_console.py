"""The lines of a log during long work."""

import time

import pytest
from helpers.live_run import make_live_run

from jobs import console


def test_quarters_and_no_long_silence(capsys, monkeypatch):
    monkeypatch.setattr(console, "PULSE_S", 0.2)
    printed, deadline = "", time.monotonic() + 30
    with console.pulse("score"), console.bar("score", 8) as progress:
        progress.update(1, "shards")
        progress.update(2, "shards")
        while "worked" not in printed:
            assert time.monotonic() < deadline, "no line for 30 s"
            time.sleep(0.05)
            printed += capsys.readouterr().out
        progress.update(8, "shards")
    printed += capsys.readouterr().out
    lines = [line.strip() for line in printed.splitlines()]
    quarters = [line for line in lines if "worked" not in line]
    assert quarters == ["score: 2/8 shards", "score: 8/8 shards"]
    pulse = next(line for line in lines if "worked" in line)
    assert pulse.startswith("score has worked for") and pulse.endswith("s, score: 2/8 shards")


@pytest.mark.slow
def test_no_pulse_where_lines_come_often(capsys, monkeypatch):
    monkeypatch.setattr(console, "PULSE_S", 2)
    with console.pulse("train"):
        for _ in range(25):
            time.sleep(0.1)
            console.say("a line")
    assert "worked" not in capsys.readouterr().out


def test_the_summary_ends_with_what_choosing_cost_and_avoided(capsys, tmp_path):
    run = make_live_run(tmp_path / "run")
    console.print_summary(run)
    printed = capsys.readouterr().out
    table = printed[printed.index("Choosing the samples") :]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines()]
    assert ["cost", "4.0", "0", "800"] in [row[:2] + row[3:] for row in rows if row]
    assert ["avoided (estimate)", "48.0", "", "512", "28,800"] in rows
    assert "Choosing cost less than the rollouts that it avoided" in table
    assert max(map(len, table[: table.index("The training")].splitlines())) <= 80


def test_a_run_that_has_not_trained_says_nothing_about_choosing(capsys, tmp_path):
    run = make_live_run(tmp_path / "run")
    run.path("stages", "train.json").unlink()
    console.print_summary(run)
    assert "Choosing" not in capsys.readouterr().out
