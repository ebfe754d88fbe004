"""Log-probabilities of tokens, without the logits of all tokens at once.

Logits in float32 of T tokens over a vocabulary of W words take 4 T W bytes, and their gradient as
much again: 3 GB for 4,000 tokens and 200,000 words. Above `LOGITS_BYTES` they are computed in
chunks, and once more in the backward pass, so that only one chunk exists at a time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_BYTES = 2**27
"""Largest size of the logits of a chunk, in float32."""


def token_logprobs(causal: Any, states: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Log-probabilities (T,) float32 of the tokens `targets` (T,) after states (T, d).

    Args:
        causal: a causal LM of transformers, whose head gives the logits.
        temperature: divides the logits.
    """

    def of(part: Tensor, wanted: Tensor) -> Tensor:
        logits = at_least_float32(scaled_logits(causal, part)) / temperature
        return -F.cross_entropy(logits, wanted, reduction="none")

    size = max(1, LOGITS_BYTES // (4 * causal.config.vocab_size))
    if len(targets) <= size:
        return of(states, targets)
    chunks = zip(states.split(size), targets.split(size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([of(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(of, *chunk, use_reentrant=False) for chunk in chunks])


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def scaled_logits(causal: Any, states: Tensor) -> Tensor:
    """Logits of these states, scaled as in the model's own forward.

    Depending on the config, Gemma caps, Cohere multiplies and Granite divides them.
    """
    logits, config = causal.lm_head(states), causal.config
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits
