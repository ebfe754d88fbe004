"""Window, k-core, histories, events of one time, and the splits."""

import pytest
from helpers.small_corpora import clean_of, made_of
from hypothesis import given
from hypothesis import strategies as st

from minirec.config.corpus import CorpusConfig
from minirec.corpus import split
from minirec.corpus.events import Events
from minirec.corpus.filters import filtered, kept
from minirec.corpus.parts import LocalParts
from minirec.corpus.schema import SAMPLES, SAMPLES_WITH_SAME_TIME
from minirec.corpus.split import split_sizes
from minirec.errors import CorpusError

DAY = 86_400_000


PAPER = {"same_time": "keep", "ties": "key"}


def config(**settings) -> CorpusConfig:
    return CorpusConfig(source="demo", **settings)


def samples_of(rows, **settings) -> list[dict]:
    made = made_of(rows, **settings)
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
    rows = samples_of(HAND, **PAPER)
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
    assert [r["history"] for r in samples_of(HAND, history=1, **PAPER)] == [[0], [0], [2], [1]]


def test_min_history_drops_early_targets():
    rows = [("a", f"i{n}", 3, n) for n in range(6)]
    assert [r["target"] for r in samples_of(rows, min_history=3)] == [3, 4, 5]


def test_kept_ties_in_time_are_broken_by_user_then_item_key():
    rows = [(u, i, 3, t) for u in "ba" for i, t in (("q", 1), ("p", 9), ("o", 9))]
    made = samples_of(rows, **PAPER)
    assert [(r["user"], r["target"], r["history"]) for r in made] == [
        ("a", 0, [2]),
        ("a", 1, [2, 0]),
        ("b", 0, [2]),
        ("b", 1, [2, 0]),
    ]


def test_window_is_half_open_in_utc():
    rows = [(u, f"{u}{d}", 3, d * DAY) for u in "ab" for d in range(6)]
    window = {"start": "1970-01-02", "end": "1970-01-05"}
    made = made_of(rows, **window, **PAPER)
    assert made.plan.events == 6
    assert sorted(t["time"] for n in made.tables for t in made.tables[n].to_pylist()) == [
        2 * DAY, 2 * DAY, 3 * DAY, 3 * DAY
    ]  # fmt: skip


def test_items_are_dense_over_what_is_kept():
    made = made_of(HAND, min_rating=2, **PAPER)
    assert made.item_codes.tolist() == [0, 1, 2]
    made = made_of([*HAND, ("a", "w", 0, 1)], min_rating=1, **PAPER)
    assert made.item_codes.tolist() == [1, 2, 3]  # w is gone, x y z remain


def test_event_points_to_the_target():
    made = made_of(HAND, **PAPER)
    assert made.order.tolist() == [2, 3, 4, 0]


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
        (
            [(u, i, 3, 1) for u in "ab" for i in "xyz"],
            {},
            ["earlier time", "up to 3", "corpus.same_time=keep"],
        ),
        (
            HAND,
            {},
            ["4 samples", "2 distinct time(s)", "corpus.same_time=keep and corpus.ties=file"],
        ),
        (HAND, {"split": "leave_one_out"}, ["three times", "is 2", "[0.8, 0.1, 0.1]"]),
    ],
)
def test_what_cannot_become_samples(rows, settings, words):
    with pytest.raises(CorpusError) as error:
        made_of(rows, **settings)
    for word in words:
        assert word in str(error.value)


def test_min_history_is_lowered_only_where_it_can_be():
    rows = [("a", "x", 3, 1), ("b", "y", 3, 2)]
    said = {}
    for least in (1, 2):
        with pytest.raises(CorpusError) as error:
            made_of(rows, min_history=least)
        said[least] = str(error.value)
    assert "before it; give interactions of the same users over a longer time" in said[1]
    assert "before it; lower min_history or give interactions" in said[2]


PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@given(pairs=PAIRS, k=st.integers(1, 4))
def test_k_core_is_the_largest_one(pairs, k):
    clean, items = clean_of([(f"u{u}", f"i{i}", 3, n) for n, (u, i) in enumerate(pairs)])
    parts = LocalParts([clean])
    # Reference: remove one event at a time until all users and items have k events.
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
    if len({pairs[e][1] for e in left}) < 2:
        with pytest.raises(CorpusError):
            filtered(parts, CorpusConfig(k_core=k), items=items)
        return
    core = filtered(parts, CorpusConfig(k_core=k), items=items)
    assert kept(Events.of(clean), CorpusConfig(k_core=k), core.items).tolist() == left


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.sampled_from("vwxyz"), st.integers(0, 5), st.integers(0, 20)
    ),
    min_size=8,
    max_size=40,
    unique_by=lambda r: (r[0], r[1], r[3]),
)


def naive(rows, *, history, same_time, tie):
    """(user, time, target, history, others of the time) of each sample, by plain loops."""
    items = sorted({r[1] for r in rows})
    numbered = [(r[0], items.index(r[1]), r[3], n) for n, r in enumerate(rows)]
    place = {"key": lambda e: e[1], "file": lambda e: e[3]}[tie]
    found = []
    for event in sorted(numbered, key=lambda e: (e[2], e[0], place(e))):
        user, item, time, _ = event
        own = sorted((e for e in numbered if e[0] == user), key=lambda e: (e[2], place(e)))
        before = own[: own.index(event)]
        others = []
        if same_time == "exclude":
            before = [e for e in before if e[2] < time]
            others = [e[1] for e in own if e[2] == time and e != event]
        if before:
            found.append((user, time, item, [e[1] for e in before[-history:]], others))
    return found


def listed(made):
    return [(r["user"], r["time"], r["target"], r["history"], r.get("same_time", [])) for r in made]


@given(
    rows=ROWS,
    history=st.integers(1, 4),
    same_time=st.sampled_from(["exclude", "keep"]),
    tie=st.sampled_from(["key", "file"]),
)
def test_samples_equal_plain_loops(rows, history, same_time, tie):
    try:
        made = samples_of(rows, history=history, same_time=same_time, ties=tie)
    except CorpusError:
        return
    expected = naive(rows, history=history, same_time=same_time, tie=tie)
    assert listed(made) == expected


@given(rows=ROWS, data=st.data())
def test_hashed_ties_depend_on_nothing_but_user_and_item(rows, data):
    keep = {"same_time": "keep", "ties": "hash", "history": 40}
    try:
        made = samples_of(rows, **keep)
    except CorpusError:
        return
    assert samples_of(data.draw(st.permutations(rows)), **keep) == made
    later = [(u, i, r, t + 7 * DAY) for u, i, r, t in rows]
    assert [r["history"] for r in samples_of(later, **keep)] == [r["history"] for r in made]


def test_hashed_ties_are_not_in_the_order_of_the_keys():
    """Of 200 users with a basket of two, about half have the later key first."""
    rows = [(f"u{u}", i, 3, 1 + u) for u in range(200) for i in "xy"]
    made = samples_of(rows, same_time="keep", ties="hash")
    swapped = sum(r["target"] == 0 for r in made)
    assert 70 < swapped < 130


BASKETS = [
    # user a: x, then y and z at once, then w. user b: y and w at once, then x.
    ("a", "x", 3, 1), ("a", "y", 4, 2), ("a", "z", 5, 2), ("a", "w", 3, 3),
    ("b", "y", 3, 2), ("b", "w", 2, 2), ("b", "x", 3, 4),
]  # fmt: skip


def test_events_of_one_time_are_not_in_each_other_s_history():
    # items w, x, y, z -> 0, 1, 2, 3
    made = samples_of(BASKETS, ties="key")
    assert listed(made) == [
        ("a", 2, 2, [1], [3]),
        ("a", 2, 3, [1], [2]),
        ("a", 3, 0, [1, 2, 3], []),
        ("b", 4, 1, [0, 2], []),
    ]
    # With a window of one, the history takes an earlier event and is not left empty.
    assert [r["history"] for r in samples_of(BASKETS, ties="key", history=1)] == [
        [1], [1], [3], [2]
    ]  # fmt: skip
    # min_history counts earlier events only.
    rows = [*BASKETS, ("a", "v", 1, 5), ("a", "u", 1, 6)]
    assert [(r["user"], r["time"]) for r in samples_of(rows, min_history=2)] == [
        ("a", 3), ("b", 4), ("a", 5), ("a", 6)
    ]  # fmt: skip


def test_samples_that_share_their_time_are_counted():
    made = made_of(BASKETS)
    assert made.facts.shared == {"train": 2, "valid": 0, "test": 0}
    assert made.plan.left_out == 1  # of b's first two events the later one has no earlier event
    kept = made_of(BASKETS, **PAPER)
    assert sum(kept.facts.shared.values()) == 3 and kept.plan.left_out == 0


def test_the_column_is_there_only_where_a_sample_has_such_items():
    for settings, there in (({}, True), (PAPER, False)):
        made = made_of(BASKETS, **settings)
        expected = SAMPLES_WITH_SAME_TIME if there else SAMPLES
        assert all(table.schema == expected for table in made.tables.values())
    distinct = [(u, i, 3, 10 * n + (u == "b")) for u in "ab" for n, i in enumerate("xyz")]
    default = made_of(distinct)
    paper = made_of(distinct, **PAPER)
    assert default.tables == paper.tables  # distinct times: nothing differs


@given(rows=ROWS, shares=st.sampled_from([(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.4, 0.3, 0.3)]))
def test_a_time_is_in_one_split(rows, shares):
    try:
        made = made_of(rows, split=shares)
    except CorpusError:
        return
    times = [made.tables[name]["time"].to_pylist() for name in ("train", "valid", "test")]
    assert max(times[0]) < min(times[1]) and max(times[1]) < min(times[2])


def test_an_account_of_many_people_is_named(monkeypatch):
    """Samples of one time list each other, so the lists grow with the square."""
    monkeypatch.setattr(split, "LARGEST_LISTS", 500)
    rows = [(f"u{u}", i, 3, t) for u in range(5) for t, i in enumerate("xyz")]
    rows += [("guest", "x", 3, 0), *(("guest", f"g{n}", 3, 9) for n in range(30))]
    with pytest.raises(CorpusError, match="user guest has 30 events at one time"):
        made_of(rows)
    assert len(made_of(rows, same_time="keep").order) == 40


def test_samples_that_are_left_out_are_the_reason_of_too_few():
    rows = [(f"u{u}", i, 3, 1) for u in range(9) for i in "xyz"] + [("u0", "w", 3, 2)]
    with pytest.raises(CorpusError, match="1 sample.*same_time=keep"):
        made_of(rows)


def test_a_border_moves_to_the_next_time():
    # 20 users and samples at times 2: 10, 3: 6, 4: 4 of them; 16 + 2 + 2 by their number.
    later = [2] * 10 + [3] * 6 + [4] * 4
    rows = [(f"u{u}", "y", 3, t) for u, t in enumerate(later)]
    rows += [(user, "x", 3, 1) for user, *_ in rows]
    made = made_of(rows)
    assert [len(made.tables[n]) for n in ("train", "valid", "test")] == [10, 6, 4]
    exact = made_of(rows, **PAPER)
    assert [len(exact.tables[n]) for n in ("train", "valid", "test")] == [16, 2, 2]


def test_leave_one_out_takes_the_last_times_of_each_user():
    rows = [("a", i, 3, t) for t, i in enumerate("stuvw")]
    rows += [("b", "s", 3, 7), ("b", "t", 3, 8)]  # one target: too few
    rows += [("c", i, 3, t) for i, t in (("s", 1), ("t", 2), ("u", 3), ("v", 4), ("w", 4))]
    made = made_of(rows, split="leave_one_out", ties="key")
    by_split = {
        name: [(r["user"], r["target"]) for r in table.to_pylist()]
        for name, table in made.tables.items()
    }
    assert by_split == {
        "train": [("a", 1), ("a", 2), ("c", 1), ("b", 1)],
        "valid": [("a", 3), ("c", 2)],
        "test": [("a", 4), ("c", 3), ("c", 4)],
    }
    ids = [i for table in made.tables.values() for i in table["sample_id"].to_pylist()]
    assert ids == list(range(9))


@given(rows=ROWS, history=st.integers(1, 4), data=st.data())
def test_split_invariants(rows, history, data):
    try:
        made = samples_of(rows, history=history, **PAPER)
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
    assert samples_of(data.draw(st.permutations(rows)), history=history, **PAPER) == made
