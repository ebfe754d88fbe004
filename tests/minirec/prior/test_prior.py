"""The collaborative prior: by hand, against dense arithmetic, and what it must not see."""

import numpy as np
import pyarrow as pa
import pytest

from minirec.corpus.schema import SAMPLES
from minirec.prior.counts import Counts, Words
from minirec.prior.fit import Choices, fit
from minirec.prior.periods import ALL, events
from minirec.prior.prior import Prior


def table(rows):
    """Samples (user, history, history_time, target, time)."""
    names = ("user", "history", "history_time", "target", "time")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    n = len(rows)
    columns |= {"sample_id": list(range(n)), "rating": [1.0] * n}
    columns["history_rating"] = [[1.0] * len(h) for h in columns["history"]]
    return pa.table(columns, schema=SAMPLES)


def samples_of(stream, *, longest=20):
    """Samples of events (user, item, time), with histories of strictly earlier times."""
    rows = []
    for user, item, time in sorted(stream, key=lambda event: (event[2], event[0])):
        past = [(i, t) for u, i, t in stream if u == user and t < time][-longest:]
        if past:
            rows.append((user, [i for i, _ in past], [t for _, t in past], item, time))
    return rows


class Asked:
    def __init__(self, sample_id, history):
        self.sample_id, self.history = sample_id, history


def prior_of(rows, items, *, by_time=True, weights=(1, 1, 1), titles=None, **options):
    words = Words.of(titles or [f"item{i}" for i in range(items)])
    return Prior(events(table(rows), by_time=by_time, **options), words, weights)


def parts_of(prior, asked):
    """The parts of the prior as one array (3, B, V)."""
    return np.stack([part.toarray() for part in prior.sparse_parts(asked)])


# Method, section 11: events (user, item, time).
BY_HAND = [("A", 1, 1), ("B", 1, 1), ("B", 2, 2), ("A", 2, 3), ("A", 3, 4)]


def test_a_sample_sees_only_earlier_events():
    rows = samples_of(BY_HAND)
    prior = prior_of(rows, 4)
    at_three = [i for i, row in enumerate(rows) if row[0] == "A" and row[4] == 3]
    at_four = [i for i, row in enumerate(rows) if row[0] == "A" and row[4] == 4]
    # The part is divided by its maximum: that of item 1 itself, n(1, 1) / n(1) = 1.
    (third,) = parts_of(prior, [Asked(at_three[0], [1])])[0]
    assert third[2] == pytest.approx(1 / np.sqrt(2))
    found = parts_of(prior, [Asked(at_four[0], [1, 2])])
    assert found[:, 0, 3].tolist() == [0, 0, 0]


def test_valid_and_test_see_the_whole_train_split():
    rows = samples_of(BY_HAND)
    prior = prior_of(rows, 4)
    counts = prior.counts(ALL)
    assert counts.users.tolist() == [0, 2, 2, 1]
    found = parts_of(prior, [Asked(len(rows), [1, 2])])
    assert found[0, 0, 3] > 0
    assert np.array_equal(found, parts_of(prior, [Asked(-1, [1, 2])]))


def test_without_times_the_own_fold_is_left_out():
    rows = [(f"u{i}", [0], [0], 1 + i % 2, 1) for i in range(40)]
    prior = prior_of(rows, 3, by_time=False)
    seen = prior._events
    assert set(seen.period.tolist()) <= set(range(5))
    mine = [i for i, period in enumerate(seen.period) if period == seen.period[0]]
    assert prior.counts(int(seen.period[0])).users[0] == len(rows) - len(mine)
    assert prior.counts(ALL).users[0] == len(rows)


def dense(rows, history, items, titles):
    """The three parts by plain arithmetic."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    users = sorted({row[0] for row in rows})
    having = np.zeros((len(users), items))
    steps = np.zeros((items, items))
    for user, past, _, target, _ in rows:
        having[users.index(user), [*past, target]] = 1
        steps[past[-1], target] += 1
    n = np.maximum(having.sum(0), 1)
    cosine = having.T @ having / np.sqrt(np.outer(n, n))
    steps = np.log1p(steps)
    steps /= np.maximum(steps.sum(1, keepdims=True), 1e-300)
    likeness = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(titles)
    matrices = (cosine, steps + steps @ steps / 2, (likeness @ likeness.T).toarray())
    weight = 1 / (1 + np.arange(len(history))[::-1])
    found = [weight @ matrix[history] for matrix in matrices]
    return np.array([part / part.max() if part.max() > 0 else part for part in found])


def random_corpus(seed=0, *, users=30, items=12, length=7):
    rng = np.random.default_rng(seed)
    stream = [
        (f"u{u}", int(rng.integers(items)), 10 * t + u % 7)
        for u in range(users)
        for t in range(length)
    ]
    return samples_of(stream, longest=4), items


def test_parts_equal_dense_arithmetic():
    rows, items = random_corpus()
    words = np.array(["ink", "Pen", "cap", "12", "Été"])
    rng = np.random.default_rng(1)
    titles = [" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(items)]
    prior = prior_of(rows, items, titles=titles)
    histories = [row[1] for row in rows[:9]] + [[3], [4, 4, 4]]
    found = prior.known.parts(histories)
    for b, history in enumerate(histories):
        assert found[:, b] == pytest.approx(dense(rows, history, items, titles), abs=1e-9)


def test_a_period_equals_the_counts_of_the_earlier_samples():
    rows, items = random_corpus()
    prior = prior_of(rows, items, periods=6)
    first = {p: i for i, p in reversed(list(enumerate(prior._events.period.tolist())))}
    for period, start in first.items():
        earlier = [row for row in rows if row[4] < rows[start][4]]
        e = prior.counts(period)
        steps = np.zeros((items, items))
        for row in earlier:
            steps[row[1][-1], row[3]] += 1
        assert (e.transitions.toarray() > 0).tolist() == (steps > 0).tolist()


def test_users_and_histories_of_a_batch_do_not_influence_each_other():
    rows, items = random_corpus()
    prior = prior_of(rows, items, weights=(2, 3, 0.5))
    asked = [Asked(i, row[1]) for i, row in enumerate(rows)]
    whole = prior(asked).toarray()
    assert whole.dtype == np.float32
    for i in range(0, len(rows), 17):
        assert np.array_equal(whole[i], prior(asked[i : i + 1]).toarray()[0])


def test_no_events_and_no_words_give_zero():
    words = Words.of(["!!", "..."])
    nothing = np.zeros(0, np.int64)
    counts = Counts.of(user=nothing, item=nothing, last=nothing, target=nothing, words=words)
    assert not counts.parts([[0], [1, 0]]).any()


def test_unknown_items_are_refused():
    rows, items = random_corpus()
    with pytest.raises(ValueError, match=r"a history has item 12; expected 0\.\.11"):
        prior_of(rows, items).known.parts([[0, 12]])


def test_condensed_counts_are_saved_and_equal_the_others(tmp_path):
    rows, items = random_corpus()
    known = prior_of(rows, items).known
    histories = [row[1] for row in rows[:20]]
    condensed = known.condensed(items, block=5)
    assert condensed.parts(histories) == pytest.approx(known.parts(histories))
    condensed.save(tmp_path / "prior.npz")
    loaded = Counts.load(tmp_path / "prior.npz")
    assert np.array_equal(loaded.parts(histories), condensed.parts(histories))
    few = known.condensed(3).likeness[0]
    assert np.diff(few.indptr).max() == 3
    full = known.condensed(items).likeness[0].toarray()
    assert few.toarray().max(axis=1).tolist() == full.max(axis=1).tolist()


def test_a_new_item_has_only_its_title():
    rows, items = random_corpus()
    titles = [f"red pen {i}" for i in range(items)]
    known = prior_of(rows, items, titles=titles).known
    for counts in (known, known.condensed(items)):
        more = counts.with_titles(["red pen", "blue"])
        found = more.parts([[1, 2], [items]])
        assert found.shape == (3, 2, items + 2)
        assert found[:2, :, items:].max() == 0
        assert found[2, 0, items] > 0
        assert found[2, :, items + 1].max() == 0
        assert found[:, 0, :items] == pytest.approx(known.parts([[1, 2]])[:, 0], abs=0.2)


def permuted(stream, seed=0):
    """The same users and times, with the items of all events permuted."""
    items = np.random.default_rng(seed).permutation([item for _, item, _ in stream])
    return [(user, int(item), time) for (user, _, time), item in zip(stream, items, strict=True)]


def gains(scores, rows):
    """NDCG@10 of each sample, ties against the target, without the items of the history."""
    found = []
    for score, (_, history, _, target, _) in zip(scores, rows, strict=True):
        rivals = [v for v in range(len(score)) if v != target and v not in history]
        rank = 1 + sum(score[v] >= score[target] for v in rivals)
        found.append(1 / np.log2(rank + 1) if rank <= 10 else 0)
    return np.array(found)


def worth(*, protected):
    """Gains of the counts, and of popularity, on train samples of a corpus without structure."""
    rng = np.random.default_rng(3)
    share = 1 / np.arange(1, 61)
    stream = [
        (f"u{u}", int(v), int(rng.integers(10**6)))
        for u in range(150)
        for v in rng.choice(60, size=8, replace=False, p=share / share.sum())
    ]
    rows = samples_of(permuted(stream))
    prior = prior_of(rows, 60)
    asked = [Asked(i if protected else -1, row[1]) for i, row in enumerate(rows)]
    users = [prior.counts(int(p) if protected else ALL).users for p in prior._events.period]
    # An item of the history is only ranked if it is the target, so a repeat is no rival of itself.
    new = np.array([row[3] not in row[1] for row in rows])
    found = gains(parts_of(prior, asked)[:2].sum(axis=0), rows), gains(users, rows)
    return [values[new] for values in found]


def test_counts_do_not_leak_the_target():
    """With permuted items nothing can be known, so the counts are worth what popularity is."""
    counts, popularity = worth(protected=True)
    error = (counts - popularity).std() / np.sqrt(len(counts))
    assert counts.mean() <= popularity.mean() + 2 * error
    counts, popularity = worth(protected=False)
    error = (counts - popularity).std() / np.sqrt(len(counts))
    assert counts.mean() > popularity.mean() + 10 * error


def test_fitted_weights_have_no_gradient():
    rng = np.random.default_rng(0)
    parts = rng.random((3, 400, 30))
    true = np.array([3.0, 0.0, 1.5])
    noisy = np.tensordot(true, parts, axes=1) + rng.gumbel(size=(400, 30))
    excluded = np.zeros((400, 30), bool)
    excluded[:, 0] = True
    noisy[:, 0] = -np.inf
    weights, likelihood = fit(Choices(parts, noisy.argmax(axis=1), excluded, np.arange(30)))
    assert weights == pytest.approx(true, abs=0.5)
    assert -np.log(29) < likelihood < 0


def test_a_weight_of_two_counts_as_two_samples():
    rng = np.random.default_rng(1)
    parts, target = rng.random((3, 40, 12)), rng.integers(12, size=40)
    excluded = np.zeros((40, 12), bool)
    twice = np.r_[np.arange(40), np.arange(10)]
    weighted = Choices(parts, target, excluded, np.arange(12), np.r_[np.full(10, 2.0), np.ones(30)])
    doubled = Choices(parts[:, twice], target[twice], excluded[twice], np.arange(12))
    (one, likelihood), (other, mean) = fit(weighted), fit(doubled)
    assert one == pytest.approx(other, abs=1e-3)
    assert 40 * likelihood == pytest.approx(50 * mean)
    plain = fit(Choices(parts, target, excluded, np.arange(12)))[0]
    assert np.abs(one - plain).max() > 0.01
