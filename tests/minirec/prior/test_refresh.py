"""New events in the counts, by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from minirec.corpus import schema
from minirec.prior.prior import Prior
from minirec.prior.refresh import Added, NewEvents, refreshed
from minirec.store.files import write_json
from minirec.store.tables import write_table

# User a took 0, then 1, then 2 and 3 at one time; b took 0, then 2.
SAMPLES = {
    "train": [("a", [0], [1], 1, 2), ("b", [0], [1], 2, 5)],
    "valid": [("a", [0, 1], [1, 2], 2, 7)],
    "test": [("a", [0, 1], [1, 2], 3, 7)],
}


@pytest.fixture
def corpus(tmp_path):
    """Five items, of which nobody took item 4."""
    titles = ["one", "two", "three", "four", "five"]
    columns = {"item_id": range(5), "key": titles, "title": titles, "text": titles}
    write_table(tmp_path / "items.parquet", pa.table(columns, schema=schema.ITEMS))
    write_json(tmp_path / "corpus.json", {"category": "things", "first_day": "2020-01-01"})
    number = 0
    for split, rows in SAMPLES.items():
        made = [
            dict(zip(("user", "history", "history_time", "target", "time"), row, strict=True))
            | {"sample_id": number + i, "rating": 1.0, "history_rating": [1.0] * len(row[1])}
            for i, row in enumerate(rows)
        ]
        number += len(made)
        table = pa.Table.from_pylist(made, schema=schema.SAMPLES)
        write_table(tmp_path / f"{split}.parquet", table)
    return tmp_path


def counted(corpus, events, *, same_time="exclude", min_history=1, timed=True):
    user, item, time = zip(*events, strict=True) if events else ((), (), ())
    new = NewEvents(
        pa.chunked_array([pa.array(user, pa.string())]),
        np.array(item, np.int64),
        np.array(time, np.int64) if timed else None,
    )
    return refreshed(corpus, new, same_time=same_time, min_history=min_history)


def steps(counts):
    """The pairs of items with a transition."""
    return {(int(a), int(b)) for a, b in zip(*counts.transitions.nonzero(), strict=True)}


def test_without_files_all_splits_count(corpus):
    counts, added = counted(corpus, [])
    assert counts.users.tolist() == [2, 1, 2, 1, 0]
    assert steps(counts) == {(0, 1), (0, 2), (1, 2), (1, 3)}
    assert added == Added(0, 0, 0, 0)
    train = Prior.of(corpus).known
    assert train.users.tolist() == [2, 1, 1, 0, 0] and steps(train) == {(0, 1), (0, 2)}


def test_new_events_join_the_events_of_their_users(corpus):
    """The order of the rows does not matter; c has no event before 4, so it is no transition."""
    counts, added = counted(corpus, [("b", 4, 9), ("c", 4, 3), ("b", 1, 7), ("c", 0, 4)])
    assert counts.users.tolist() == [3, 2, 2, 1, 2]
    assert steps(counts) == {(0, 1), (0, 2), (1, 2), (1, 3), (2, 1), (1, 4), (4, 0)}
    assert added == Added(4, 0, 2, 1)


def test_an_event_that_is_there_counts_once(corpus):
    twice = [("b", 2, 5), ("a", 0, 1), ("b", 4, 6), ("b", 4, 6)]
    counts, added = counted(corpus, twice)
    assert counts.users.tolist() == [2, 1, 2, 1, 1]
    assert added == Added(1, 3, 1, 0)
    n = np.log1p(1)
    assert counts.transitions[0, 1] == pytest.approx(n / (2 * n))  # not log(3)


@pytest.mark.parametrize(
    ("same_time", "found"), [("exclude", {(3, 4), (3, 0)}), ("keep", {(3, 4), (4, 0)})]
)
def test_events_of_one_time(corpus, same_time, found):
    """After the visit with items 2 and 3, whose last item is 3."""
    before = {(0, 1), (0, 2), (1, 2), (1, 3)}
    counts, _ = counted(corpus, [("a", 4, 8), ("a", 0, 8)], same_time=same_time)
    assert steps(counts) - before == found


def test_targets_need_the_history_of_the_settings(corpus):
    rows = [("c", item, time) for time, item in enumerate([4, 3, 2])]
    counts, _ = counted(corpus, rows, min_history=2)
    assert steps(counts) == {(0, 1), (0, 2), (1, 2), (1, 3), (3, 2)}


def test_without_times_new_events_follow_in_their_order(corpus):
    counts, _ = counted(corpus, [("b", 4, 0), ("b", 3, 0)], timed=False)
    assert {(2, 4), (4, 3)} <= steps(counts)
