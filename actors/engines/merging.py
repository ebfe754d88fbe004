"""Adds a peft LoRA adapter to the weights of its base model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirec.errors import EngineError

if TYPE_CHECKING:
    import torch


def base_weights(model: str) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name; `model` is a folder or a hub name."""
    from huggingface_hub import snapshot_download
    from safetensors.torch import load_file

    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json"]))
    names = {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(names):
        weights |= load_file(folder / name)
    config = json.loads((folder / "config.json").read_text())
    # vLLM needs the head, which a checkpoint with tied weights does not contain.
    embedding = weights.get("model.embed_tokens.weight")
    if config.get("tie_word_embeddings") and embedding is not None:
        weights.setdefault("lm_head.weight", embedding)
    return weights


def lora_updates(path: str) -> dict[str, torch.Tensor]:
    """``(alpha / r) B A`` in float32 of a peft folder, by the name of the changed weight.

    Raises:
        EngineError: the folder has no LoRA of linear layers, or it cannot be merged.
    """
    from safetensors.torch import load_file

    folder = Path(path)
    if not (folder / "adapter_model.safetensors").exists():
        raise EngineError(f"adapter {path} has no adapter_model.safetensors; publish it first")
    # Importing peft would take an engine several seconds.
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("use_dora") or config.get("modules_to_save") or config["bias"] != "none":
        raise EngineError(
            f"adapter {path} has DoRA, bias or whole modules, which cannot be merged; "
            "set rollout.adapter=lora"
        )
    patterns = config.get("alpha_pattern") or {}
    tensors = load_file(folder / "adapter_model.safetensors")
    updates = {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        b = tensors[f"{module}.lora_B.weight"]
        module = module.removeprefix("base_model.model.")
        own = [alpha for name, alpha in patterns.items() if re.match(rf"(.*\.)?({name})$", module)]
        alpha, rank = (own or [config["lora_alpha"]])[0], a.shape[0]
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        update = scale * (b.float() @ a.float())
        updates[f"{module}.weight"] = update.T if config.get("fan_in_fan_out") else update
    if not updates:
        raise EngineError(f"adapter {path} has no LoRA matrices of linear layers")
    return updates


def merged_weights(
    base: dict[str, torch.Tensor], updates: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight of `base` plus its update, added in float32 and rounded once."""
    for name, weight in base.items():
        if name in updates:
            weight = (weight.float() + updates[name].to(weight.device)).to(weight.dtype)
        yield name, weight


def check_targets(updates: dict[str, Any], weights: dict[str, Any]) -> None:
    """Raise EngineError if an update has no weight."""
    missing = sorted(updates.keys() - weights.keys())
    if missing:
        raise EngineError(
            f"the adapter changes {missing[0]} ({len(missing)} such weights), which the model's "
            "checkpoint does not contain; set rollout.adapter=lora"
        )
