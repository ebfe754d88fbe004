"""Random models of known shapes, with a tokenizer of numbered words; used by other benchmarks."""

from __future__ import annotations

import json
import random
from pathlib import Path

from minirec.resources.estimates import KNOWN, ModelShape

SMOLLM2_135M = ModelShape(30, 576, 9, 3, 64, 1536, 49_152)
QWEN2_5_05B = KNOWN["Qwen/Qwen2.5-0.5B-Instruct"]
TINY = ModelShape(2, 64, 2, 2, 32, 128, 600)
TINY_QWEN = ModelShape(2, 64, 2, 2, 32, 128, 600, qkv_bias=True)

END, ANSWER, RESERVED = "<end>", "<answer>", 2
"""The end of a rollout and the answer marker are the first words; the others are w2, w3, ..."""


def build(folder: Path, shape: ModelShape, *, dtype: str = "float32", seed: int = 0) -> str:
    """Write a model with random weights and its tokenizer; returns the folder.

    A shape with biases of q, k and v becomes a Qwen2, another one a Llama. The weights have the
    deviation 0.02 of transformers, so that all words are about equally likely.
    """
    import torch
    import transformers

    kind = "Qwen2" if shape.qkv_bias else "Llama"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    lm = getattr(transformers, f"{kind}ForCausalLM")(config)
    lm.to(getattr(torch, dtype)).save_pretrained(folder)
    _tokenizer(folder, shape.vocabulary)
    return str(folder)


def _tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [END, ANSWER] + [f"w{number}" for number in range(RESERVED, vocabulary)]
    model = models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=END)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    ).save_pretrained(folder)


def shape_in(folder: str) -> ModelShape:
    """The shape of the model in a folder.

    Raises:
        SystemExit: there is none, or of an unknown architecture.
    """
    from minirec.resources.estimates import read_shape

    path = Path(folder) / "config.json"
    shape = read_shape(json.loads(path.read_text())) if path.exists() else None
    if shape is None:
        raise SystemExit(f"{folder} has no model of a known architecture; give --model a folder")
    return shape


def random_tokens(count: int, length: int, *, vocabulary: int, seed: int) -> list[list[int]]:
    """`count` lists of `length` random tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(RESERVED, vocabulary) for _ in range(length)] for _ in range(count)]
