"""Cost in forward-equivalent tokens: counted from lengths, never from measured seconds.

The unit is one token in one forward pass of the policy. A forward pass multiplies each weight once
for each token. A backward pass does so twice: once for the gradient of the activations, and once
for the gradient of the weights. Frozen weights have no gradient, so a LoRA training leaves out the
latter; the few adapter weights are not counted. Nor is attention, whose cost grows with the square
of the length: in the lengths here, the weights dominate.

The counts depend neither on the machine nor on the division into micro-batches and workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minirec.config.training import TrainingConfig
from minirec.model.sharing import Sharing
from minirec.rl.group import Group

PREFILL = DECODE = FORWARD = 1
"""A token that an engine reads, that it writes, or that a pass without gradient reads."""


def trained(*, frozen: bool) -> int:
    """Forward-equivalents of a token in a forward and backward pass."""
    activations, weights = 1, 0 if frozen else 1
    return FORWARD + activations + weights


LORA = trained(frozen=True)
"""All trainings of this package: only LoRA weights have gradients."""


def rolled_out(prompt: int, written: Iterable[int]) -> int:
    """An engine reads a prompt once for all its rollouts, and writes their tokens.

    Args:
        prompt: tokens of the prompt.
        written: tokens that the engine wrote in each rollout.
    """
    return PREFILL * prompt + DECODE * sum(written)


def read(group: Group, sharing: Sharing | None) -> int:
    """Tokens that the policy reads in one pass over a group.

    The prompt counts once where the group alone is cheaper in one sequence, else once for each
    rollout. The policy itself decides for a whole micro-batch, whose padding can tip the balance.
    """
    prompt, completions = group.lengths
    if sharing is not None and completions and sharing.saves([group.lengths]):
        return prompt + sum(completions)
    return prompt * len(completions) + sum(completions)


@dataclass(frozen=True)
class StepTokens:
    """Counts the forward-equivalent tokens of a training step.

    items: (V,) tokens of each item. sharing: how the policy reads groups (`Sharing.of`).
    """

    training: TrainingConfig
    items: Sequence[int]
    sharing: Sharing | None

    def count(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        candidates: Iterable[int],
        choice_tokens: int = 0,
    ) -> int:
        """All that a step spends, validations apart.

        Args:
            step: a table of the catalogue is encoded anew at the multiples of
                `item_refresh_steps`, where a step reads one.
            groups: the global batch.
            candidates: items with gradient. They are encoded once more where the table is not new,
                and once with gradient.
            choice_tokens: what choosing the prompts of this step cost.
        """
        t = self.training
        reading = sum(read(group, self.sharing) for group in groups)
        rollouts = 0
        if t.loss == "grpo":
            rollouts = sum(rolled_out(len(group.prompt), group.written) for group in groups)
        passes = LORA + (FORWARD if t.live_tokens and t.reads_table else 0)
        passes += 2 * FORWARD if t.measures_kl(step) else 0
        own = sum(self.items[item] for item in candidates)
        refreshed = t.reads_table and step % t.item_refresh_steps == 0
        encoded = sum(self.items) if refreshed else own
        return choice_tokens + rollouts + passes * reading + FORWARD * encoded + LORA * own
