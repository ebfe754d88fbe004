"""Experts leave out the sample's own user."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from minirec.corpus.table import Sample
from minirec.errors import ConfigError
from minirec.evaluation.expert import (
    CountsExpert,
    TableExpert,
    demonstration,
    load_expert,
    read_expert,
)
from minirec.evaluation.references import cooccurrence
from minirec.prior.counts import Words
from minirec.prior.periods import events
from minirec.prior.prior import Prior
from minirec.selection.learnability import chance_level
from minirec.store.tables import write_table

TITLES = ["red", "green", "blue", "grey", "black"]


def counted(rows):
    """The counts of samples (user, history, target), in folds of users."""
    user, history, target = zip(*rows, strict=True)
    train = pa.table(
        {
            "user": pa.array(user),
            "history": pa.array(history, pa.list_(pa.int32())),
            "history_time": pa.array([[1] * len(h) for h in history], pa.list_(pa.int64())),
            "target": pa.array(target, pa.int32()),
            "time": pa.array([2] * len(rows), pa.int64()),
        }
    )
    return Prior(events(train, by_time=False), Words.of(TITLES), (1, 1, 1))


def test_a_target_that_only_its_user_has_is_not_shown():
    """Items 0 and 1 go together for users a to f; only user u has 0 and 2, with the target 2."""
    rows = [("u", [0], 2), *((name, [0], 1) for name in "abcdef")]
    expert = CountsExpert(cooccurrence, counted(rows), items=3, cutoff=5)
    own = Sample(0, [0], 2)
    assert expert([own])[0].items == [1]
    # For another user the same pair counts, because its fold is not that of u.
    folds = expert.counts._events.period.tolist()
    other = next(i for i, fold in enumerate(folds) if fold != folds[0])
    assert set(expert([Sample(other, [0], 1)])[other].items) == {1, 2}


def test_the_probabilities_and_the_advantage_by_hand():
    """Of the scores 4, 2, 0, 9, 1 the history {3} is left out, and the best two are standardised:
    +1 and -1. The target 1 is second: NDCG 1 / log2(3)."""
    found = demonstration(
        np.array([4.0, 2, 0, 9, 1]), np.zeros(5), sample=Sample(0, [3], 1), items=2, cutoff=5
    )
    assert found.items == [0, 1]
    share = math.e / (math.e + 1 / math.e)
    assert found.probability == pytest.approx([share, 1 - share])
    assert found.advantage == pytest.approx(1 / math.log2(3) - chance_level(5, cutoff=5))


def test_equal_scores_share_their_weight_and_ties_count_against_the_target():
    found = demonstration(
        np.array([1.0, 1, 1, 0, 0]), np.zeros(5), sample=Sample(0, [4], 0), items=2, cutoff=1
    )
    assert (found.items, found.probability) == ([0, 1], [0.5, 0.5])
    assert found.advantage == pytest.approx(-chance_level(5, cutoff=1))  # rank 3 is beyond 1


def test_without_a_score_there_is_no_demonstration():
    scores = np.array([0.0, 0, 0, 5, 0])
    assert demonstration(scores, scores, sample=Sample(0, [3], 1), items=2, cutoff=5) is None


def test_a_table_gives_its_likeliest_items(tmp_path):
    file = tmp_path / "expert.parquet"
    rows = [(7, 1, 0.2), (7, 2, 0.6), (7, 0, 0.2), (8, 4, 1.0)]
    names = ("sample_id", "item", "probability")
    write_table(file, pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))
    expert = TableExpert(read_expert(str(file), items=5), 5, items=2, cutoff=5)
    found = expert([Sample(7, [1], 0), Sample(8, [4], 0), Sample(9, [4], 0)])
    assert [*found] == [7]  # the item of 8 is in its history, 9 has no row
    assert found[7].items == [2, 0]
    assert found[7].probability == pytest.approx([0.75, 0.25])
    assert found[7].advantage == pytest.approx(1 / math.log2(3) - chance_level(5, cutoff=5))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"sample_id": [1], "item": [5], "probability": [1.0]}, "item 5"),
        ({"sample_id": [1], "item": [1], "probability": [0.0]}, "probability 0.0"),
        ({"sample_id": [1], "item": [1]}, "columns sample_id, item, probability"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, rows, said):
    file = tmp_path / "expert.parquet"
    write_table(file, pa.table(rows))
    with pytest.raises(ConfigError, match=said):
        read_expert(str(file), items=5)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_expert(str(tmp_path / "none.parquet"), items=5)


def test_the_other_experts_need_no_user(tmp_path):
    from jobs.corpus import from_demo
    from minirec.config.corpus import CorpusConfig, DemoConfig
    from minirec.corpus.table import load_samples

    demo = DemoConfig(users=40, items=30, tastes=3)
    from_demo(CorpusConfig(source="demo", category="demo", demo=demo), tmp_path, 1)
    samples = load_samples(tmp_path, "train")[:20]
    for name in ("cooccurrence", "titles", "shortcut"):
        expert = load_expert(tmp_path, name, table=None, items=4, cutoff=10)
        found = expert(samples)
        assert len(found) > 10
        for sample in samples:
            if one := found.get(sample.sample_id):
                assert not set(one.items) & (set(sample.excluded) - {sample.target})
                assert sum(one.probability) == pytest.approx(1)
        # A sample's demonstration does not depend on the others of its step.
        assert expert(samples[3:4]).get(samples[3].sample_id) == found.get(samples[3].sample_id)
