"""What a log shows while nothing is finished."""

import time

from jobs import console


def test_quarters_and_no_long_silence(capsys, monkeypatch):
    monkeypatch.setattr(console, "PULSE_S", 0.2)
    with console.pulse("score"), console.bar("score", 8) as progress:
        progress.update(1, "shards")
        progress.update(2, "shards")
        time.sleep(0.3)
        progress.update(8, "shards")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "worked" not in line] == [
        "score: 2/8 shards",
        "score: 8/8 shards",
    ]
    pulses = [line for line in lines if "worked" in line]
    assert pulses and all(line.endswith("s, score: 2/8 shards") for line in pulses)


def test_no_pulse_where_lines_come_often(capsys, monkeypatch):
    monkeypatch.setattr(console, "PULSE_S", 0.6)
    with console.pulse("train"):
        for _ in range(10):
            time.sleep(0.1)
            console.say("a line")
    assert "worked" not in capsys.readouterr().out
