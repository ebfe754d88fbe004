"""The first sentence of a report, and how far a corpus goes without training."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from minirec.corpus.schema import SAMPLES
from minirec.evaluation import policies, references
from minirec.evaluation.headline import headline, shortcuts_sentence
from minirec.evaluation.shortcuts import shortcuts
from minirec.prior.counts import CELLS, rows_at_once
from minirec.store.tables import ROW_GROUP, write_table


def evaluation(low, high, *, shortcut=0.493, titles=0.4):
    """The trained policy at 0.524, with an interval of its difference to shortcut."""
    means = {"trained": 0.524, "shortcut": shortcut, "title_likeness": titles}
    cells = {
        name: {"test": {"ndcg@10": {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}}}
        for name, mean in means.items()
    }
    test = {"difference": 0.524 - shortcut, "low": low, "high": high}
    paired = {"trained": {"test": test}}
    return {"policies": cells, "best_reference": {"name": "shortcut", "paired": paired}}


@pytest.mark.parametrize(
    ("low", "high", "place"),
    [
        (0.012, 0.049, "above"),
        (-0.049, -0.012, "below"),
        (-0.012, 0.049, "not significantly different from"),
        (0.0, 0.049, "not significantly different from"),
    ],
)
def test_headline(low, high, place):
    assert headline(evaluation(low, high)) == (
        f"On test the trained policy has NDCG@10 0.524 (0.474 to 0.574), {place} the best "
        f"reference, shortcut (chosen on valid), with 0.493: +0.031 ({low:+.3f} to {high:+.3f})."
    )


def test_headline_has_four_digits_for_small_figures_and_names_a_reference_that_test_prefers():
    text = headline(evaluation(0.4, 0.5, shortcut=0.0912, titles=0.0923))
    assert "with 0.0912: +0.4328" in text
    assert text.endswith(" On test likeness of titles is higher, with 0.0923.")


def test_headline_needs_test_and_a_trained_policy():
    assert headline({"policies": {}}) is None
    assert headline({"policies": {}, "best_reference": {"name": "shortcut", "paired": {}}}) is None


def test_every_reference_can_be_the_best_and_is_described():
    assert set(references.REFERENCES) <= set(policies.REFERENCES)
    assert policies.ordered({"popularity": 0, "own": 0, "trained": 0, "shortcut": 0}) == [
        "trained",
        "shortcut",
        "popularity",
        "own",
    ]


def samples(users, histories, targets):
    count = len(users)
    columns = {
        "sample_id": range(count),
        "user": users,
        "history": histories,
        "history_rating": [[5.0] * len(h) for h in histories],
        "history_time": [list(range(len(h))) for h in histories],
        "target": targets,
        "rating": [5.0] * count,
        "time": range(10, 10 + count),
    }
    return pa.table(columns, schema=SAMPLES)


def test_shortcuts_by_hand(tmp_path):
    # Item 1 follows item 0, and item 3 follows item 2. Titles say nothing.
    train = samples(["a", "b", "c"], [[0], [0], [2]], [1, 1, 3])
    write_table(tmp_path / "valid.parquet", samples(["d", "e"], [[0], [2]], [1, 3]))
    write_table(tmp_path / "train.parquet", train)
    found = shortcuts(tmp_path, [""] * 4)
    assert found["samples"] == 2
    # Users of the items: 2, 2, 1, 1. Target 1 is first; target 3 comes after 0 and 1.
    assert found["ndcg@10"]["popularity"] == pytest.approx((1 + 0.5) / 2)
    # Only the target is a transition. A title without a word is like no other: all are tied.
    assert found["ndcg@10"]["transitions"] == found["ndcg@10"]["shortcut"] == 1
    assert found["ndcg@10"]["title_likeness"] == 0.5  # the last of three
    assert found["best"] == "cooccurrence"  # the first of the equal ones


def test_shortcuts_take_samples_evenly_spread(tmp_path):
    train = samples(["a"], [[0]], [1])
    # Of 1,000 samples, only those in even rows have the target 1, which is first.
    targets = [1 if row % 2 == 0 else 0 for row in range(1000)]
    write_table(tmp_path / "valid.parquet", samples(["b"] * 1000, [[2]] * 1000, targets))
    write_table(tmp_path / "train.parquet", train)
    found = shortcuts(tmp_path, [""] * 3)
    assert found["samples"] == 500
    many = shortcuts(tmp_path, [""] * 100_000)
    assert many["samples"] == 100


def test_only_the_newest_row_groups_are_counted(tmp_path):
    """The last group says that item 1 follows item 0, all others that item 2 does."""
    rows = ROW_GROUP + 10
    targets = [2] * ROW_GROUP + [1] * 10
    train = samples([f"u{row}" for row in range(rows)], [[0]] * rows, targets)
    write_table(tmp_path / "train.parquet", train)
    write_table(tmp_path / "valid.parquet", samples(["d"], [[0]], [1]))
    newest = shortcuts(tmp_path, [""] * 3, counted=10)
    assert newest["counted"] == 10 and newest["ndcg@10"]["popularity"] == 1
    every = shortcuts(tmp_path, [""] * 3, counted=11)
    assert every["counted"] == rows and every["ndcg@10"]["popularity"] < 1


def test_the_block_shrinks_with_the_catalogue():
    assert rows_at_once(300) == 256 and rows_at_once(1_000_000) == 4
    assert rows_at_once(2 * CELLS) == 1


def test_a_small_block_gives_the_same_ranks(monkeypatch):
    rng = np.random.default_rng(0)
    train = samples(
        [f"u{i}" for i in range(30)],
        rng.integers(12, size=(30, 3)).tolist(),
        rng.integers(12, size=30).tolist(),
    )
    known = references_of(train)
    asked = {"history": [[1, 2], [3], [4, 5]], "target": [7, 8, 9], "excluded": [[1, 2], [3], [4]]}
    score = references.REFERENCES["shortcut"]
    whole = references.reference_ranks(score, known, **asked)
    monkeypatch.setattr("minirec.prior.counts.CELLS", 12)
    assert references.reference_ranks(score, known, **asked).tolist() == whole.tolist()


def references_of(train):
    from minirec.prior.counts import Words
    from minirec.prior.periods import events
    from minirec.prior.prior import Prior

    return Prior(
        events(train, by_time=True), Words.of([f"t{i}" for i in range(12)]), (1,) * 3
    ).known


def test_shortcuts_sentence():
    found = {"samples": 500, "ndcg@10": {"popularity": 0.0123, "shortcut": 0.0912}}
    assert shortcuts_sentence(found | {"best": "shortcut"}) == (
        "Of the references without training, shortcut, the best of them, reaches NDCG@10 0.0912 "
        "and popularity 0.0123 on valid (500 samples); a trained model has to exceed this figure."
    )
    assert "popularity, the best of them, reaches NDCG@10 0.0123 on valid" in shortcuts_sentence(
        found | {"best": "popularity"}
    )


def test_value_stands_before_ndcg():
    found = evaluation(0.012, 0.049)
    for name, mean in (("trained", 0.7), ("shortcut", 0.5), ("title_likeness", 0.6)):
        cell = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
        found["policies"][name]["test"]["value@10"] = cell
    test = {"difference": 0.1, "low": -0.1, "high": 0.3}
    best = {"name": "title_likeness", "paired": {"trained": {"test": test}}}
    plain = headline(found)
    found["value"] = {"best_reference": best}
    assert headline(found) == (
        "On test the trained policy has value@10 0.700 (0.600 to 0.800), not significantly "
        "different from the best reference, likeness of titles (chosen on valid), with 0.600: "
        f"+0.100 (-0.100 to +0.300). {plain}"
    )
