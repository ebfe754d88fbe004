"""Floating-point operations of the policy, by arithmetic from a model's shape and from lengths.

A pass reads a number of tokens, compares a number of query-key pairs, and computes the logits of a
number of states. Forward, a multiplication and an addition are 2 FLOPs:

    linear layers  2 per weight and token, and per LoRA weight and token
    attention      4 per pair and number of a query vector, in each layer (scores, sum of values)
    logits         2 per number of a state and word of the vocabulary

Backward, the frozen weights cost 2 per weight and token once more, for the gradient of their input,
and LoRA weights 4, since they have a gradient themselves. Attention costs 8 per pair and number.
The inputs of the first block need no gradient, because the embedding is frozen. Norms, activation
functions, rotary positions and sampling are left out: they are not matrix products.

This counts the work that the result needs. Padding, a prompt that is read again for each rollout,
masked pairs, and a second forward pass by checkpointing are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minirec.resources.estimates import ModelShape


@dataclass(frozen=True)
class Pass:
    """What a pass of the model reads: tokens, query-key pairs, and states with logits."""

    tokens: int = 0
    pairs: int = 0
    logits: int = 0

    def __add__(self, other: Pass) -> Pass:
        return Pass(
            self.tokens + other.tokens, self.pairs + other.pairs, self.logits + other.logits
        )


def sequences(lengths: Iterable[int]) -> Pass:
    """Separate sequences without logits, such as items. A token sees itself and those before it."""
    lengths = list(lengths)
    return Pass(sum(lengths), sum(map(_causal, lengths)))


def group(prompt: int, completions: Sequence[int]) -> Pass:
    """A prompt, read once, with its completions of these lengths; logits of completion tokens."""
    tokens = sum(completions)
    pairs = _causal(prompt) + sum(prompt * length + _causal(length) for length in completions)
    return Pass(prompt + tokens, pairs, tokens)


def rollouts(prompt: int, written: Sequence[int]) -> Pass:
    """An engine reads a prompt once and writes rollouts of these lengths.

    The last token of a rollout is not read again.
    """
    read = group(prompt, [max(0, length - 1) for length in written])
    return Pass(read.tokens, read.pairs, sum(written))


def _causal(length: int) -> int:
    return length * (length + 1) // 2


def forward(shape: ModelShape, work: Pass, *, rank: int = 0) -> int:
    """FLOPs of a forward pass, with LoRA of this rank on all linear layers (0: none)."""
    weights = sum(i * o for i, o in shape.matrices) * shape.layers
    linear = 2 * work.tokens * (weights + shape.lora_parameters(rank))
    return linear + _attention(shape, work) + _logits(shape, work)


def backward(shape: ModelShape, work: Pass, *, rank: int) -> int:
    """FLOPs of the backward pass of `forward`, where only the LoRA weights have a gradient."""
    weights = sum(i * o for i, o in shape.matrices) * shape.layers
    query, key, value = shape.matrices[:3]
    first = sum(i * o for i, o in (query, key, value))
    first_lora = sum(i * rank for i, _ in (query, key, value))
    linear = 2 * work.tokens * (weights - first)
    lora = 2 * work.tokens * (2 * shape.lora_parameters(rank) - first_lora)
    return linear + lora + 2 * _attention(shape, work) + _logits(shape, work)


def merging(shape: ModelShape, *, rank: int) -> int:
    """FLOPs of the products of LoRA matrices that an engine adds to its weights."""
    return 2 * rank * shape.layers * sum(i * o for i, o in shape.matrices)


def _attention(shape: ModelShape, work: Pass) -> int:
    return 4 * work.pairs * shape.layers * shape.heads * shape.head_dim


def _logits(shape: ModelShape, work: Pass) -> int:
    return 2 * work.logits * shape.hidden * shape.vocabulary
