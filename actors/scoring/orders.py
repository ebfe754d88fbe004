"""Ranks samples for other orders of their histories (`minirec.evaluation.orders`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.scoring.spec import ScoringSpec
from minirec.corpus.table import Sample
from minirec.evaluation.orders import TOP, orders_of, slot_profile
from minirec.model.recommender import Encoder
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.reward import item_scores


def drawn_orders(
    encoder: Encoder,
    titles: Sequence[str],
    history: Sequence[int],
    *,
    orders: int,
    keep: int,
    seed: int,
) -> list[list[int]]:
    """Positions in a history: other orders of its events that fit into a prompt.

    Events that do not fit are left out: otherwise another order would cut off other titles.
    """
    fitting, _ = encoder.fitting(titles)
    return orders_of(history, fitting=len(fitting), orders=orders, keep=keep, seed=seed)


def orders_of_samples(
    encoder: Encoder, titles: Sequence[str], samples: Sequence[Sample], spec: ScoringSpec
) -> list[list[list[int]]]:
    """`drawn_orders` of each sample; `titles` are those of all V items."""
    return [
        drawn_orders(
            encoder,
            [titles[i] for i in sample.history],
            sample.history,
            orders=spec.orders,
            keep=spec.orders_keep,
            seed=spec.seed,
        )
        for sample in samples
    ]


def reordered(sample: Sample, order: Sequence[int]) -> Sample:
    """The sample with another order of its history, without its ratings; its excluded items stay
    the same."""
    history = [sample.history[at] for at in order]
    return replace(sample, history=history, same_time=sample.excluded, history_rating=[])


def order_columns(
    states: Tensor,
    samples: Sequence[Sample],
    targets: Targets,
    ranker: Ranker,
    *,
    orders: Sequence[Sequence[Sequence[int]]],
    keep: int,
) -> dict[str, object]:
    """The columns from which `order_figures` are computed, for hidden states (B, n + 1, d).

    `orders` are those of each sample (`drawn_orders`), `keep` their last events that stay. The
    collaborative prior stays that of the own order: the figures are about the policy.
    """
    every = states.shape[1]
    k = min(TOP, len(ranker.table))
    ranks = ranker.rank(states.flatten(0, 1), targets).rank.view(-1, every)
    tops, places, slots = [], [], []
    for row in range(len(samples)):
        mine = targets.take(torch.tensor([row] * every, device=states.device))
        scores = item_scores(states[row], items=ranker.table, temperature=ranker.temperature)
        if mine.prior is not None:
            mine.prior.add_to(scores)
        mine.excluded.fill(scores, -torch.inf)
        best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        own = scores[1:, best[0]]  # (n, k)
        tops.append(best.tolist())
        places.append((1 + (scores[1:, None, :] > own[:, :, None]).sum(2)).tolist())
        slots.append(_slots(states[row, 1:], samples[row], orders[row], ranker, keep))
    return {
        "order_rank": ranks.tolist(),
        "order_top": tops,
        "order_place": places,
        "order_slots": slots,
    }


def _slots(
    states: Tensor,
    sample: Sample,
    orders: Sequence[Sequence[int]],
    ranker: Ranker,
    keep: int,
) -> list[float]:
    """The profile of the slots whose events move, the last one first."""
    moved = [list(order[: max(0, len(order) - keep)])[::-1] for order in orders]
    if not moved or not moved[0]:
        return []
    at = np.array(moved)
    item = torch.tensor(np.array(sample.history)[at], device=states.device)
    unit = F.normalize(states, dim=-1)
    cosines = (ranker.table[item] * unit[:, None]).sum(2)
    return [float(one) for one in slot_profile(cosines.cpu().numpy(), at - at.min())]
