"""FLOPs against hand-computed cases, and against the products that torch runs."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from minirec.resources import flops
from minirec.resources.estimates import ModelShape, read_shape
from minirec.resources.flops import Pass

# One layer, 2 heads of 2, 1 key-value head, 8 words. Weights of q, k, v, o, gate, up, down: 16, 8,
# 8, 16, 24, 24, 24, in all 120; in + out: 8, 6, 6, 8, 10, 10, 10, in all 58.
TINY = ModelShape(1, 4, 2, 1, 2, 6, 8)


def test_passes_by_hand():
    assert flops.sequences([3, 1]) == Pass(4, 6 + 1)
    # 2 prompt tokens: 1 + 2 pairs. Completions of 1 and 2: 2 + 1, and 2 + 2 + 1 + 2.
    assert flops.group(2, [1, 2]) == Pass(5, 3 + 3 + 7, 3)
    # The engine reads 2 + 0 + 1 tokens and computes 3 distributions.
    assert flops.rollouts(2, [1, 2]) == Pass(3, 3 + 0 + 3, 3)
    assert flops.sequences([2]) + flops.group(1, [1]) == Pass(4, 6, 1)


def test_a_forward_pass_by_hand():
    work = Pass(tokens=5, pairs=7, logits=3)
    # 5 tokens x 120 weights, 7 pairs x 4 numbers x 2 products, 3 states x 4 x 8 words.
    assert flops.forward(TINY, work) == 2 * 5 * 120 + 4 * 7 * 4 + 2 * 3 * 32
    assert flops.forward(TINY, work, rank=3) == 2 * 5 * (120 + 3 * 58) + 4 * 7 * 4 + 2 * 3 * 32


def test_a_backward_pass_by_hand():
    work = Pass(tokens=5, pairs=7, logits=3)
    # Without the gradient of the first inputs of q, k and v: 32 weights, 3 x 4 x 3 of LoRA.
    linear, lora = 2 * 5 * (120 - 32), 2 * 5 * (2 * 3 * 58 - 36)
    assert flops.backward(TINY, work, rank=3) == linear + lora + 8 * 7 * 4 + 2 * 3 * 32


def test_merging_by_hand():
    assert flops.merging(TINY, rank=3) == 2 * 3 * 120


@pytest.mark.parametrize("rank", [2, 8])
def test_the_arithmetic_counts_what_torch_multiplies(rank):
    """Eager attention computes all pairs of a row, so all are given to the arithmetic."""
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    shape = read_shape(config.to_dict())
    lora = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    lm = get_peft_model(LlamaForCausalLM(config), lora)
    rows, width, kept = 2, 24, 5
    work = Pass(rows * width, rows * width * width, rows * kept)
    with FlopCounterMode(display=False) as counter:
        found = lm(torch.randint(96, (rows, width)), logits_to_keep=kept, use_cache=False)
        ahead = counter.get_total_flops()
        found.logits.logsumexp(-1).sum().backward()
    assert flops.forward(shape, work, rank=rank) == ahead
    assert flops.backward(shape, work, rank=rank) == counter.get_total_flops() - ahead
