"""Window, k-core, histories and the split by global time."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.config import CorpusConfig
from minirec.corpus.schema import SAMPLES
from minirec.corpus.split import Events, encode, k_core, make_samples, split_sizes
from minirec.errors import CorpusError

DAY = 86_400_000


def events_of(rows) -> Events:
    """Rows (user, item, rating, time)."""
    user, users = encode(pa.array([r[0] for r in rows], pa.string()))
    item, items = encode(pa.array([r[1] for r in rows], pa.string()))
    return Events(
        user=user,
        item=item,
        rating=np.array([r[2] for r in rows], dtype=np.float32),
        time=np.array([r[3] for r in rows], dtype=np.int64),
        users=users,
        items=items,
    )


def config(**settings) -> CorpusConfig:
    return CorpusConfig(source="demo", **settings)


def samples_of(rows, **settings) -> list[dict]:
    made = make_samples(events_of(rows), config(**settings))
    assert all(table.schema == SAMPLES for table in made.tables.values())
    return [row for name in ("train", "valid", "test") for row in made.tables[name].to_pylist()]


HAND = [
    ("b", "z", 5, 30),
    ("a", "x", 4, 10),
    ("a", "z", 2, 20),
    ("b", "y", 3, 20),
    ("a", "y", 1, 30),
    ("b", "x", 4, 5),
]


def test_by_hand():
    # items x, y, z -> 0, 1, 2. User a: x@10 z@20 y@30; user b: x@5 y@20 z@30.
    rows = samples_of(HAND)
    assert [(r["sample_id"], r["user"], r["target"], r["time"]) for r in rows] == [
        (0, "a", 2, 20),
        (1, "b", 1, 20),
        (2, "a", 1, 30),
        (3, "b", 2, 30),
    ]
    assert rows[2]["history"] == [0, 2]
    assert rows[2]["history_rating"] == [4, 2]
    assert rows[2]["history_time"] == [10, 20]
    assert rows[2]["rating"] == 1


def test_history_is_a_window_of_the_last_events():
    assert [r["history"] for r in samples_of(HAND, history=1)] == [[0], [0], [2], [1]]


def test_min_history_drops_early_targets():
    rows = [("a", f"i{n}", 3, n) for n in range(6)]
    assert [r["target"] for r in samples_of(rows, min_history=3)] == [3, 4, 5]


def test_ties_in_time_are_broken_by_user_then_item_key():
    rows = [(u, i, 3, t) for u in "ba" for i, t in (("q", 1), ("p", 9), ("o", 9))]
    assert [(r["user"], r["target"], r["history"]) for r in samples_of(rows)] == [
        ("a", 0, [2]),
        ("a", 1, [2, 0]),
        ("b", 0, [2]),
        ("b", 1, [2, 0]),
    ]


def test_window_is_half_open_in_utc():
    rows = [(u, f"{u}{d}", 3, d * DAY) for u in "ab" for d in range(6)]
    made = make_samples(events_of(rows), config(start="1970-01-02", end="1970-01-05"))
    assert made.kept == 6
    assert sorted(t["time"] for n in made.tables for t in made.tables[n].to_pylist()) == [
        2 * DAY, 2 * DAY, 3 * DAY, 3 * DAY
    ]  # fmt: skip


def test_items_are_dense_over_what_is_kept():
    made = make_samples(events_of(HAND), config(min_rating=2))
    assert made.item_codes.tolist() == [0, 1, 2]
    made = make_samples(events_of([*HAND, ("a", "w", 0, 1)]), config(min_rating=1))
    assert made.item_codes.tolist() == [1, 2, 3]  # w is gone, x y z remain


def test_event_points_to_the_target():
    made = make_samples(events_of(HAND), config())
    assert made.event.tolist() == [2, 3, 4, 0]


def test_split_sizes():
    assert split_sizes(100, (0.8, 0.1, 0.1)) == (80, 10, 10)
    assert split_sizes(3, (0.8, 0.1, 0.1)) == (1, 1, 1)
    for n in range(3, 60):
        for shares in ((0.8, 0.1, 0.1), (0.02, 0.49, 0.49), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)):
            sizes = split_sizes(n, shares)
            assert sum(sizes) == n and min(sizes) >= 1


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (HAND, {"start": "2020-01-01"}, ["corpus.start=2020-01-01", "1970-01-01", "widen"]),
        (HAND, {"min_rating": 5.5}, ["corpus.min_rating=5.5", "all 6 events", "lower"]),
        (HAND, {"k_core": 9}, ["corpus.k_core=9", "all 6 events", "lower"]),
        ([("a", "x", 3, 1), ("a", "x", 3, 2), ("b", "x", 3, 3)], {}, ["one item (x)"]),
        ([("a", "x", 3, 1), ("b", "y", 3, 2)], {}, ["no samples", "2 users", "min_history=1"]),
        ([("a", "x", 3, 1), ("a", "y", 3, 2)], {}, ["1 sample(s)", "train, valid and test"]),
    ],
)
def test_what_cannot_become_samples(rows, settings, words):
    with pytest.raises(CorpusError) as error:
        make_samples(events_of(rows), config(**settings))
    for word in words:
        assert word in str(error.value)


def test_min_history_is_lowered_only_where_it_can_be():
    rows = [("a", "x", 3, 1), ("b", "y", 3, 2)]
    said = {}
    for least in (1, 2):
        with pytest.raises(CorpusError) as error:
            make_samples(events_of(rows), config(min_history=least))
        said[least] = str(error.value)
    assert "before it; give interactions of the same users over a longer time" in said[1]
    assert "before it; lower min_history or give interactions" in said[2]


PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@given(pairs=PAIRS, k=st.integers(1, 4))
def test_k_core_is_the_largest_one(pairs, k):
    mask = k_core(*np.array(pairs).T, k=k)
    # Reference: remove one event at a time until nothing offends.
    left = list(range(len(pairs)))
    while True:
        bad = [
            e
            for e in left
            if sum(pairs[o][0] == pairs[e][0] for o in left) < k
            or sum(pairs[o][1] == pairs[e][1] for o in left) < k
        ]
        if not bad:
            break
        left.remove(bad[0])
    assert np.flatnonzero(mask).tolist() == left


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.sampled_from("vwxyz"), st.integers(0, 5), st.integers(0, 20)
    ),
    min_size=8,
    max_size=40,
    unique_by=lambda r: (r[0], r[1], r[3]),
)


@given(rows=ROWS, history=st.integers(1, 4), data=st.data())
def test_split_invariants(rows, history, data):
    try:
        made = samples_of(rows, history=history)
    except CorpusError:
        return
    assert [r["sample_id"] for r in made] == list(range(len(made)))
    keys = [(r["time"], r["user"], r["target"]) for r in made]
    assert keys == sorted(keys)
    for r in made:
        assert (
            1 <= len(r["history"]) == len(r["history_time"]) == len(r["history_rating"]) <= history
        )
        assert r["history_time"] == sorted(r["history_time"])
        assert r["history_time"][-1] <= r["time"]
    counts = {u: sum(r[0] == u for r in rows) for u in "abcd"}
    assert len(made) == sum(max(0, n - 1) for n in counts.values())
    # The order of the input rows does not matter.
    assert samples_of(data.draw(st.permutations(rows)), history=history) == made
