"""How much the order of the events of a history changes a ranking, and what to do about it.

After RISE (arXiv 2508.02020), which asks how the order of candidates in a prompt changes a ranking.
In MiniRec the candidates are a table and never in the prompt, so their order cannot change a rank.
What has positions is the history. The figures here rank each sample again for other orders of its
history. The last events may stay in place, because recency is meaning and no bias.

The details of the paper could not be checked. The figures are ours, except for Kendall's tau.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from minirec.evaluation.ranking import bootstrap_means, interval
from minirec.rng import seed_of

TOP = 10
"""Items of a list that is compared with the lists of other orders."""
SHORTLIST, ROUNDS = 20, 10
"""The best items that `rise` lists, and how many of them it chooses."""
Floats = NDArray[np.float64]


def orders_of(
    history: Sequence[int], *, fitting: int, orders: int, keep: int, seed: int
) -> list[list[int]]:
    """Further orders of the last `fitting` events of a history, as lists of positions in it.

    The last `keep` events stay at the end. The draw depends only on the seed and on the history, so
    `evaluate` and `recommend` use the same orders. Equal items are events of their own.
    """
    first = len(history) - fitting
    rng = np.random.default_rng(seed_of(seed, "orders", *history))
    moved = np.arange(first, max(first, len(history) - keep))
    stay = list(range(len(history) - keep if keep < fitting else first, len(history)))
    return [[*rng.permutation(moved).tolist(), *stay] for _ in range(orders)]


def rise(
    choose: Callable[[list[int], list[list[int]]], list[int]],
    shortlists: Sequence[Sequence[int]],
    *,
    rounds: int,
    seeds: Sequence[int],
) -> list[list[int]]:
    """Order B shortlists by choosing again and again: the best item is taken out, the rest is
    shuffled and listed anew (after RISE).

    Args:
        choose: gets the rows that still have items, and their items in the order of the list;
            returns an item for each row.
        shortlists: items of each row, best first.
        rounds: after these, the items that are left follow in the order of their shortlist.
        seeds: (B,) of the shuffles.
    """
    left, taken = [list(one) for one in shortlists], [list[int]() for _ in shortlists]
    for number in range(rounds):
        rows = [row for row, items in enumerate(left) if items]
        if not rows:
            break
        listed = [
            np.random.default_rng(seed_of(seeds[row], "rise", number)).permutation(left[row])
            for row in rows
        ]
        for row, item in zip(rows, choose(rows, [one.tolist() for one in listed]), strict=True):
            left[row].remove(item)
            taken[row].append(item)
    return [first + rest for first, rest in zip(taken, left, strict=True)]


def mean_direction(hidden: Tensor) -> Tensor:
    """Mean over n + 1 orders of unit hidden states: (B, n + 1, d) float32 -> (B, d)."""
    return torch.nn.functional.normalize(hidden, dim=-1).mean(1)


def slot_profile(cosines: ArrayLike, events: ArrayLike) -> Floats:
    """How much the policy favours an event for its slot, (m,) float64; slot 0 is the last moved.

    Args:
        cosines: (n, m), of the hidden state of order r with the event at slot q.
        events: (n, m) int, which of the m moved events this is, 0..m-1.

    The mean of each event over all orders is taken off, and the rest is divided by its standard
    deviation. A flat profile is no bias.
    """
    value, event = np.asarray(cosines, dtype=np.float64), np.asarray(events)
    if value.size == 0:
        return np.zeros(value.shape[1] if value.ndim == 2 else 0)
    count = np.bincount(event.ravel(), minlength=value.shape[1])
    mean = np.bincount(event.ravel(), weights=value.ravel(), minlength=value.shape[1])
    rest = value - (mean / np.maximum(count, 1))[event]
    spread = rest.std()
    return rest.mean(0) / spread if spread > 1e-9 else np.zeros(value.shape[1])


def kendall_tau(place: ArrayLike) -> Floats:
    """Kendall's tau (N,) of lists whose items have these places (N, k) in another ranking.

    The pairs of items in the same order, minus those in the other order, over all pairs; a pair
    with equal places counts as neither. A list of one item has 1.
    """
    at = np.asarray(place)
    k = at.shape[1]
    earlier, later = np.triu_indices(k, 1)
    if not len(earlier):
        return np.ones(len(at))
    return np.asarray(np.sign(at[:, later] - at[:, earlier]).mean(1), dtype=np.float64)


def overlap(one: ArrayLike, other: ArrayLike) -> Floats:
    """Share (N,) of the items of lists (N, k) that are in the other lists (N, k) too."""
    a, b = np.asarray(one), np.asarray(other)
    return np.asarray((a[:, :, None] == b[:, None, :]).any(2).mean(1), dtype=np.float64)


def order_figures(
    top: ArrayLike,
    place: ArrayLike,
    rank: ArrayLike,
    *,
    users: NDArray[np.int64],
    slots: Sequence[Sequence[float]] = (),
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, Any]:
    """What other orders of the history change.

    Args:
        top: (N, n + 1, k) int, the best items for the order of the history and for n others.
        place: (N, n, k) int, ranks of the items of the first list in the other n rankings.
        rank: (N, n + 1) int of the target.
        users: (N,) codes, which are resampled.
        slots: `slot_profile` of each sample.

    Returns:
        ``overlap@k`` and ``tau``: means over samples and orders. ``ndcg_change``: mean difference
        of NDCG@10 to that of the first order, with a 95% interval (mean, low, high). ``slots``:
        mean profile, over the samples that have the slot.
    """
    lists, places, ranks = np.asarray(top), np.asarray(place), np.asarray(rank)
    orders = range(places.shape[1])
    same = np.mean([overlap(lists[:, 0], lists[:, 1 + r]) for r in orders], axis=0)
    tau = np.mean([kendall_tau(places[:, r]) for r in orders], axis=0)
    gain = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
    change = gain[:, 1:].mean(1) - gain[:, 0]
    low, high = interval(
        bootstrap_means(change[:, None], users=users, resamples=resamples, seed=seed)[:, 0]
    )
    longest = max(map(len, slots), default=0)
    profile = [
        float(np.mean([one[slot] for one in slots if len(one) > slot])) for slot in range(longest)
    ]
    return {
        f"overlap@{lists.shape[2]}": float(same.mean()),
        "tau": float(tau.mean()),
        "ndcg_change": {"mean": float(change.mean()), "low": low, "high": high},
        "slots": profile,
    }
