"""The reward of a text by what it tells a frozen LM of the target.

After LLMs as references (arXiv 2305.14239), whose code was read. Its GPTScore is the mean
log-probability of a text under a reference LLM. Here the text is that of the target, and what the
LLM knew from the prompt alone is subtracted, so that popular items earn nothing by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minirec.rl.continued import continued
from minirec.rl.group import Group

TextReward = Callable[[Any, Sequence[Group]], Tensor]
"""Takes the policy, or an engine around it, and P groups of G rollouts; returns (P, G) float32."""


@dataclass(frozen=True)
class Likelihood:
    """The reward of rollouts by the likelihood of the target's text.

    words: (V,) tokens of the text of each item (`Encoder.item_words`). answer: the answer marker.
    reference: a frozen `Policy`; None: the policy without its adapter.
    """

    words: Sequence[Sequence[int]]
    answer: Sequence[int]
    reference: Any = None

    @torch.no_grad()
    def __call__(self, policy: Any, groups: Sequence[Group]) -> Tensor:
        """Rewards (P, G) float32 of P groups of G rollouts, in one pass of the reference.

        ``r_j = 1/|y| [log p(y | prompt, rollout_j) - log p(y | prompt)]`` with the tokens y of the
        target's text, which follows the answer marker in both. So an empty rollout earns 0.

        Args:
            policy: the policy, or a DeepSpeed engine around it.
        """
        read = continued(groups, words=self.words, answer=self.answer)
        if self.reference is not None:
            logprobs = self.reference(groups=read, temperature=1.0)[1]
        else:
            with without_adapter(getattr(policy, "module", policy).lm):
                logprobs = policy(groups=read, temperature=1.0)[1]
        sizes = [len(self.words[group.target]) for group in groups]
        return gains(logprobs, read, sizes)


def gains(logprobs: Tensor, groups: Sequence[Group], sizes: Sequence[int]) -> Tensor:
    """Mean log-probability (P, G) of the last tokens of G completions, minus that of one more.

    Args:
        logprobs: of all completion tokens of P groups, in order.
        groups: each with G + 1 completions.
        sizes: (P,) how many tokens at the end of each completion of a group count.
    """
    found, start = [], 0
    for group, size in zip(groups, sizes, strict=True):
        means = []
        for completion in group.completions:
            start += len(completion)
            means.append(logprobs[start - size : start].sum() / max(1, size))
        found.append(torch.stack(means[:-1]) - means[-1])
    return torch.stack(found)


def mixed(ranked: Tensor, of_texts: Tensor, *, weight: float) -> Tensor:
    """(1 - b) x the reward of the ranks + b x that of the texts, both of one shape."""
    return (1 - weight) * ranked + weight * of_texts


@contextmanager
def without_adapter(lm: Any) -> Iterator[None]:
    """The base model, during the block; an LM without an adapter is one."""
    if not hasattr(lm, "disable_adapter"):
        yield
        return
    with lm.disable_adapter():
        yield


def known_rewards(policy: Any, groups: Sequence[Group]) -> Tensor:
    """The rewards (P, G) float32 that the groups hold, from a judge."""
    return torch.tensor([group.rewards for group in groups], dtype=torch.float32)
