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
from minirec.rl.chunks import prefixes
from minirec.rl.continued import continued
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


def drawn_and_rewarded(groups: Iterable[Group], sharing: Sharing | None) -> int:
    """Engines write these groups, and a pass without gradient reads their rewards."""
    return sum(
        rolled_out(len(group.prompt), group.written) + FORWARD * read(group, sharing)
        for group in groups
    )


@dataclass(frozen=True)
class StepTokens:
    """Counts the forward-equivalent tokens of a training step.

    items: (V,) tokens of each item. refresh_steps: a table of the catalogue is encoded at its
    multiples. sharing: how the policy reads groups (`Sharing.of`).
    answer: token ids of the answer marker, for `training.credit` and `words`.
    words: (V,) tokens of the text of each item, if a reference LM reads it after each rollout; such
        a token counts as one of the policy. None: no LM reads it.
    """

    training: TrainingConfig
    items: Sequence[int]
    refresh_steps: int
    sharing: Sharing | None
    answer: Sequence[int] = ()
    words: Sequence[int] | None = None

    @property
    def catalogue(self) -> int:
        """Tokens of one encoding of all items."""
        return FORWARD * sum(self.items)

    def count(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        candidates: Iterable[int],
        choice_tokens: int = 0,
        further_tokens: int = 0,
    ) -> int:
        """All that a step spends, validations apart.

        Args:
            step: its number, from 0.
            groups: the global batch.
            candidates: items with gradient. They are encoded once more where the table is not new,
                and once with gradient.
            choice_tokens: what choosing the prompts of this step cost.
            further_tokens: what else was drawn and rewarded, see `drawn_and_rewarded`.
        """
        t = self.training
        reading = sum(read(group, self.sharing) for group in groups)
        rollouts = 0
        if t.writes(step):
            rollouts = sum(rolled_out(len(group.prompt), group.written) for group in groups)
        reading_ahead = 0
        if t.credit == "prefill":
            reading_ahead = sum(
                read(group, self.sharing)
                for number in range(1, t.credit_chunks)
                for group in prefixes(
                    groups, number=number, chunks=t.credit_chunks, answer=self.answer
                )
            )
        if self.words is not None:
            passes = 1 + (t.live_tokens and t.reads_table)
            after = (self._continued(group) for group in groups)
            reading_ahead += passes * sum(read(group, self.sharing) for group in after)
        own = sum(self.items[item] for item in candidates)
        refreshed = t.reads_table and step % self.refresh_steps == 0
        encoded = self.catalogue if refreshed else FORWARD * own
        trained = LORA * own if t.update else 0
        reads = reads_per_token(t) + (2 * FORWARD if t.measures_kl(step) else 0)
        read_once = FORWARD * (reading_ahead + self._agreement(step, groups))
        rollouts += choice_tokens + further_tokens
        return rollouts + reads * reading + read_once + encoded + trained

    def _agreement(self, step: int, groups: Sequence[Group]) -> int:
        """Tokens that are read for pseudo-targets, and for consistency."""
        t, found = self.training, 0
        if t.unlabelled and t.writes(step):
            found += sum(read(group, self.sharing) for group in groups if not group.labelled)
        if t.consistency:
            found += sum(read(group.pair, self.sharing) for group in groups)
        return found

    def _continued(self, group: Group) -> Group:
        """The group that the reference LM reads, with 0 for each word of the target."""
        assert self.words is not None
        words = {group.target: [0] * self.words[group.target]}
        return continued([group], words=words, answer=self.answer)[0]


def reads_per_token(training: TrainingConfig) -> int:
    """Forward-equivalents of each token that the policy reads in a step."""
    own = LORA if training.update else FORWARD
    more = [training.live_tokens and training.reads_table, training.reads_start]
    return own + FORWARD * sum(more)


def refresh_steps(
    training: TrainingConfig,
    *,
    items: Sequence[int],
    prompts: Sequence[int],
    answer: int,
    sharing: Sharing | None,
) -> int:
    """Steps between two tables of the catalogue; what `item_refresh_steps: auto` stands for.

    The smallest n with C / n <= S / 3, rounded down to a divisor of `checkpoint_steps`. C are the
    tokens of the catalogue. S is what a step costs without items if the engines write nothing: so
    without the rounding, encoding is at most a quarter of C / n + S. It is 1 where a step reads no
    table, and for `item_candidates: catalogue`.

    Args:
        items: (V,) tokens of each item.
        prompts: tokens of some typical prompts, at least one; S takes their mean cost.
        answer: tokens of the answer marker, with which each rollout ends.
        sharing: how the policy reads groups (`Sharing.of`).
    """
    t = training
    if t.item_refresh_steps != "auto":
        return t.item_refresh_steps
    if not t.reads_table or t.item_candidates == "catalogue":
        return 1
    cost = 0
    for prompt in prompts:
        group = Group([0] * prompt, [[0] * answer] * t.rollouts_per_prompt, [], [], target=0)
        cost += rolled_out(prompt, []) + reads_per_token(t) * read(group, sharing)
    catalogue = FORWARD * sum(items)
    # In whole numbers, n = ceil(3 C / S) with S = prompts_per_step x cost / number of prompts.
    most = -(-3 * catalogue * len(prompts) // (t.prompts_per_step * cost))
    divisors = [n for n in range(1, t.checkpoint_steps + 1) if t.checkpoint_steps % n == 0]
    return max(n for n in divisors if n <= max(1, most))
