"""The losses of a micro-batch: forward pass, rewards, losses.

To add a loss, write a function like `token_loss` and add it to `LOSSES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minirec.config.training import TrainingConfig
from minirec.prior.prior import Prior
from minirec.rl import grpo
from minirec.rl.candidates import CANDIDATES, Candidates
from minirec.rl.group import Group, written_tokens
from minirec.rl.horizon import graded, relevant_items
from minirec.rl.imitation import weighted_imitation
from minirec.rl.preference import pair_loss
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.ranking import LIST_LOSSES, ranking_loss, uniforms
from minirec.rl.replay import best_loss
from minirec.rl.reward import RewardFunction, ndcg

Forward = Callable[..., tuple[Tensor, Tensor | None]]
"""`Policy.forward`, or an engine that wraps the policy."""
Unit = Literal["tokens", "groups"]


@dataclass(frozen=True)
class Objective:
    """The settings of rewards and losses, and the collaborative prior, if any.

    factors: (V,) of each item as a target (method, section 1), from
    `minirec.corpus.weights.load_factors`; None: 1.
    reference: log-probabilities (W,) of the written tokens of groups by the start of the training,
    only for `training.preference_reference: start`.
    best_weight: of the loss that imitates the best rollouts in this step, see `minirec.rl.replay`.
    """

    training: TrainingConfig
    temperature: float
    cutoff: int
    reward: RewardFunction
    prior: Prior | None = None
    factors: NDArray[np.float64] | None = None
    best_weight: float = 0.0
    reference: Callable[[Sequence[Group]], Tensor] | None = None

    def factor(self, target: Tensor) -> Tensor:
        """Factors (P,) float32 of targets (P,) int64."""
        if self.factors is None:
            return torch.ones_like(target, dtype=torch.float32)
        return torch.from_numpy(self.factors).float().to(target.device)[target]

    @property
    def clip(self) -> grpo.Clip:
        t = self.training
        return grpo.Clip(t.clip_low, t.clip_high, t.importance_cap)


@dataclass(frozen=True)
class Rollouts:
    """The policy's results for P groups of G rollouts, in which engines wrote W tokens.

    hidden (P, G, d) float32 at the answer marker and logprobs (W,) float32 have gradient. behaviour
    (W,) float32 holds the log-probabilities of the policy that wrote the tokens, rollout (W,) int64
    the rollout (0..P*G-1) of each token. sample_ids (P,) are those of the groups.
    reference (W,) float32 are the log-probabilities of another reference than behaviour, if any.
    """

    hidden: Tensor
    logprobs: Tensor
    behaviour: Tensor
    rollout: Tensor
    targets: Targets
    sample_ids: Sequence[int] = ()
    reference: Tensor | None = None


@dataclass(frozen=True)
class Rewards:
    """Rewards, advantages and NDCG, all (P, G) float32, dead groups (P,) bool, and sums over the
    groups for the log.

    Rewards and advantages have the factor of the target, NDCG has not. It is applied to advantages
    after their division by the standard deviation of the group, which would cancel it.
    """

    reward: Tensor
    advantage: Tensor
    ndcg: Tensor
    dead: Tensor
    sums: dict[str, float]

    @property
    def means(self) -> list[tuple[float, float, float]]:
        """Mean NDCG, mean reward and standard deviation of the rewards of each group."""
        spread = self.reward.std(1, correction=0)
        columns = (self.ndcg.mean(1), self.reward.mean(1), spread)
        return list(zip(*(column.tolist() for column in columns), strict=True))


@dataclass(frozen=True)
class Loss:
    """A loss of a micro-batch: a scalar with gradient, and sums for the log.

    Both are sums over the tokens or groups (`unit`) of the micro-batch. The step divides them by
    the count of the global batch.
    """

    total: Tensor
    sums: dict[str, float]
    unit: Unit


@dataclass(frozen=True)
class Losses:
    """The losses of a micro-batch, and its rewards; None if the loss needs none."""

    rewards: Rewards | None
    parts: list[Loss]

    def mean(self, counts: dict[Unit, int]) -> Tensor:
        """Sum of all losses, each divided by its count in the global batch (`counted`)."""
        return torch.stack([part.total / counts[part.unit] for part in self.parts]).sum()

    @property
    def sums(self) -> dict[tuple[str, Unit], float]:
        """The sums for the log, by name and unit."""
        rewards = self.rewards.sums if self.rewards else {}
        found: dict[tuple[str, Unit], float] = {
            (name, "groups"): value for name, value in rewards.items()
        }
        for part in self.parts:
            found |= {(name, part.unit): value for name, value in part.sums.items()}
        return found


def counted(groups: Sequence[Group]) -> dict[Unit, int]:
    """The counts of a global batch that its losses are divided by."""
    return {"tokens": sum(sum(group.written) for group in groups), "groups": len(groups)}


@torch.no_grad()
def live_tokens(
    policy: Forward, groups: Sequence[Group], *, table: Tensor, objective: Objective
) -> int:
    """The tokens that engines wrote in the groups that are not dead; a forward pass of its own.

    With `training.live_tokens`, their number in the global batch replaces that of all tokens as the
    divisor of the token loss. It must be known before the first backward pass of the step.
    """
    rollouts = forward(policy, groups, items=len(table), prior=objective.prior)
    dead = reward(rollouts, table=table, objective=objective).dead.tolist()
    return sum(sum(group.written) for group, none in zip(groups, dead, strict=True) if not none)


def is_dead(rewards: Tensor, *, floor: float) -> Tensor:
    """Groups (P,) bool with nearly equal rewards (P, G), from which almost nothing is learned.

    The rewards are those without the weights of items, so that the floor means the same for all.
    """
    return rewards.max(1).values - rewards.min(1).values < floor


def forward(
    policy: Forward, groups: Sequence[Group], *, items: int, prior: Prior | None = None
) -> Rollouts:
    """One pass of the policy over groups of equal size; `items` is V."""
    hidden, logprobs = policy(groups=groups)
    assert logprobs is not None
    device = hidden.device
    written, rollout = (
        torch.tensor(x, dtype=torch.int64, device=device) for x in written_tokens(groups)
    )
    behaviour = [x for g in groups for logprobs_ in g.rollout_logprobs for x in logprobs_]
    return Rollouts(
        hidden.view(len(groups), -1, hidden.shape[1]),
        logprobs[written],
        torch.tensor(behaviour, dtype=torch.float32, device=device),
        rollout,
        Targets.of(groups, items=items, device=device, prior=prior),
        [group.sample_id for group in groups],
    )


def reward(rollouts: Rollouts, *, table: Tensor, objective: Objective) -> Rewards:
    """Rank the target of each rollout in `table` (V, d), and compute rewards and advantages."""
    t = objective.training
    ranker, hidden = Ranker(table, objective.temperature), rollouts.hidden.detach().flatten(0, 1)
    ranking = ranker.rank(hidden, rollouts.targets)
    cutoff = min(objective.cutoff, len(table))
    shape = rollouts.hidden.shape[:2]
    if rollouts.targets.following is None:
        plain = objective.reward(ranking, cutoff).view(shape)
    else:
        plain = graded(
            ranker, hidden, rollouts.targets, reward=objective.reward, cutoff=cutoff
        ).view(shape)
    dead = is_dead(plain, floor=t.advantage_floor)
    advantage = grpo.advantages(plain, floor=t.advantage_floor, scale=t.scale_advantage)
    factor = objective.factor(rollouts.targets.target)[:, None]
    rewards = factor * plain
    sums = {"reward": float(rewards.mean(1).sum()), "dead_groups": float(dead.sum())}
    return Rewards(rewards, factor * advantage, ndcg(ranking, cutoff).view(shape), dead, sums)


def token_loss(rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective) -> Loss:
    """Clipped policy-gradient loss of the written tokens."""
    weight = rewards.advantage.flatten()[rollouts.rollout]
    total = grpo.token_loss(rollouts.logprobs, rollouts.behaviour, weight, clip=objective.clip)
    log_ratio = rollouts.logprobs.detach() - rollouts.behaviour
    sums = {
        "abs_log_ratio": float(log_ratio.abs().sum()),
        "clipped_tokens": float(grpo.is_clipped(log_ratio, weight, clip=objective.clip).sum()),
        # The mean over tokens that the policy itself drew estimates its entropy.
        "token_entropy": -float(rollouts.logprobs.detach().sum()),
        "token_loss": float(total.detach()),
    }
    return Loss(total, sums, "tokens")


def item_loss(
    rollouts: Rollouts, rewards: Rewards, candidates: Candidates, objective: Objective
) -> Loss:
    """The best rollout of each group should score the target above the other candidates.

    Raises:
        ValueError: `log_presence` is missing for corrected candidates, or given for others.
    """
    _check_presence(candidates, objective)
    best = grpo.best_rollouts(rewards.reward)
    rows = torch.arange(len(best), device=best.device)
    hidden, advantage = rollouts.hidden[rows, best], rewards.advantage[rows, best]
    if objective.training.item_loss in LIST_LOSSES:
        return _list_loss(hidden, rollouts.targets, rollouts.sample_ids, candidates, objective)
    return _item_loss(hidden, advantage, rollouts.targets, candidates, objective)


def supervised_loss(
    policy: Forward, groups: Sequence[Group], *, candidates: Candidates, objective: Objective
) -> Loss:
    """The item loss of each prompt right after its answer marker: -log p of the target, times the
    factor of the target.

    Args:
        groups: P groups with one completion each, the forced answer marker.

    Raises:
        ValueError: as `item_loss`.
    """
    _check_presence(candidates, objective)
    hidden, _ = policy(groups=groups, logprobs=False)
    targets = Targets.of(
        groups, items=candidates.catalogue_size, device=hidden.device, prior=objective.prior
    )
    ids = [group.sample_id for group in groups]
    if objective.training.item_loss in LIST_LOSSES:
        found = _list_loss(hidden, targets, ids, candidates, objective)
    else:
        weight = objective.factor(targets.target).to(hidden)
        found = _item_loss(hidden, weight, targets, candidates, objective)
    if candidates.demonstrations is None:
        return found
    shown = _expert_loss(hidden, ids, targets, candidates, objective)
    return Loss(found.total + shown.total, found.sums | shown.sums, "groups")


def _check_presence(candidates: Candidates, objective: Objective) -> None:
    kind = objective.training.item_candidates
    if (kind == "corrected") != (candidates.log_presence is not None):
        given = "is missing" if candidates.log_presence is None else "is given"
        raise ValueError(f"item_candidates is {kind}, but log_presence {given}")


def _item_loss(
    hidden: Tensor,
    advantage: Tensor,
    targets: Targets,
    candidates: Candidates,
    objective: Objective,
) -> Loss:
    """The item loss at hidden states (P, d) with advantages (P,)."""
    rivals = CANDIDATES[objective.training.item_candidates](candidates, targets)
    total, log_p = grpo.item_loss(
        hidden,
        candidates=rivals.vectors,
        target=rivals.target,
        excluded=rivals.excluded,
        advantage=advantage,
        temperature=objective.temperature,
        clip=objective.clip,
        offset=rivals.offset,
        rest=rivals.rest,
    )
    return Loss(total, {"item_loss": float(-(advantage * log_p).sum())}, "groups")


def expert_loss(
    rollouts: Rollouts, rewards: Rewards, candidates: Candidates, objective: Objective
) -> Loss:
    """The best rollout of each group, dead or not, should score the items of the expert highly."""
    best = grpo.best_rollouts(rewards.reward)
    hidden = rollouts.hidden[torch.arange(len(best), device=best.device), best]
    return _expert_loss(hidden, rollouts.sample_ids, rollouts.targets, candidates, objective)


def _expert_loss(
    hidden: Tensor,
    sample_ids: Sequence[int],
    targets: Targets,
    candidates: Candidates,
    objective: Objective,
) -> Loss:
    """The imitation loss at hidden states (P, d)."""
    assert candidates.demonstrations is not None
    total, weight = weighted_imitation(
        hidden,
        sample_ids,
        candidates.demonstrations,
        candidates,
        CANDIDATES[objective.training.item_candidates](candidates, targets),
        temperature=objective.temperature,
        alpha=objective.training.expert_alpha,
    )
    return Loss(total, {"expert_loss": float(total.detach()), "expert_weight": weight}, "groups")


def imitated_best(
    rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective
) -> Loss:
    """The written tokens of the best rollout of each live group should become likelier."""
    total = objective.best_weight * best_loss(
        rollouts.logprobs, rollouts.rollout, rewards.reward, rewards.dead
    )
    return Loss(total, {"best_loss": float(total.detach())}, "tokens")


def preference_loss(
    rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective
) -> Loss:
    """DPO: the best rollout of each group should gain on the worst one, over the reference."""
    t = objective.training
    total, sums = pair_loss(
        rollouts.logprobs,
        rollouts.behaviour if rollouts.reference is None else rollouts.reference,
        rollouts.rollout,
        rewards.reward,
        rewards.dead,
        floor=t.advantage_floor,
        beta=t.preference_beta,
    )
    return Loss(total, sums, "groups")


def token_figures(
    rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective
) -> Loss:
    """What the log shows of the written tokens where no loss counts them; it is no loss."""
    names = ("abs_log_ratio", "token_entropy")
    found = token_loss(rollouts, rewards, _, objective)
    return Loss(torch.zeros_like(found.total), {n: found.sums[n] for n in names}, "tokens")


def _list_loss(
    hidden: Tensor,
    targets: Targets,
    sample_ids: Sequence[int],
    candidates: Candidates,
    objective: Objective,
) -> Loss:
    """The loss of lists drawn at hidden states (P, d), times the factors of the targets.

    The scores are those of the softmax, prior and correction included, at another temperature. At
    that of the softmax nearly all lists would be alike.
    """
    t = objective.training
    rivals = CANDIDATES[t.item_candidates](candidates, targets)
    scores = torch.nn.functional.normalize(hidden, dim=-1) @ rivals.vectors.T
    scores = scores / objective.temperature
    if rivals.offset is not None:
        scores = scores + rivals.offset
    flat = scores * (objective.temperature / t.ranking_temperature)
    found = ranking_loss(
        flat.masked_fill(rivals.excluded, -torch.inf),
        relevant=_places(relevant_items(targets), candidates.ids),
        uniforms=uniforms(
            candidates.seed, sample_ids, samples=t.rankings, candidates=scores.shape[1]
        ),
        depth=t.ranking_depth,
        reward=objective.reward,
        cutoff=min(objective.cutoff, t.ranking_depth),
        kind=t.item_loss,
        floor=t.advantage_floor,
        scale=t.scale_advantage,
    )
    total = (objective.factor(targets.target).to(hidden) * found.loss).sum()
    spread = found.rewards.max(1).values - found.rewards.min(1).values
    sums = {
        "item_loss": float(total.detach()),
        "list_reward": float(found.rewards.mean(1).sum()),
        "live_lists": float((spread >= t.advantage_floor).sum()),
    }
    return Loss(total, sums, "groups")


def _places(items: Tensor, ids: Tensor) -> Tensor:
    """(P, n) int64 positions of items (P, n) among ascending ids (U,); -1 for those not there."""
    place = torch.searchsorted(ids, items.clamp_min(0)).clamp_max(len(ids) - 1)
    return torch.where(ids[place] == items, place, torch.full_like(place, -1))


LOSSES = (token_loss, item_loss)
"""Every loss of a step with rollouts, in the order in which they are added."""


def losses(
    policy: Forward, groups: Sequence[Group], *, candidates: Candidates, objective: Objective
) -> Losses:
    """Forward pass, rewards and each of `LOSSES` of a micro-batch, or its `supervised_loss`."""
    if objective.training.loss == "supervised":
        part = supervised_loss(policy, groups, candidates=candidates, objective=objective)
        return Losses(None, [part])
    assert candidates.table is not None
    rollouts = forward(policy, groups, items=len(candidates.table), prior=objective.prior)
    rewards = reward(rollouts, table=candidates.table, objective=objective)
    if objective.reference is not None:
        rollouts = replace(rollouts, reference=objective.reference(groups))
    used = [*LOSSES]
    if objective.training.loss == "dpo":
        used = [preference_loss, token_figures, *(one for one in LOSSES if one != token_loss)]
    used += [imitated_best] if objective.best_weight else []
    used += [expert_loss] if candidates.demonstrations is not None else []
    return Losses(rewards, [loss(rollouts, rewards, candidates, objective) for loss in used])


def lr_factor(step: int, *, steps: int, warmup: int, schedule: str, spent: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `steps`, in 0..1.

    It rises over `warmup` steps. Then it is constant, or falls (linear, cosine) and would be 0 one
    step after the last. `spent` is the share of `token_limit` before this step: the larger of both
    shares counts, so that the fall spans the whole cost.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = max((step - warmup) / max(1, steps - warmup), spent)
    if schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0
