"""Histories without a target come from the train split alone."""

from __future__ import annotations

from collections import Counter

import pytest

from jobs.corpus import from_demo
from minirec.config.corpus import CorpusConfig, DemoConfig
from minirec.corpus.table import Sample, load_samples
from minirec.corpus.unlabelled import NO_TARGET, newest_samples, turns, without_target
from minirec.store.tables import read_table


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place") / "corpus"
    demo = DemoConfig(users=40, items=30, tastes=3)
    from_demo(CorpusConfig(source="demo", category="demo", demo=demo, history=5), folder, 1)
    return folder


def test_a_history_ends_with_the_newest_event_of_the_train_split(corpus):
    """Rebuilt from the rows of the file, by user."""
    rows = read_table(corpus / "train.parquet").to_pylist()
    newest = {}
    for row in sorted(rows, key=lambda row: (row["time"], row["sample_id"])):
        newest[row["user"]] = row
    ids = newest_samples(corpus).tolist()
    assert ids == sorted(row["sample_id"] for row in newest.values())
    by_id = {sample.sample_id: sample for sample in load_samples(corpus, "train")}
    for row in newest.values():
        found = without_target(by_id[row["sample_id"]], longest=5)
        whole = [*row["history"], *(row.get("same_time") or []), row["target"]]
        assert found.history == whole[-5:]
        assert found.target == NO_TARGET
        assert found.sample_id < -1


def test_no_target_of_valid_or_test_is_an_event_of_its_prompt(corpus):
    """Where valid continues the prompt of a user, its target is not in the prompt."""
    train = {r["sample_id"]: r for r in read_table(corpus / "train.parquet").to_pylist()}
    prompts = {}
    for number in newest_samples(corpus).tolist():
        row = train[number]
        prompts[row["user"]] = [*row["history_time"], row["time"]]
    later = [
        row
        for split in ("valid", "test")
        for row in read_table(corpus / f"{split}.parquet").to_pylist()
        if row["user"] in prompts
    ]
    assert later
    assert all(row["time"] > max(prompts[row["user"]]) for row in later)


def test_items_of_the_same_time_join_the_history():
    sample = Sample(7, [1, 2], 3, same_time=[4, 5])
    assert without_target(sample, longest=None) == Sample(-9, [1, 2, 4, 5, 3], NO_TARGET)
    assert without_target(sample, longest=3).history == [4, 5, 3]


def test_every_user_comes_once_before_one_comes_again():
    drawn = turns(7, range(21), seed=3)
    for start in (0, 7, 14):
        assert Counter(drawn[start : start + 7]) == Counter(range(7))
    assert drawn[:7] != drawn[7:14]
    assert turns(7, range(5, 12), seed=3) == drawn[5:12]
    assert turns(7, range(21), seed=4) != drawn
    assert turns(3, [], seed=1) == []
