"""One GRPO step on a part of the global batch: from a forward pass to both losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minirec.config.run import TrainingConfig
from minirec.corpus.table import Sample
from minirec.model.sharing import Sharing
from minirec.rl import grpo
from minirec.rl.reward import RewardFunction, excluded_mask, item_scores, rank_target

Forward = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Group:
    """A prompt with its G rollouts.

    completions end with the answer marker (appended where the engine did not write it); generated
    counts the tokens that the engine wrote, which alone enter the token loss. excluded holds the
    items that do not compete with the target (`Sample.excluded`).
    """

    prompt: list[int]
    completions: list[list[int]]
    generated: list[int]
    rollout_logprobs: list[list[float]]
    excluded: list[int]
    target: int

    @classmethod
    def of(cls, sample: Sample, **rollouts: Any) -> Group:
        """The group of a sample; `rollouts` are the other attributes."""
        return cls(excluded=sample.excluded, target=sample.target, **rollouts)


@dataclass(frozen=True)
class Objective:
    """What the losses need beside the groups."""

    training: TrainingConfig
    temperature: float
    cutoff: int
    reward: RewardFunction

    @property
    def clip(self) -> grpo.Clip:
        """Clip bounds and importance cap."""
        t = self.training
        return grpo.Clip(t.clip_low, t.clip_high, t.importance_cap)


@dataclass
class Losses:
    """Sums over the groups of a micro-batch (scalars with gradient) and sums for the log."""

    token: Tensor
    item: Tensor
    sums: dict[str, float] = field(default_factory=dict)


def losses(
    forward: Forward,
    groups: Sequence[Group],
    *,
    objective: Objective,
    table: Tensor,
    batch_items: Tensor,
    batch_vectors: Tensor,
    log_presence: Tensor | None = None,
    sharing: Sharing | None = None,
) -> Losses:
    """Forward a micro-batch, reward its rollouts, return both losses.

    Args:
        forward: `Policy.forward` or an engine around it.
        table: (V, d) item table of one policy, that of the last refresh, no gradient.
        batch_items: (U,) ids of the distinct targets in the global batch.
        batch_vectors: (U, d) their unit-norm vectors, with gradient.
        log_presence: (V,) of `log_presence`, for `item_candidates` corrected alone.
        sharing: says where a prompt is read once for all its rollouts (`Policy.sharing`), which
            changes rounding only; None: nowhere.

    Raises:
        ValueError: the candidates are corrected without `log_presence`, or it is given otherwise.
    """
    t = objective.training
    if (t.item_candidates == "corrected") != (log_presence is not None):
        given = "is missing" if log_presence is None else "is given"
        raise ValueError(f"item_candidates is {t.item_candidates}, but log_presence {given}")
    count = len(groups[0].completions)
    sequences = [g.prompt + c for g in groups for c in g.completions]
    starts = [len(g.prompt) for g in groups for _ in g.completions]
    rollouts = [count] * len(groups)
    packed = sharing is not None and sharing.saves(sequences, starts, rollouts)
    hidden, logprobs = forward(sequences, starts, rollouts if packed else None)
    assert logprobs is not None
    device = hidden.device
    target = torch.tensor([g.target for g in groups], device=device)
    mask = excluded_mask([g.excluded for g in groups], target, items=len(table)).to(device)

    rewards = rollout_rewards(
        hidden.detach(), target=target, mask=mask, table=table, objective=objective, count=count
    )
    advantage = grpo.advantages(rewards, floor=t.advantage_floor, scale=t.scale_advantage)
    written, behaviour, weight = _written_tokens(groups, advantage.flatten())
    token = grpo.token_loss(logprobs[written], behaviour, weight, clip=objective.clip)

    best = grpo.best_rollouts(rewards)
    rows = torch.arange(len(groups), device=device)
    candidates, position, excluded = competitors(
        table, batch_items, batch_vectors, target, mask, t.item_candidates
    )
    item, log_p = grpo.item_loss(
        hidden.view(len(groups), count, -1)[rows, best],
        candidates=candidates,
        target=position,
        excluded=excluded,
        advantage=advantage[rows, best],
        temperature=objective.temperature,
        clip=objective.clip,
        log_presence=None if log_presence is None else log_presence[batch_items],
    )
    log_ratio = logprobs[written].detach() - behaviour
    sums = {
        "reward": float(rewards.mean(1).sum()),
        "dead_groups": _dead_groups(rewards, floor=t.advantage_floor),
        "abs_log_ratio": float(log_ratio.abs().sum()),
        "clipped_tokens": float(grpo.is_clipped(log_ratio, weight, clip=objective.clip).sum()),
        "token_loss": float(token.detach()),
        "item_loss": float(-(advantage[rows, best] * log_p).sum()),
    }
    return Losses(token, item, sums)


def _dead_groups(rewards: Tensor, *, floor: float) -> float:
    """Groups (rows) whose rewards are hardly apart, from which next to nothing is learnt."""
    return float((rewards.max(1).values - rewards.min(1).values < floor).sum())


def rollout_rewards(
    hidden: Tensor, *, target: Tensor, mask: Tensor, table: Tensor, objective: Objective, count: int
) -> Tensor:
    """Rewards (P, G) of hidden states (P * G, d), group after group."""
    scores = item_scores(hidden, items=table, temperature=objective.temperature)
    ranking = rank_target(
        scores,
        target=target.repeat_interleave(count),
        mask=mask.repeat_interleave(count, 0),
    )
    cutoff = min(objective.cutoff, len(table))
    return objective.reward(ranking, cutoff).view(-1, count)


def _written_tokens(groups: Sequence[Group], advantage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of written tokens among all completion tokens, their rollout logprobs, advantage."""
    written: list[int] = []
    behaviour: list[float] = []
    rollout: list[int] = []
    offset = number = 0
    for group in groups:
        for completion, length, logprobs in zip(
            group.completions, group.generated, group.rollout_logprobs, strict=True
        ):
            written += range(offset, offset + length)
            behaviour += logprobs[:length]
            rollout += [number] * length
            offset += len(completion)
            number += 1
    device = advantage.device
    return (
        torch.tensor(written, dtype=torch.int64, device=device),
        torch.tensor(behaviour, dtype=torch.float32, device=device),
        advantage[torch.tensor(rollout, dtype=torch.int64, device=device)],
    )


def log_presence(targets: Sequence[int], *, items: int, prompts: int) -> Tensor:
    """Log-probability (V,) float32 that the rest of a step has each item as a target.

    The rest is what a sample meets in its step: `prompts` - 1 of the other samples, drawn without
    replacement; the order of the curriculum is not looked at. An item that is no target has -inf.

    Args:
        targets: (n,) of the samples trained on.
        items: V, the size of the catalogue.
        prompts: in a step.
    """
    n = len(targets)
    if min(n, prompts) < 2:  # a target without rivals
        return torch.zeros(items)
    rest = min(prompts, n) - 1
    having = torch.bincount(torch.as_tensor(targets), minlength=items).double()
    others = (n - 1 - having).clamp_min(0)  # samples that do not have the item
    # C(others, rest) / C(n - 1, rest); lgamma is infinite where too few are left.
    log_absent = (
        torch.lgamma(others + 1)
        - torch.lgamma(others - rest + 1)
        - math.lgamma(n)
        + math.lgamma(n - rest)
    )
    return (1 - log_absent.exp()).clamp(0, 1).log().float()


def competitors(
    table: Tensor, ids: Tensor, vectors: Tensor, target: Tensor, mask: Tensor, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Item vectors that compete, position of the targets among them, and the excluded ones."""
    if kind == "catalogue":
        return table.index_copy(0, ids, vectors), target, mask
    position = (target[:, None] == ids[None]).int().argmax(1)
    return vectors, position, mask[:, ids]


def lr_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """What the learning rate is multiplied with at `step` of `steps`, in 0..1.

    It rises over `warmup` steps, then stays (constant) or falls towards 0, which the step after
    the last would have (linear, cosine).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0
