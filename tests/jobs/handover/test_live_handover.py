"""A run with live selection is handed over as any other run: nothing was scored or selected."""

from __future__ import annotations

import json

import pytest
from helpers.finished_run import finish_in_process

from jobs.cli import main
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("live") / "run"
    finish_in_process(run_dir, "selection.mode=live", "model.prior=shortcut")
    return run_dir


def exported(live, folder, to):
    assert main(["export", "--run", str(live), "--to", to, "--out", str(folder)]) == 0
    return (folder / "README.md").read_text()


@pytest.mark.parametrize("to", ["jsonl", "trl"])
def test_the_subset_is_in_the_order_of_first_training(live, tmp_path, to):
    text = exported(live, tmp_path / "out", to)
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().split("\n")[:-1]
    ]
    assert [row["sample_id"] for row in rows] == [200, 3, 150, 60, 9, 42, 17]
    assert read_table(live / "selection.parquet")["sample_id"].to_pylist() == [
        row["sample_id"] for row in rows
    ]
    said = " ".join(text.split())
    text = said.partition(" --- ")[2]  # after the front matter
    assert text.startswith("# 7 interactions, in training order Chosen live by MiniRec")
    assert "each of 2 training steps" in said and "statically" in said
    assert "by the frozen policy in `scorer/` (trained)" in said
    if to == "trl":
        assert "max_steps=2" in said


def test_a_policy_says_that_its_samples_were_chosen_live(live, tmp_path):
    text = exported(live, tmp_path / "out", "adapter")
    assert "Trained on interactions that live selection (`live.rule=band`) took" in text


def test_recommend_works(live, capsys):
    titles = read_table(live / "corpus" / "items.parquet")["title"].to_pylist()[:2]
    assert (
        main(["recommend", "--run", str(live), "--history", ", ".join(titles), "--top", "3"]) == 0
    )
    assert "item" in capsys.readouterr().out


def test_refresh_works(live, tmp_path):
    events = tmp_path / "events.csv"
    items = read_table(live / "corpus" / "items.parquet")["key"].to_pylist()
    rows = [f"user-{n},{item},{1_700_000_000 + n}" for n, item in enumerate(items[:3])]
    events.write_text("\n".join(["user,item,time", *rows]) + "\n")
    assert main(["refresh", "--run", str(live), "--events", str(events)]) == 0
    assert (live / "refreshed").exists()


def test_an_unfinished_training_has_no_subset(live, tmp_path, capsys):
    empty = tmp_path / "run"
    empty.mkdir()
    (empty / "config.yaml").write_text((live / "config.yaml").read_text())
    words = ["export", "--run", str(empty), "--to", "jsonl", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "has not finished train; run `minirec train" in capsys.readouterr().err
