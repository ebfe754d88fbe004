"""`minirec init` as a command."""

from pathlib import Path

from jobs.cli import main
from minirec.config.reading import load

ROWS = "".join(f"u{n % 5},k{n % 7},{1_700_000_000 + n},Lamp {n % 7}\n" for n in range(40))


def test_it_writes_a_config_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shop.csv").write_text("user,item,time,title\n" + ROWS)
    assert main(["init", "shop.csv"]) == 0
    said = capsys.readouterr().out
    assert "2023-11-14 22:13:20 UTC" in said and "minirec run --config config.yaml" in said
    assert load("config.yaml").corpus.columns["user"] == "user"
    Path("config.yaml").write_text("seed: 7\n")
    assert main(["init", "shop.csv"]) == 2
    assert "config.yaml exists; give --overwrite" in capsys.readouterr().err
    assert Path("config.yaml").read_text() == "seed: 7\n"
    assert main(["init", "shop.csv", "--overwrite"]) == 0
    assert load("config.yaml").seed == load().seed


def test_a_missing_file_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "shop.csv"]) == 1
    assert "shop.csv is missing" in capsys.readouterr().err
    assert not Path("config.yaml").exists()
