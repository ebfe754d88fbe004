"""Imitation of an expert: its items join the item loss as further targets.

After Imitation-enhanced RL for recommendation (IL-Rec, arXiv 2510.13229). The weights of the
demonstrations follow the authors' code; that they suit a ranking of all items is our choice.
The paper learns a discriminator. Here the densities of expert and policy are both known, so that
the best discriminator needs no training: D = p / (p + e).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.rl.candidates import Candidates, Rivals
from minirec.rl.demonstrations import Demonstrations

LOW, HIGH = 1e-2, 1e2
"""Bounds of the weight of a demonstration."""
BETA = GAMMA = 1.0
"""Temperature of the expert's advantage, and exponent of e / p; both as in the authors' code."""
EXPONENT = 80.0
"""Bound of the exponent advantage / beta, as in the authors' code."""


def demonstration_weights(
    advantage: Tensor,
    expert: Tensor,
    policy: Tensor,
    *,
    alpha: float,
    beta: float = BETA,
    gamma: float = GAMMA,
    low: float = LOW,
    high: float = HIGH,
) -> Tensor:
    """Weights (P, M) float32 of demonstrations, without gradient.

    w = w_env^alpha w_irl^(1 - alpha), in low..high (IL-Rec). w_env = exp(A / beta) is large where
    the expert does well. w_irl = (1 / D - 1)^gamma = (e / p)^gamma is large where the policy is far
    from the expert.

    Args:
        advantage: (P,) of the expert.
        expert, policy: (P, M) probabilities e and p of the items; 0 for a place without an item,
            whose weight means nothing.
    """
    p, e = policy.detach().clamp_min(1e-12), expert.detach()
    environment = (advantage.detach() / beta).clamp(-EXPONENT, EXPONENT)[:, None]
    far = gamma * (e / p).clamp_min(1e-12).log()
    return (alpha * environment + (1 - alpha) * far).exp().clamp(low, high)


def imitation_loss(log_p: Tensor, position: Tensor, probability: Tensor, weight: Tensor) -> Tensor:
    """Sum over P samples and M items of -w e log p.

    Args:
        log_p: (P, C) log-probabilities of the candidates, with gradient.
        position: (P, M) int64, place of each item among the candidates.
        probability: (P, M) e; 0 for a place without an item.
        weight: (P, M) w.
    """
    found = log_p.gather(1, position)
    # A place without an item may point at an excluded candidate, with -inf.
    found = torch.where(probability > 0, found, 0.0)
    return -(weight * probability * found).sum()


def log_probabilities(hidden: Tensor, rivals: Rivals, *, temperature: float) -> Tensor:
    """Log-probabilities (P, C) of the candidates at hidden states (P, d), as in the item loss."""
    unit = F.normalize(hidden, dim=-1)
    scores = unit @ rivals.vectors.T / temperature
    if rivals.offset is not None:
        scores = scores + rivals.offset
    scores = scores.masked_fill(rivals.excluded, -torch.inf)
    total = scores.logsumexp(1)
    if rivals.rest is not None:
        total = torch.logaddexp(total, rivals.rest(unit, temperature))
    return scores - total[:, None]


def weighted_imitation(
    hidden: Tensor,
    sample_ids: Sequence[int],
    demonstrations: Demonstrations,
    candidates: Candidates,
    rivals: Rivals,
    *,
    temperature: float,
    alpha: float,
) -> tuple[Tensor, float]:
    """The imitation loss of P samples, and the sum over them of their mean weight before `norm`.

    Args:
        hidden: (P, d) at the best rollout of each sample, with gradient.
        sample_ids: (P,) of each.
        rivals: candidates of the item loss; all items of the demonstrations are among them.
    """
    rows = [demonstrations.by_sample.get(number) for number in sample_ids]
    width = max([len(one.items) for one in rows if one] or [1])
    shape, device = (len(rows), width), hidden.device
    item = torch.zeros(shape, dtype=torch.int64)
    probability = torch.zeros(shape)
    advantage = torch.zeros(len(rows))
    for row, one in enumerate(rows):
        if one:
            item[row, : len(one.items)] = torch.tensor(one.items)
            probability[row, : len(one.items)] = torch.tensor(one.probability)
            advantage[row] = one.advantage
    item, probability = item.to(device), probability.to(device)
    whole = len(rivals.vectors) == candidates.catalogue_size
    position = item if whole else torch.searchsorted(candidates.ids, item)
    position = position.clamp(max=len(rivals.vectors) - 1)
    log_p = log_probabilities(hidden, rivals, temperature=temperature)
    with torch.no_grad():
        own = torch.where(probability > 0, log_p.gather(1, position), -torch.inf)
        own = own.softmax(1).nan_to_num(0.0)  # a sample without an expert has no items
        raw = demonstration_weights(advantage.to(device), probability, own, alpha=alpha)
        shown = (probability > 0).float()
        mean = (raw * shown).sum(1) / shown.sum(1).clamp_min(1)
        weight = (raw / demonstrations.norm).clamp(LOW, HIGH)
    total = demonstrations.share * imitation_loss(log_p, position, probability, weight)
    return total, float(mean.sum())
