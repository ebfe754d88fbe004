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


@pytest.mark.parametrize("weighted", [False, True])
def test_the_table_of_quality_shows_value_where_items_have_weights(weighted):
    found = {"ndcg@10": {"mean": 0.5, "low": 0.41, "high": 0.59}}
    if weighted:
        found["value@10"] = {"mean": 0.75, "low": 0.6, "high": 0.9}
    table = console._quality({"trained": {"valid": found, "test": found}})
    cells = [list(column.cells) for column in table.columns]
    heads = [str(column.header).replace("\n", " ") for column in table.columns]
    assert heads[:3] == ["policy", "valid NDCG@10", "test NDCG@10"]
    if weighted:
        assert heads[3:] == ["valid value@10", "test value@10"]
        assert cells == [["trained policy"], ["0.5000"], ["0.5000"], ["0.7500"], ["0.7500"]]
    else:
        assert (heads[3:], cells[3]) == (["95% interval"], ["0.4100 to 0.5900"])


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
