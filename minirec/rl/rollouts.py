"""What the losses of a micro-batch read: the forward pass, the rewards, and the objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minirec.config.training import TrainingConfig
from minirec.prior.prior import Prior
from minirec.rl import grpo
from minirec.rl.agreement import Views
from minirec.rl.comparison import compared
from minirec.rl.credit import Prefixes, credit_advantages
from minirec.rl.group import Choice, Group, Unit, written_tokens
from minirec.rl.horizon import graded
from minirec.rl.likelihood import TextReward, mixed
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.replay import best_weight, pass_of
from minirec.rl.reward import Ranking, RewardFunction, ndcg
from minirec.rl.start import start_logprobs
from minirec.rl.token_losses import group_advantages
from minirec.rl.weighting import group_weights
from minirec.rng import seed_of

Forward = Callable[..., tuple[Tensor, Tensor | None]]
"""`Policy.forward`, or an engine that wraps the policy."""


@dataclass(frozen=True)
class Objective:
    """The settings of rewards and losses, and the collaborative prior, if any.

    factors: (V,) of each item as a target (method, section 1), from
    `minirec.corpus.weights.load_factors`; None: 1.
    longest: the most tokens that an engine writes, see `Tokens`. answer: the answer marker.
    comparison_noise: of comparisons between rollouts, which replace the rewards; None: they do not.
    chance: NDCG of a random ranking, for `training.weighting`.
    text_reward: the reward of texts, which has the weight `text_weight` beside that of ranks; None:
        ranks alone count.
    normaliser, seed, best_weight: of a step, see `of_step`. The latter is the weight of the loss
    that imitates the best rollouts, see `minirec.rl.replay`. views: of a step, for
    `training.consistency`.
    """

    training: TrainingConfig
    temperature: float
    cutoff: int
    reward: RewardFunction
    prior: Prior | None = None
    factors: NDArray[np.float64] | None = None
    longest: int | None = None
    answer: Sequence[int] = ()
    comparison_noise: float | None = None
    chance: float = 0.0
    text_reward: TextReward | None = None
    text_weight: float = 1.0
    normaliser: float | None = None
    seed: int = 0
    best_weight: float = 0.0
    views: Views | None = None

    def of_step(self, step: int, *, seed: int, log: Sequence[dict[str, Any]]) -> Objective:
        """The objective of a step: the seed of its draws, and weights that differ between steps.

        Steps on the same rollouts have the same seed, so that comparisons end alike.

        Args:
            seed: of the run.
            log: the entries of the steps before.
        """
        t = self.training
        batch, number = pass_of(step, t.replays)
        return replace(
            self,
            seed=seed_of(seed, batch),
            normaliser=log[-1].get("weighting") if log else None,
            best_weight=best_weight(number, t.replays, t.imitate_best),
        )

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
    the rollout (0..P*G-1) of each token. sample_ids (P,) are those of the groups. start (W,)
    float32 holds the log-probabilities at the start of the training, if needed; prefixes likewise.
    weight (P,) float32 and labelled (P,) bool are those of the groups; None: 1 and True.
    text_rewards (P, G) float32 are the rewards of the texts; None: there are none.
    """

    hidden: Tensor
    logprobs: Tensor
    behaviour: Tensor
    rollout: Tensor
    targets: Targets
    sample_ids: Sequence[int] = ()
    start: Tensor | None = None
    prefixes: Prefixes | None = None
    weight: Tensor | None = None
    labelled: Tensor | None = None
    text_rewards: Tensor | None = None


@dataclass(frozen=True)
class Rewards:
    """Rewards, advantages and NDCG, all (P, G) float32, dead groups (P,) bool, and sums over the
    groups for the log.

    Rewards and advantages have the factor of the target, NDCG has not. It is applied to advantages
    after their division by the standard deviation of the group, which would cancel it. `seen` is
    what the advantages are computed from: the rewards, or the results of comparisons. Advantages
    have the weight of the group too, and with the weight 0 it is dead. The sums leave out groups
    without a label, and are scaled so that the step divides them by the others. `credit`
    (P, G, C) are the advantages of chunks for the token loss; None: those of whole rollouts.
    `choices` has the best and the worst rollout of each group, in the first step on these rollouts.
    """

    reward: Tensor
    seen: Tensor
    advantage: Tensor
    ndcg: Tensor
    dead: Tensor
    sums: dict[str, float]
    credit: Tensor | None = None
    choices: Sequence[Choice] = ()

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
    the count of the global batch. `token_sums`, also for the log, are sums over the written tokens
    whatever the unit is.
    """

    total: Tensor
    sums: dict[str, float]
    unit: Unit
    token_sums: dict[str, float] = field(default_factory=dict)


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
            found |= {(name, "tokens"): value for name, value in part.token_sums.items()}
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
    text_reward = objective.text_reward
    rollouts = forward(
        policy, groups, items=len(table), prior=objective.prior, text_reward=text_reward
    )
    dead = reward(rollouts, table=table, objective=objective).dead.tolist()
    return sum(sum(group.written) for group, none in zip(groups, dead, strict=True) if not none)


@torch.no_grad()
def rewards_of(
    policy: Forward, groups: Sequence[Group], *, table: Tensor, objective: Objective
) -> Tensor:
    """The rewards (P, n) float32 of P groups of n rollouts, without the factors of their targets;
    a forward pass of its own."""
    hidden, _ = policy(groups=groups, logprobs=False)
    targets = Targets.of(groups, items=len(table), device=hidden.device, prior=objective.prior)
    ranker = Ranker(table, objective.temperature)
    found = _earned(ranker.rank(hidden, targets), hidden, targets, ranker, objective)
    return found.view(len(groups), -1)


def forward(
    policy: Forward,
    groups: Sequence[Group],
    *,
    items: int,
    prior: Prior | None = None,
    start: bool = False,
    text_reward: TextReward | None = None,
) -> Rollouts:
    """One pass of the policy over groups of equal size; `items` is V.

    With `start`, a pass without gradient at the start of the training comes first, and with
    `text_reward` the rewards of the texts are computed.
    """
    at_start = start_logprobs(policy, groups) if start else None
    rewards = text_reward(policy, groups) if text_reward else None
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
        at_start,
        weight=torch.tensor([group.weight for group in groups], device=device),
        labelled=torch.tensor([group.labelled for group in groups], device=device),
        text_rewards=None if rewards is None else rewards.to(device),
    )


def reward(rollouts: Rollouts, *, table: Tensor, objective: Objective) -> Rewards:
    """Rank the target of each rollout in `table` (V, d), and compute rewards and advantages."""
    t = objective.training
    ranker, hidden = Ranker(table, objective.temperature), rollouts.hidden.detach().flatten(0, 1)
    cutoff = min(objective.cutoff, len(table))
    shape = rollouts.hidden.shape[:2]
    ranking = ranker.rank(hidden, rollouts.targets)
    plain = _earned(ranking, hidden, rollouts.targets, ranker, objective).view(shape)
    if rollouts.text_rewards is not None:
        plain = mixed(plain, rollouts.text_rewards, weight=objective.text_weight)
    noise = objective.comparison_noise
    seen = (
        plain
        if noise is None
        else compared(plain, rollouts.sample_ids, noise=noise, seed=objective.seed)
    )
    dead = grpo.is_dead(seen, floor=t.advantage_floor)
    advantage = group_advantages(seen, t)
    factor = objective.factor(rollouts.targets.target)[:, None]
    rewards = factor * plain
    gain = ndcg(ranking, cutoff).view(shape)
    scale, credit, counts = factor, None, torch.ones_like(dead)
    if t.unlabelled:
        assert rollouts.weight is not None and rollouts.labelled is not None
        scale, dead = factor * rollouts.weight[:, None], dead | (rollouts.weight == 0)
        counts = rollouts.labelled * (t.prompts_per_step / t.labelled_per_step)
    sums = {
        "reward": float((counts * rewards.mean(1)).sum()),
        "dead_groups": float((counts * dead).sum()),
    }
    if t.weighting != "none":
        weights = group_weights(
            gain.mean(1), chance=objective.chance, training=t, normaliser=objective.normaliser
        )
        scale = factor * weights.weight[:, None]
        sums |= weights.sums
    if rollouts.prefixes is not None:
        credit = scale[..., None] * _credit(rollouts, plain, ranker=ranker, objective=objective)
    return Rewards(rewards, factor * seen, scale * advantage, gain, dead, sums, credit)


def _earned(
    ranking: Ranking, hidden: Tensor, targets: Targets, ranker: Ranker, objective: Objective
) -> Tensor:
    """The rewards (P * n,) of hidden states (P * n, d) that rank the targets so."""
    cutoff = min(objective.cutoff, len(ranker.table))
    if targets.following is None:
        return objective.reward(ranking, cutoff)
    return graded(ranker, hidden, targets, reward=objective.reward, cutoff=cutoff)


def _credit(rollouts: Rollouts, plain: Tensor, *, ranker: Ranker, objective: Objective) -> Tensor:
    """The advantages (P, G, C) of chunks of rollouts with rewards (P, G)."""
    assert rollouts.prefixes is not None
    hidden, inner = rollouts.prefixes.hidden, rollouts.prefixes.values
    if hidden is not None:
        ranking = ranker.rank(hidden, rollouts.targets)
        inner = _earned(ranking, hidden, rollouts.targets, ranker, objective)
    assert inner is not None
    return credit_advantages(inner.to(plain).view(*plain.shape, -1), plain, objective.training)
