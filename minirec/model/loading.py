"""Loads causal LMs, with the attention that their config asks for."""

from __future__ import annotations

from typing import Any, Protocol

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Settings(Protocol):
    """`ModelConfig`, or an engine's settings."""

    @property
    def dtype(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...


def load_lm(path: str, settings: Settings) -> Any:
    """A causal LM from safetensors in a folder or on the hub, in ``settings.dtype``, in eval mode.

    Trainer, scorer and the engine of transformers all load with it, so that they compute the same
    network.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = settings.trust_remote_code
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust)
    return AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=DTYPES[settings.dtype],
        trust_remote_code=trust,
        use_safetensors=True,
        attn_implementation=attention(config),
    )


def attention(config: Any) -> str | None:
    """The attention of transformers for a model; None takes its default.

    Gemma 2 caps the attention scores. The default, SDPA, leaves that out without a warning.
    """
    return "eager" if getattr(config, "attn_logit_softcapping", None) else None
