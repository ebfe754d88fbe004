"""Learning from agreement between rollouts (after RLP, arXiv 2403.19279; method in its sections
on synthetic preferences and on unsupervised multi-view learning).

The paper clusters the outputs for an unlabelled prompt by entailment. Here two rollouts mean the
same if they rank the same item first. Its multi-view loss has learned Gaussian codes and a
Jensen-Shannon bound of their mutual information. Here the two views are the hidden states of two
rollouts, and the bound is InfoNCE (arXiv 1807.03748). Both changes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-9


@dataclass(frozen=True)
class PseudoTargets:
    """Pseudo-targets of P prompts with G rollouts.

    target (P,) int64: the item that most rollouts rank first; of equally many, that of the first
    rollout. agrees (P, G) bool: the rollouts that rank it first. share (P,) float64: how many of G.
    kept (P,) bool.
    """

    target: Tensor
    agrees: Tensor
    share: Tensor
    kept: Tensor


def pseudo_targets(first: Tensor, confidence: float) -> PseudoTargets:
    """The items (P, G) int64 that rollouts rank first elect the pseudo-target of each prompt.

    A prompt is kept if no other item has as many rollouts, and at least the share `confidence` of
    them agrees.
    """
    size = first.shape[1]
    cluster = (first[:, :, None] == first[:, None, :]).sum(2)
    most = cluster.max(1, keepdim=True).values
    leads = cluster == most
    target = first.gather(1, leads.int().argmax(1, keepdim=True))
    agrees = first == target
    unique = (leads == agrees).all(1)
    share = most[:, 0].double() / size
    kept = unique & (share >= confidence - ROUNDING)
    return PseudoTargets(target[:, 0], agrees, share, kept)


def capped(weight: Tensor, target: Tensor, *, most: float) -> Tensor:
    """Weights (P,) of prompts, lowered so that no target (P,) has more than its share.

    The weights of the prompts of one item add up to at most max(1, most x P); above, all of them
    are multiplied by the same number. So a bestseller that many prompts elect counts like an item
    with fewer of them, and the order of the prompts changes nothing.
    """
    allowed = max(1.0, most * len(weight))
    _, item = target.unique(return_inverse=True)
    total = torch.zeros_like(weight).index_add(0, item, weight)[item]
    return weight * (allowed / total.clamp_min(allowed))


@dataclass(frozen=True)
class Views:
    """Two rollouts of each of the K prompts of a step, without gradient, the same on all workers.

    ids (K,) int64: sample_ids. unit (K, 2, d) float32: hidden states of unit length.
    """

    ids: Tensor
    unit: Tensor


def divergence(log_p: Tensor) -> Tensor:
    """SKL = 1/2 [KL(p1 || p2) + KL(p2 || p1)] (P,) of log-probabilities (P, 2, C).

    A candidate with -inf in both has no part in it.
    """
    held = log_p.masked_fill(torch.isneginf(log_p), 0.0)
    return 0.5 * ((log_p[:, 0].exp() - log_p[:, 1].exp()) * (held[:, 0] - held[:, 1])).sum(1)


def info_nce(unit: Tensor, keys: Tensor, others: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE (P,) between the two views (P, 2, d) of each prompt: how likely each view finds the
    other one among those of other prompts.

    ``-1/2 sum_v log[exp(u_v.u_w / tau) / (exp(u_v.u_w / tau) + sum_k exp(u_v.z_kw / tau))]``, w the
    other view, k over the other prompts. log K minus its mean over K prompts is a lower bound of
    the mutual information of the views. If all states are equal it is log K, so that collapse is
    not optimal.

    Args:
        keys: (K, 2, d) of all prompts of the step, without gradient. So a prompt has the same loss
            in any micro-batch and on any worker. A prompt moves away from others by its own terms
            only, which in the usual InfoNCE is half of the gradient.
        others: (P, K) bool, the keys that belong to other prompts.
    """
    own = (unit[:, 0] * unit[:, 1]).sum(1, keepdim=True) / temperature
    found = []
    for view in range(2):
        scores = unit[:, view] @ keys[:, 1 - view].T / temperature
        scores = scores.masked_fill(~others, -torch.inf)
        found.append(torch.cat([own, scores], 1).logsumexp(1) - own[:, 0])
    return 0.5 * (found[0] + found[1])


def consistency(
    log_p: Tensor, unit: Tensor, ids: Tensor, views: Views, *, temperature: float
) -> Tensor:
    """`divergence` plus `info_nce` (P,) of the two views of each prompt, to be minimised.

    Args:
        log_p: (P, 2, C) log-probabilities of the candidates. unit: (P, 2, d) hidden states of unit
            length; both with gradient.
        ids: (P,) sample_ids; prompts of a step with the same one count as one.
    """
    others = ids[:, None] != views.ids[None]
    return divergence(log_p) + info_nce(unit, views.unit, others, temperature=temperature)
