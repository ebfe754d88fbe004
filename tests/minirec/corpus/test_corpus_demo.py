"""The demo corpus is reproducible, has the configured size, and its labels are true."""

from collections import Counter

import numpy as np
import pytest

from minirec.config.corpus import CorpusConfig, DemoConfig
from minirec.corpus.demo import BESTSELLERS, LABELS, generate
from minirec.corpus.samples import make_samples


def test_same_seed_same_corpus():
    one, two, other = (generate(DemoConfig(), seed=s) for s in (1, 1, 2))
    assert np.array_equal(one[0].item, two[0].item) and np.array_equal(one[0].time, two[0].time)
    assert one[1].table.equals(two[1].table) and np.array_equal(one[2], two[2])
    assert not np.array_equal(one[0].time[:100], other[0].time[:100])


@pytest.mark.parametrize("seed", [42, 1, 2])
def test_size_and_shares(seed):
    events, items, labels = generate(DemoConfig(), seed=seed)
    made, catalogue = make_samples(events.clean(), items, CorpusConfig()), items.table
    demo = DemoConfig()
    assert len(made.order) == pytest.approx(demo.users * (demo.events_per_user - 1), rel=0.05)
    of_samples = labels[made.order]
    original = of_samples[of_samples != "duplicate"]
    assert set(of_samples) == set(LABELS)
    assert np.mean(original == "noise") == pytest.approx(0.25, abs=0.04)
    assert np.mean(original == "trivial") == pytest.approx(demo.trivial, abs=0.04)
    assert np.mean(of_samples == "duplicate") == pytest.approx(0.15, abs=0.05)
    assert len(set(catalogue["title"].to_pylist())) == len(catalogue) >= 290
    # Most users have samples in all splits.
    users = {name: set(t["user"].to_pylist()) for name, t in made.tables.items()}
    assert len(users["train"] & users["test"]) > 60
    for label in LABELS:
        assert (of_samples[-len(made.tables["test"]) :] == label).sum() >= 10


def test_labels_tell_the_truth():
    events, items, labels = generate(DemoConfig(), seed=3)
    titles = np.array(items.table["title"].to_pylist())[events.item]
    best = {title for title, _ in BESTSELLERS}
    assert {t for t, label in zip(titles, labels, strict=True) if label == "trivial"} <= best
    learnable = [t for t, label in zip(titles, labels, strict=True) if label == "learnable"]
    assert not best & set(learnable)
    # Most learnable events share their series word with another learnable event of the user.
    shared = []
    for user in range(len(events.users)):
        own = (events.user == user) & (labels == "learnable")
        words = Counter(title.split()[-2] for title in titles[own])
        shared += [words[title.split()[-2]] > 1 for title in titles[own]]
    assert np.mean(shared) > 0.8
    # Outside the bestsellers popularity is flat.
    per_item = Counter(learnable)
    assert max(per_item.values()) < 20


def test_duplicates_copy_a_user():
    events, _, labels = generate(DemoConfig(), seed=3)
    walks = {}
    for user in range(len(events.users)):
        own = np.flatnonzero(events.user == user)
        own = own[np.argsort(events.time[own], kind="stable")]
        walks[user] = (tuple(events.item[own]), labels[own[0]], events.time[own[0]])
    originals = {w[0]: w[2] for w in walks.values() if w[1] != "duplicate"}
    copies = [w for w in walks.values() if w[1] == "duplicate"]
    assert len(copies) == round(DemoConfig().duplicates * DemoConfig().users)
    for items, _, time in copies:
        assert 0 < time - originals[items] <= 6 * 3_600_000


@pytest.mark.parametrize(
    "settings",
    [
        {"users": 20, "items": 20, "tastes": 20},
        {"users": 30, "items": 3000, "tastes": 2},
        {"users": 50, "items": 400, "tastes": 40},
        {"users": 20, "items": 20, "tastes": 2, "events_per_user": 40, "noise": 0.5},
        {"trivial": 0, "noise": 0, "duplicates": 0},
        {"trivial": 0.5, "noise": 0.5, "duplicates": 1},
    ],
)
def test_other_sizes(settings):
    events, items, labels = generate(DemoConfig(**settings), seed=0)
    catalogue = items.table
    assert len(events) == len(labels)
    assert set(events.item.tolist()) == {*range(len(items))}
    assert len(set(catalogue["title"].to_pylist())) == len(catalogue)
    assert len(set(zip(events.user.tolist(), events.item.tolist(), strict=True))) == len(events)
    if settings.get("noise") == 0:
        assert set(labels) == {"learnable"}
    make_samples(events.clean(), items, CorpusConfig())
