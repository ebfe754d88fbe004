"""Estimates the GPU memory of the processes of a run, in bytes; loads no torch.

Models are decoders with grouped-query attention and a gated MLP, such as Qwen2, Llama and Gemma.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirec.model.gguf import read_header
from minirec.model.sharing import ARCHITECTURES, Sharing

if TYPE_CHECKING:
    from minirec.config.model import DemoModelConfig, ModelConfig

SEQUENCES = 256
"""Largest number of sequences that vLLM decodes at once (its max_num_seqs)."""
CONTEXT = 2**30
"""Memory for CUDA, kernels and fragmentation in each process."""
LOGITS_BYTES = 2**27
"""As in `minirec.model.logprobs`, which loads torch."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, named as in its config.json."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    qkv_bias: bool = False
    norms: int = 2
    shares: bool = True  # whether training may pack a prompt with its rollouts
    eager: bool = False  # whether attention keeps its scores, see `minirec.model.loading.attention`

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the linear layers of a block: q, k, v, o, gate, up, down."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        mlp = [(h, self.intermediate)] * 2 + [(self.intermediate, h)]
        return [(h, q), (h, kv), (h, kv), (q, h), *mlp]

    @property
    def parameters(self) -> int:
        """Number of weights; tied embeddings count once."""
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        block = sum(i * o for i, o in self.matrices) + bias + self.norms * self.hidden
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * block + tables + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Number of LoRA weights on all linear layers of the blocks."""
        return self.layers * rank * sum(i + o for i, o in self.matrices)

    def kv_bytes(self, width: int) -> int:
        """Key-value cache of one token; `width` is bytes per number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * width

    def activation_bytes(self, width: int, *, row: int = 0) -> int:
        """Activations of one token that backward needs, without checkpointing.

        The coefficients match the tensors that autograd saves for Qwen2 (two norms in a layer) and
        Gemma 2 (four) with LoRA on all linear layers; a test counts these.

        Args:
            width: bytes per number.
            row: tokens of the row that the token is in. Eager attention keeps three values for each
                pair of tokens: the capped score, its softmax in float32, and that in the dtype.
        """
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        numbers = 4 * self.intermediate + 2 * kv + 2 * q + (2 + 2 * self.norms) * self.hidden
        pairs = self.heads * row * (2 * width + 4) if self.eager else 0
        return self.layers * (numbers * width + pairs)


KNOWN = {
    "Qwen/Qwen2.5-0.5B-Instruct": ModelShape(24, 896, 14, 2, 64, 4864, 151_936, qkv_bias=True),
    "Qwen/Qwen2.5-3B-Instruct": ModelShape(36, 2048, 16, 2, 128, 11_008, 151_936, qkv_bias=True),
    "google/gemma-2-2b-it": ModelShape(
        26, 2304, 8, 4, 256, 9216, 256_000, norms=4, shares=False, eager=True
    ),
}
"""Shapes of the models of configs/, for machines that have not downloaded them."""

GPUS = {"H200": 140, "H100": 79.5, "A100-80": 80, "L40S": 45, "A10G": 22.5, "L4": 22.5}
"""Memory in GiB as nvidia-smi shows it; for names with several models, that of the SXM module."""


def gpu_named(text: str) -> str | None:
    """The key of `GPUS` for a product name such as ``NVIDIA A100-SXM4-80GB``, or None."""
    if "A100" in text:
        return "A100-80" if "80" in text.replace("A100", "") else None
    words = text.replace("-", " ").split()
    return next((name for name in GPUS if name in words), None)


def shape_of(model: str) -> ModelShape | None:
    """The shape of a model in a folder or GGUF file, in the hub's cache or in `KNOWN`; else None.

    Raises:
        ConfigError: the GGUF file is missing, damaged or cannot be converted.
    """
    if model.lower().endswith(".gguf"):
        return read_shape(read_header(model).config())
    local = Path(model) / "config.json"
    if not local.exists():
        from huggingface_hub import try_to_load_from_cache

        cached = None if Path(model).is_absolute() else try_to_load_from_cache(model, "config.json")
        if not isinstance(cached, str):
            return KNOWN.get(model)
        local = Path(cached)
    return read_shape(json.loads(local.read_text(encoding="utf-8")))


def local_shape(model: ModelConfig) -> ModelShape | None:
    """The shape of the demo model or of a model in a folder or GGUF file; None for a hub name.

    For a GGUF file it is read from the file, so it is the same before and after the conversion.
    """
    if model.name == "demo":
        return demo_shape(model.demo)
    return shape_of(model.name) if model.gguf or Path(model.name).is_dir() else None


def demo_shape(demo: DemoModelConfig) -> ModelShape:
    """The shape of the model that `minirec.model.demo` builds, with at most `vocabulary` tokens."""
    size, heads = demo.hidden_size, demo.heads
    head = size // heads
    return ModelShape(
        demo.layers, size, heads, heads, head, 2 * size, demo.vocabulary, qkv_bias=True
    )


def read_shape(config: dict[str, Any]) -> ModelShape | None:
    """The shape in a config.json; None for an unknown architecture."""
    kind = config.get("model_type")
    if kind not in ("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2"):
        return None
    heads = config["num_attention_heads"]
    return ModelShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", kind.startswith("gemma")),
        qkv_bias=kind == "qwen2",
        norms=4 if kind == "gemma2" else 2,
        shares=kind in ARCHITECTURES,
        eager=kind == "gemma2" and config.get("attn_logit_softcapping", 50.0) is not None,
    )


def engine_memory(
    shape: ModelShape, *, width: int, gpus: int, sequences: int, length: int, batched_tokens: int
) -> dict[str, float]:
    """Bytes that an engine needs on each of its GPUs, by part.

    Args:
        width: bytes per number, 2 for bfloat16.
        gpus: tensor-parallel GPUs; a share of a GPU counts as 1.
        sequences: rollouts at the same time; at most `SEQUENCES` have a cache.
        length: tokens of prompt and completion.
        batched_tokens: tokens of the largest prefill, for which vLLM reserves memory.
    """
    cache = min(sequences, SEQUENCES) * length * shape.kv_bytes(width)
    forward = batched_tokens * (2 * shape.intermediate + 4 * shape.hidden) * width
    return {
        "weights": shape.parameters * width / gpus,
        "KV cache": cache / gpus,
        "prefill": forward / gpus,
        "CUDA": CONTEXT,
    }


def trainer_memory(
    shape: ModelShape,
    *,
    width: int,
    rank: int,
    workers: int,
    zero_stage: int,
    prompts: int,
    rollouts: int,
    prompt: int,
    completion: int,
    items_at_once: int,
    item: int,
    items: int,
    checkpointing: bool = False,
) -> dict[str, float]:
    """Bytes that a training worker needs on its GPU, by part.

    ZeRO splits the optimizer's states (from stage 1), gradients (2) and weights (3) among the
    workers. LoRA weights, their gradients and Adam's two states are float32. Logits take 12 bytes
    for each completion token and word of the vocabulary: log-softmax, its gradient and one copy, in
    float32; they are computed in chunks of `LOGITS_BYTES`.

    Args:
        prompts: prompts of a micro-batch, with `rollouts` each.
        prompt, completion, item: their tokens.
        items_at_once: items in one backward pass at the end of a step.
        items: size of the catalogue.
        checkpointing: the backward pass computes the activations of a block again; only the inputs
            of the blocks are kept.
    """
    lora = shape.lora_parameters(rank)
    tokens = group_tokens(shape, rollouts=rollouts, prompt=prompt, completion=completion)
    activations: float = shape.activation_bytes(width, row=prompt + completion)
    if checkpointing:
        activations = activations / shape.layers + shape.layers * shape.hidden * width
    losses = prompts * tokens * activations
    if tokens < rollouts * (prompt + completion):
        losses += prompts * tokens**2 * width  # the mask of packed rows
    logits = 12 * prompts * rollouts * completion * shape.vocabulary
    losses += min(logits, 3 * LOGITS_BYTES)
    kept = "checkpointed activations and logits" if checkpointing else "activations and logits"
    return {
        "weights": shape.parameters * width / (workers if zero_stage == 3 else 1),
        "LoRA and optimizer": lora * 4
        + lora * 4 / (workers if zero_stage >= 2 else 1)
        + lora * 8 / (workers if zero_stage >= 1 else 1),
        kept: max(losses, items_at_once * item * activations),
        "item table": items * shape.hidden * 4,
        "CUDA": CONTEXT,
    }


def scorer_memory(shape: ModelShape, *, width: int, tokens: int, items: int) -> dict[str, float]:
    """Bytes that a scorer needs: weights, one forward of `tokens`, and the item table."""
    return {
        "weights": shape.parameters * width,
        "forward": tokens * (3 * shape.intermediate + 6 * shape.hidden) * width,
        "item table": items * shape.hidden * 4,
        "CUDA": CONTEXT,
    }


def group_tokens(shape: ModelShape, *, rollouts: int, prompt: int, completion: int) -> int:
    """Tokens that training reads for a prompt and its rollouts.

    If `Sharing` packs them, the prompt counts once, else once for each rollout.
    """
    apart = rollouts * (prompt + completion)
    if not shape.shares:
        return apart
    weights = sum(i * o for i, o in shape.matrices)
    rule = Sharing(weights / (2 * shape.heads * shape.head_dim))
    packs = rule.saves([(prompt, [completion] * rollouts)])
    return prompt + rollouts * completion if packs else apart
