"""Metrics from ranks, with bootstrap intervals, paired tests and breakdowns (method, section 9).

Each sample has one target, and rank 1 is best.
HR@k = [rank <= k]; NDCG@k = [rank <= k] / log2(rank + 1); MRR = mean of 1 / rank.
value@10 = NDCG@10 times the weight of the target over its mean in train, where items have weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.selection.checks import first

Floats = NDArray[np.float64]
MAIN = "ndcg@10"
"""The metric of paired tests and breakdowns."""
VALUE = "value@10"
"""`MAIN` times the factor of the target; where items have weights, it is tested like `MAIN`."""
CHOSEN_ON = "valid"
"""The split that chooses the best reference."""


def per_sample(
    ranks: ArrayLike,
    *,
    cutoffs: Sequence[int] = (5, 10, 20, 50),
    factors: ArrayLike | None = None,
) -> dict[str, Floats]:
    """Metrics of ranks (N,) int: ``hr@k``, ``ndcg@k`` and ``mrr`` -> (N,) float64.

    k are the cutoffs and 10, for `MAIN`. With the factors (N,) of the targets there is also
    `VALUE`.

    Raises:
        ValueError: `ranks` is empty, not integer, or holds a rank below 1; a cutoff below 1;
            another number of factors.
    """
    rank = _ranks("ranks", ranks)
    if min(cutoffs, default=1) < 1:
        raise ValueError(f"cutoffs are {tuple(cutoffs)}; expected 1 or more")
    gain = 1 / np.log2(rank + 1)
    result: dict[str, Floats] = {}
    for k in sorted({*cutoffs, 10}):
        result[f"hr@{k}"] = (rank <= k).astype(np.float64)
        result[f"ndcg@{k}"] = np.where(rank <= k, gain, 0.0)
    result["mrr"] = 1 / rank
    if factors is not None:
        weight = np.asarray(factors, dtype=np.float64)
        if weight.shape != rank.shape:
            raise ValueError(f"factors are {weight.shape}, ranks {rank.shape}; expected the same")
        result[VALUE] = weight * result[MAIN]
    return result


def bootstrap_means(
    values: ArrayLike, *, users: NDArray[np.int64], resamples: int, seed: int
) -> Floats:
    """Means (R, M) of values (N, M) over R resamples of the users, the same for every column.

    Samples of one user (and one basket) are not independent, so a user is drawn with all its
    samples (cluster bootstrap; Davison and Hinkley, 1997, section 3.8). `users` (N,) holds the user
    code of each sample, 0..U-1. The draws depend only on `seed` and U, so columns of two calls are
    paired.

    Raises:
        ValueError: the lengths differ.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(users) != len(array):
        raise ValueError(f"users has {len(users)} rows; expected {len(array)}")
    samples = np.bincount(users)
    sums = np.stack([np.bincount(users, weights=column) for column in array.T], axis=1)
    draws = _weights(len(samples), resamples, seed)
    return np.concatenate([(w @ sums) / (w @ samples)[:, None] for w in draws])


def _weights(count: int, resamples: int, seed: int, *, chunk: int = 64) -> Iterator[Floats]:
    """How often each of `count` users is drawn, over `count`, in blocks of `chunk` resamples."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) / count


def interval(means: Floats) -> tuple[float, float]:
    """95% percentile interval of resampled means (R,)."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def two_sided(differences: Floats) -> float:
    """Bootstrap p of resampled differences (R,): twice the smaller tail, at least 2/(R+1)."""
    count = len(differences)
    below = (1 + np.sum(differences <= 0)) / (count + 1)
    above = (1 + np.sum(differences >= 0)) / (count + 1)
    return float(min(1.0, 2 * min(below, above)))


def sample_groups(
    target: ArrayLike, *, history: Sequence[Sequence[int]], train_counts: ArrayLike
) -> dict[str, NDArray[np.bool_]]:
    """Groups of samples for the breakdown: name -> (N,) bool.

    ``warm``, ``cold``: the target (N,) occurs in train or not. ``repeat``, ``new``: it is in the
    history or not. ``popularity 1`` to ``popularity 10``: decile of the catalogue by train count
    that the target is in; 1 is the most popular, ties by item id. `train_counts` (V,) are users
    with each item in the train split (`Counts.users`).

    Raises:
        ValueError: the lengths differ, or a target is outside 0..V-1.
    """
    wanted, counts = np.asarray(target), np.asarray(train_counts)
    if len(history) != len(wanted):
        raise ValueError(f"history has {len(history)} rows; expected {len(wanted)}")
    outside = (wanted < 0) | (wanted >= len(counts))
    if (row := first(outside)) is not None:
        raise ValueError(f"target row {row} is {wanted[row]}; expected 0..{len(counts) - 1}")
    place = np.empty(len(counts), dtype=np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    decile = place * 10 // len(counts) + 1
    warm = counts[wanted] > 0
    repeat = np.array([y in h for y, h in zip(wanted.tolist(), history, strict=True)], dtype=bool)
    groups = {"warm": warm, "cold": ~warm, "repeat": repeat, "new": ~repeat}
    return groups | {f"popularity {d}": decile[wanted] == d for d in range(1, 11)}


def summarise(
    ranks: Mapping[str, Mapping[str, ArrayLike]],
    *,
    users: Mapping[str, NDArray[np.int64]],
    groups: Mapping[str, Mapping[str, ArrayLike]],
    cutoffs: Sequence[int] = (5, 10, 20, 50),
    bootstrap: int = 1000,
    seed: int = 42,
    versus: str = "base",
    references: Collection[str] = (),
    factors: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Any]:
    """The content of ``evaluation.json``.

    Args:
        ranks: policy -> split -> (N,) int. In a split all policies rank the same samples in order.
        users: split -> (N,) user code of each sample, 0..U-1. Users are resampled.
        groups: split -> group -> (N,) bool, from `sample_groups`; may be empty.
        versus: the other policies are tested against this one, if it exists.
        references: the best of these on valid, which must then be a split, is found; all policies
            but these are tested against it. So test chooses nothing.
        factors: split -> (N,) of the samples' targets; None: items have no weights.

    Returns:
        ``users``: split -> their number; ``policies``: policy -> split -> metric -> {mean, low,
        high}; ``paired``: policy -> split -> {versus, metric, difference, low, high, p};
        ``breakdown``: policy -> split -> group -> {count, ndcg@10}, None for an empty group;
        ``best_reference``, if there is one: {name, chosen_on, paired}, with ``paired`` as above.
        With factors, ``value`` holds ``paired``, ``breakdown`` and ``best_reference`` of `VALUE`.

    Raises:
        ValueError: a rank below 1, or different lengths of policies or groups of a split.
    """
    values = _metrics(ranks, cutoffs, factors)
    means = {
        split: _resampled(split, found, users[split], bootstrap, seed)
        for split, found in values.items()
    }
    summary: dict[str, Any] = {
        "users": {split: len(np.unique(users[split])) for split in values},
        "policies": {},
    }
    for split, policies in values.items():
        for policy, columns in policies.items():
            shown = summary["policies"].setdefault(policy, {})[split] = {}
            for name, column in columns.items():
                low, high = interval(means[split][policy][name])
                shown[name] = {"mean": float(column.mean()), "low": low, "high": high}

    def tested(metric: str) -> dict[str, Any]:
        compared = _Compared(metric, values, means)
        return _tests(compared, groups, versus=versus, references=references)

    return summary | tested(MAIN) | ({} if factors is None else {"value": tested(VALUE)})


def _metrics(
    ranks: Mapping[str, Mapping[str, ArrayLike]],
    cutoffs: Sequence[int],
    factors: Mapping[str, ArrayLike] | None,
) -> dict[str, dict[str, dict[str, Floats]]]:
    """split -> policy -> metric -> (N,)."""
    found: dict[str, dict[str, dict[str, Floats]]] = {}
    for policy, splits in ranks.items():
        for split, own in splits.items():
            found.setdefault(split, {})[policy] = per_sample(
                _ranks(f"ranks of {policy} on {split}", own),
                cutoffs=cutoffs,
                factors=None if factors is None else factors[split],
            )
    return found


@dataclass(frozen=True)
class _Compared:
    """One metric of all policies.

    values, means: split -> policy -> metric -> (N,) values, and (R,) resampled means.
    """

    metric: str
    values: Mapping[str, Mapping[str, Mapping[str, Floats]]]
    means: Mapping[str, Mapping[str, Mapping[str, Floats]]]

    def best(self, references: Collection[str]) -> str | None:
        """The highest of these on `CHOSEN_ON`, the first of equal ones."""
        there = self.values.get(CHOSEN_ON, {})
        found = {name: there[name][self.metric].mean() for name in there if name in references}
        return max(found, key=found.__getitem__) if found else None

    def pair(self, split: str, policy: str, *, versus: str) -> dict[str, Any]:
        """Test of a policy against another on the same samples and the same resamples."""
        values, means = self.values[split], self.means[split]
        change = means[policy][self.metric] - means[versus][self.metric]
        low, high = interval(change)
        return {
            "versus": versus,
            "metric": self.metric,
            "difference": float((values[policy][self.metric] - values[versus][self.metric]).mean()),
            "low": low,
            "high": high,
            "p": two_sided(change),
        }

    def part(self, split: str, policy: str, group: str, inside: ArrayLike) -> dict[str, Any]:
        """Count and mean over the samples of a group; None if it is empty."""
        column, rows = self.values[split][policy][self.metric], np.asarray(inside, dtype=bool)
        if rows.shape != column.shape:
            raise ValueError(
                f"group {group} of {split} has shape {rows.shape}; expected {column.shape}"
            )
        count = int(rows.sum())
        return {"count": count, self.metric: float(column[rows].mean()) if count else None}


def _tests(
    compared: _Compared,
    groups: Mapping[str, Mapping[str, ArrayLike]],
    *,
    versus: str,
    references: Collection[str],
) -> dict[str, Any]:
    """The entries ``paired``, ``breakdown`` and, if any, ``best_reference`` of one metric."""
    best = compared.best(references)
    paired: dict[str, Any] = {}
    breakdown: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for split, policies in compared.values.items():
        for policy in policies:
            if versus in policies and policy != versus:
                one = compared.pair(split, policy, versus=versus)
                paired.setdefault(policy, {})[split] = one
            if best is not None and best in policies and policy not in references:
                one = compared.pair(split, policy, versus=best)
                beside.setdefault(policy, {})[split] = one
            breakdown.setdefault(policy, {})[split] = {
                group: compared.part(split, policy, group, inside)
                for group, inside in groups.get(split, {}).items()
            }
    found: dict[str, Any] = {"paired": paired, "breakdown": breakdown}
    if best is not None:
        found["best_reference"] = {"name": best, "chosen_on": CHOSEN_ON, "paired": beside}
    return found


def _resampled(
    split: str,
    values: dict[str, dict[str, Floats]],
    users: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Floats]]:
    """policy -> metric -> (R,) resampled means."""
    lengths = {policy: len(columns[MAIN]) for policy, columns in values.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"ranks on {split} have lengths {lengths}; expected the same samples")
    names = [(policy, name) for policy, columns in values.items() for name in columns]
    stacked = np.stack([values[policy][name] for policy, name in names], axis=1)
    means = bootstrap_means(stacked, users=users, resamples=resamples, seed=seed)
    by_name = dict(zip(names, means.T, strict=True))
    return {policy: {name: by_name[policy, name] for name in values[policy]} for policy in values}


def _ranks(name: str, ranks: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ranks)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: {array.dtype} {array.shape}; expected (N,) integers, N above 0")
    if (row := first(array < 1)) is not None:
        raise ValueError(f"{name} row {row} is {array[row]}; expected 1 or more")
    return array.astype(np.int64)
