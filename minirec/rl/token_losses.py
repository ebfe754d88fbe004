"""The losses of the written tokens, one function for each value of `training.loss`.

A token loss is a function of `Tokens` that returns a `TokenLoss`. To add one, write a function here
and add it to `TOKEN_LOSSES`, or name your own in the setting as ``package.module:function``. A loss
that needs other advantages than GRPO's also has a line in `group_advantages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.config.training import TrainingConfig
from minirec.rl import grpo
from minirec.rl.group import Unit


@dataclass(frozen=True)
class Tokens:
    """The W written tokens of a micro-batch, in R = P * G rollouts of P prompts.

    logprobs: (W,) float32 of the policy in training, with gradient.
    behaviour: (W,) float32 of the policy that wrote the tokens.
    advantage: (W,) float32, of the rollout of each token.
    rollout: (W,) int64, the rollout 0..R-1 of each token. A rollout may have no written token.
    rollouts, per_prompt: R and G.
    clip: bounds of the ratio, from the settings.
    longest: the most tokens that an engine writes (`rollout.max_new_tokens`); None if unknown.
    """

    logprobs: Tensor
    behaviour: Tensor
    advantage: Tensor
    rollout: Tensor
    rollouts: int
    per_prompt: int
    clip: grpo.Clip
    longest: int | None = None

    @property
    def log_ratio(self) -> Tensor:
        """(W,) log-probability ratios, with gradient."""
        return self.logprobs - self.behaviour

    def rollout_sums(self, values: Tensor) -> Tensor:
        """Sums (R,) of values (W,) over the tokens of each rollout."""
        return values.new_zeros(self.rollouts).index_add(0, self.rollout, values)


@dataclass(frozen=True)
class TokenLoss:
    """The loss of a micro-batch.

    total: scalar with gradient, a sum over the tokens or the groups of the micro-batch.
    clipped: (W,) bool, the tokens whose ratio has passed a bound, for the log.
    unit: the step divides `total` by the number of these in the global batch. A mean over the
        micro-batch instead would depend on how a step is divided.
    """

    total: Tensor
    clipped: Tensor
    unit: Unit = "tokens"


TokenLossFunction = Callable[[Tokens], TokenLoss]


def checked(found: TokenLoss, tokens: Tokens, *, name: str) -> TokenLoss:
    """What the loss `name` has found for the tokens.

    Raises:
        ValueError: it is no `TokenLoss` of a scalar and W marks.
    """
    if not isinstance(found, TokenLoss):
        raise ValueError(f"training.loss {name} returned {type(found).__name__}, not a TokenLoss")
    shapes = tuple(found.total.shape), tuple(found.clipped.shape)
    expected = (), tuple(tokens.logprobs.shape)
    if shapes != expected:
        raise ValueError(
            f"training.loss {name} returned total and clipped of the shapes {shapes[0]} and "
            f"{shapes[1]}; expected {expected[0]} and {expected[1]}"
        )
    return found


def clipped(tokens: Tokens) -> TokenLoss:
    """Ratios of tokens, clipped; advantages in units of the group's standard deviation.

    GRPO (arXiv 2402.03300), with clip_low and clip_high of DAPO (arXiv 2503.14476) and its mean
    over all tokens of a step. See `grpo.surrogate`.
    """
    total = grpo.token_loss(tokens.logprobs, tokens.behaviour, tokens.advantage, clip=tokens.clip)
    return TokenLoss(total, _passed(tokens))


def sequence_ratio(tokens: Tokens) -> TokenLoss:
    """One ratio for a rollout, the geometric mean of those of its tokens, clipped.

    ``-1/G sum_i min(s_i A_i, clip(s_i) A_i)`` with ``s_i = exp(mean_t log ratio_it)``, the mean
    over groups (GSPO, arXiv 2507.18071). Every rollout counts alike, however long it is.
    The paper clips at 3e-4 and 4e-4, because s varies much less than the ratio of a token: lower
    clip_low and clip_high. A rollout without written tokens has no ratio and counts 0. The
    importance cap, which is not in the paper, holds as in GRPO.
    """
    length = tokens.rollout_sums(torch.ones_like(tokens.behaviour))
    own = length.clamp_min(1)
    log_s = tokens.rollout_sums(tokens.log_ratio) / own
    advantage = tokens.rollout_sums(tokens.advantage) / own
    terms = grpo.surrogate(log_s, advantage, clip=tokens.clip)
    passed = grpo.is_clipped(log_s.detach(), advantage, clip=tokens.clip)
    return TokenLoss(terms.sum() / tokens.per_prompt, passed[tokens.rollout], "groups")


def clipped_weight(tokens: Tokens) -> TokenLoss:
    """Log-probabilities with a truncated importance weight; no token loses its gradient.

    ``-sum_t sg(min(ratio_t, cap)) A_t log p_t`` (CISPO of MiniMax-M1, arXiv 2506.13585),
    with the cap training.importance_cap, divided by all tokens of a step. As in the paper's runs
    there is no lower bound; clip_low and clip_high have no effect.
    """
    weight = tokens.log_ratio.detach().exp()
    capped = weight.clamp(max=tokens.clip.cap)
    total = -(capped * tokens.advantage * tokens.logprobs).sum()
    return TokenLoss(total, weight > tokens.clip.cap)


def constant_length(tokens: Tokens) -> TokenLoss:
    """GRPO that divides neither by lengths nor by the standard deviation of a group.

    The terms of GRPO, summed over the tokens of a rollout and divided by the constant
    ``G * rollout.max_new_tokens`` (Dr. GRPO, arXiv 2503.20783). Advantages are
    r - mean, whatever scale_advantage says.

    Raises:
        ValueError: `longest` is unknown.
    """
    if tokens.longest is None:
        raise ValueError("the loss dr_grpo divides by the longest rollout, which is unknown here")
    total = grpo.token_loss(tokens.logprobs, tokens.behaviour, tokens.advantage, clip=tokens.clip)
    constant = tokens.per_prompt * max(1, tokens.longest)
    return TokenLoss(total / constant, _passed(tokens), "groups")


def mean_normalised(tokens: Tokens) -> TokenLoss:
    """The loss of GRPO with advantages divided by the mean reward of the group.

    After Tajwar et al. (arXiv 2602.02710), who derive it for rewards of 0 and 1. There the expected
    gradient is that of log p, p the chance of a success, with its series of powers of 1 - p cut
    after G - 1 terms; G = 2 follows p itself. For other rewards of at least 0 the formula is ours.
    See `relative_advantages`; scale_advantage has no effect.
    """
    return clipped(tokens)


TOKEN_LOSSES: dict[str, TokenLossFunction] = {
    "grpo": clipped,
    "gspo": sequence_ratio,
    "cispo": clipped_weight,
    "dr_grpo": constant_length,
    "maxrl": mean_normalised,
}
"""Names of ``training.loss``. `minirec.config.choices` reads them here."""


def group_advantages(rewards: Tensor, training: TrainingConfig) -> Tensor:
    """The advantages (P, G) of rewards (P, G) for `training.loss`.

    Raises:
        ValueError: as `relative_advantages`.
    """
    floor = training.advantage_floor
    if training.loss == "maxrl":
        return relative_advantages(rewards, floor=floor)
    return grpo.advantages(rewards, floor=floor, scale=training.scales)


def relative_advantages(rewards: Tensor, *, floor: float) -> Tensor:
    """Advantages (P, G) of MaxRL: (r - mean) / max(mean, floor) of rewards (P, G) >= 0.

    Raises:
        ValueError: a reward is negative.
    """
    if (rewards < 0).any():
        raise ValueError(
            f"a reward is {float(rewards.min()):g}, but the loss maxrl divides by the mean reward "
            f"of a group and needs rewards of at least 0; choose another training.loss"
        )
    mean = rewards.mean(1, keepdim=True)
    return (rewards - mean) / mean.clamp_min(floor)


def entropy_terms(logprobs: Tensor) -> Tensor:
    """Terms (W,) whose gradient is, in expectation, that of minus the entropy of each token.

    The gradient of an entropy is -E[log p grad log p] over tokens that the policy draws. So the
    term is ``sg(log p) log p``: its value means nothing. It sees only the drawn token and costs no
    second look at the vocabulary, but has more variance than the entropy of the whole softmax. A
    token's effect on the entropy of later tokens is left out, as in other trainers.
    """
    return logprobs.detach() * logprobs


def _passed(tokens: Tokens) -> Tensor:
    return grpo.is_clipped(tokens.log_ratio.detach(), tokens.advantage, clip=tokens.clip)
