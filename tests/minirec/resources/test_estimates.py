"""Estimates against published counts, hand-computed cases and the tensors that autograd saves."""

import dataclasses
import json
import subprocess
import sys

import pytest
from helpers.saved import saved_bytes

from minirec.config.model import DemoModelConfig, ModelConfig
from minirec.model import demo, logprobs
from minirec.resources import estimates
from minirec.resources.estimates import GPUS, KNOWN, ModelShape, demo_shape

# One layer, 2 heads of 2, 1 key-value head, 8 words.
TINY = ModelShape(1, 4, 2, 1, 2, 6, 8)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("google/gemma-2-2b-it", 2_614_341_888),
    ],
)
def test_parameters_are_those_published(name, parameters):
    assert KNOWN[name].parameters == parameters


def test_the_demo_model_has_the_size_that_its_settings_say():
    config = ModelConfig(demo=DemoModelConfig(vocabulary=300, hidden_size=48, heads=2, layers=3))

    class Tokenizer:
        eos_token_id = 0

        def __len__(self):
            return 300

    built = demo._model(Tokenizer(), config, seed=0)
    assert demo_shape(config.demo).parameters == sum(p.numel() for p in built.parameters())


def test_a_tiny_model_by_hand():
    # q 16, k 8, v 8, o 16, gate 24, up 24, down 24; two norms of 4; 8 x 4 words; a last norm of 4.
    assert TINY.parameters == 120 + 8 + 32 + 4
    # in + out of the seven: 8, 6, 6, 8, 10, 10, 10.
    assert TINY.lora_parameters(3) == 3 * 58
    assert TINY.kv_bytes(2) == 2 * 1 * 2 * 2


def test_zero_divides_what_it_divides():
    def parts(stage, workers=4, rollouts=1, prompt=3, completion=5):
        return estimates.trainer_memory(
            TINY,
            width=2,
            rank=1,
            workers=workers,
            zero_stage=stage,
            prompts=2,
            rollouts=rollouts,
            prompt=prompt,
            completion=completion,
            items_at_once=1,
            item=2,
            items=10,
        )

    # 164 weights of 2 bytes; 58 LoRA weights: 4 bytes, gradient 4, states 8.
    assert [parts(s)["weights"] for s in range(4)] == [328, 328, 328, 82]
    assert [parts(s)["LoRA and optimizer"] for s in range(4)] == [
        58 * 16,
        58 * (8 + 2),
        58 * (4 + 1 + 2),
        58 * (4 + 1 + 2),
    ]
    # 2 x 8 tokens of (24 + 4 + 8 + 24) numbers of 2 bytes; logits of 2 x 5 tokens, 8 words.
    assert parts(0)["activations and logits"] == 16 * 60 * 2 + 10 * 8 * 12
    assert parts(0)["item table"] == 10 * 4 * 4
    assert parts(0, workers=1) == parts(0)
    # Packed, 4 + 3 x 2 tokens in a row, whose mask has 10 x 10 numbers; logits of 6 tokens.
    packed = parts(0, rollouts=3, prompt=4, completion=2)["activations and logits"]
    assert packed == 2 * (10 * 60 * 2 + 100 * 2 + 6 * 8 * 12)


def test_logits_and_activations_that_are_not_kept():
    """Logits of a large vocabulary exist in chunks; checkpointing keeps the inputs of blocks."""
    shape = ModelShape(3, 4, 2, 1, 2, 6, 10**6)
    sizes = {"prompts": 1, "rollouts": 1, "prompt": 3, "completion": 50, "items": 10, "item": 2}
    fixed = {"width": 2, "rank": 1, "workers": 1, "zero_stage": 0, "items_at_once": 1}

    def kept(checkpointing):
        found = estimates.trainer_memory(shape, **sizes, **fixed, checkpointing=checkpointing)
        return next(size for name, size in found.items() if "activations and logits" in name)

    assert estimates.LOGITS_BYTES == logprobs.LOGITS_BYTES
    chunk = 3 * 2**27  # less than 12 bytes x 50 tokens x 1,000,000 words
    assert kept(False) == 53 * 3 * 60 * 2 + chunk
    assert kept(True) == 53 * (60 * 2 + 3 * 4 * 2) + chunk


def test_an_engine_by_hand():
    parts = estimates.engine_memory(
        TINY, width=2, gpus=2, sequences=1000, length=10, batched_tokens=100
    )
    assert parts["weights"] == 164
    assert parts["KV cache"] == 256 * 10 * 8 / 2  # vLLM decodes at most 256 at once
    assert parts["prefill"] == 100 * (12 + 16) * 2 / 2


def test_a_prompt_is_read_once_where_training_packs_it():
    # A token costs 120 / (2 x 4) = 15 pairs. Packed: 4 + 3 x 2 = 10 tokens x (15 + 10) pairs;
    # apart: 3 x 6 tokens x (15 + 6).
    assert estimates.group_tokens(TINY, rollouts=3, prompt=4, completion=2) == 10
    # Packed: 1 + 3 x 9 = 28 x (15 + 28); apart: 3 x 10 x (15 + 10), which is less.
    assert estimates.group_tokens(TINY, rollouts=3, prompt=1, completion=9) == 30
    apart = dataclasses.replace(TINY, shares=False)
    assert estimates.group_tokens(apart, rollouts=3, prompt=4, completion=2) == 18


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", None),
    ],
)
def test_gpus_by_product_name(text, name):
    assert estimates.gpu_named(text) == name
    assert name is None or name in GPUS


def test_the_shape_is_read_from_a_folder(tmp_path):
    found = {
        "model_type": "qwen2",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 32,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(found))
    shape = ModelShape(2, 8, 4, 2, 2, 16, 32, tied=False, qkv_bias=True)
    assert estimates.shape_of(str(tmp_path)) == shape
    assert estimates.read_shape(found | {"model_type": "mamba"}) is None
    assert not estimates.read_shape(found | {"model_type": "mistral"}).shares


def test_an_unknown_model_has_no_shape(tmp_path):
    assert estimates.shape_of(str(tmp_path / "none")) is None
    assert estimates.shape_of("Qwen/Qwen2.5-3B-Instruct").layers == 36


@pytest.mark.parametrize("family", ["Qwen2", "Gemma2"])
def test_parameters_and_activations_are_those_of_transformers(family):
    """The weights of a small model, and the bytes that autograd saves for backward."""
    import transformers
    from peft import LoraConfig, get_peft_model

    from minirec.model.recommender import Policy

    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    config = getattr(transformers, f"{family}Config")(
        **sizes, **heads, vocab_size=64, tie_word_embeddings=True
    )
    shape = estimates.read_shape(config.to_dict())
    lm = getattr(transformers, f"{family}ForCausalLM")(config)
    assert shape.parameters == sum(p.numel() for p in lm.parameters())
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    lm = get_peft_model(lm, lora).bfloat16()
    trained = sum(p.numel() for p in lm.parameters() if p.requires_grad)
    assert shape.lora_parameters(8) == trained
    policy = Policy(lm, pad_id=0)
    measured = saved_bytes(lambda: policy([[1] * 128] * 2), policy)
    assert 2 * 128 * shape.activation_bytes(2) == pytest.approx(measured, rel=0.15)


def test_loads_no_torch():
    code = (
        "import sys, minirec.resources.estimates as c; c.shape_of('a/b'); "
        "print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.strip() == "False"
