"""Orders the best items by listing them in the prompt (`minirec.evaluation.orders.rise`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.corpus.table import Sample
from minirec.evaluation.orders import ROUNDS, SHORTLIST, rise
from minirec.model.recommender import Encoder
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.reward import item_scores
from minirec.rng import seed_of

Read = Callable[[list[int], list[list[int]]], Tensor]
"""Hidden states (n, d) of the policy for n rows and their prompts."""


def best_items(hidden: Tensor, targets: Targets, ranker: Ranker) -> list[list[int]]:
    """The best `SHORTLIST` items for hidden states (B, d), best first, without excluded ones."""
    found = []
    for row in range(len(hidden)):
        mine = targets.take(torch.tensor([row], device=hidden.device))
        scores = item_scores(
            hidden[row : row + 1], items=ranker.table, temperature=ranker.temperature
        )
        if mine.prior is not None:
            mine.prior.add_to(scores)
        mine.excluded.fill(scores, -torch.inf)
        order = scores[0].sort(descending=True, stable=True).indices[:SHORTLIST]
        found.append(order[scores[0, order] > -torch.inf].tolist())
    return found


def risen_ranks(
    lists: Sequence[Sequence[int]], samples: Sequence[Sample], ranks: np.ndarray
) -> np.ndarray:
    """Ranks (B,) of the targets in the lists of `risen`.

    A target outside of its list keeps its rank in `ranks` (B,), which is behind the list.
    """
    new = ranks.copy()
    for row, (items, sample) in enumerate(zip(lists, samples, strict=True)):
        if sample.target in items:
            new[row] = 1 + items.index(sample.target)
    return new


def risen(
    shortlists: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]],
    *,
    encoder: Encoder,
    titles: Sequence[str],
    table: Tensor,
    read: Read,
    seed: int,
) -> list[list[int]]:
    """The shortlists of B histories in the order of `rise`.

    In each round the policy reads the items of a list below the history, and the item nearest to
    its hidden state is taken. A shortlist that does not fit into a prompt is cut to the items that
    do; the other ones follow in their order.

    Args:
        titles: of all V items.
        table: (V, d) unit item vectors.
        read: runs the policy.
    """
    names = [[titles[i] for i in history] for history in histories]

    def fitting(row: int) -> int:
        items = shortlists[row]
        sizes = range(len(items), 0, -1)
        ways = (
            n for n in sizes if encoder.listing(names[row][-1:], [titles[i] for i in items[:n]])
        )
        return next(ways, 0)

    def choose(rows: list[int], listed: list[list[int]]) -> list[int]:
        prompts = [
            encoder.listing(names[row], [titles[i] for i in items]) or encoder.prompt(names[row])
            for row, items in zip(rows, listed, strict=True)
        ]
        unit = F.normalize(read(rows, prompts), dim=-1)
        cosines = [
            (table[items].to(unit) @ one).round(decimals=6)
            for items, one in zip(listed, unit, strict=True)
        ]
        # Of equal items, the lowest id is taken, whatever the order of the list.
        return [
            min(items, key=lambda item: (-float(found[items.index(item)]), item))
            for items, found in zip(listed, cosines, strict=True)
        ]

    sizes = [fitting(row) for row in range(len(shortlists))]
    ordered = rise(
        choose,
        [items[:size] for items, size in zip(shortlists, sizes, strict=True)],
        rounds=ROUNDS,
        seeds=[seed_of(seed, *history) for history in histories],
    )
    return [
        [*first, *items[size:]]
        for first, items, size in zip(ordered, shortlists, sizes, strict=True)
    ]
