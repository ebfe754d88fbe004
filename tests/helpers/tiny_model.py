"""A Qwen2 of a few thousand parameters with its tokenizer, and adapters for it."""

import functools
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from actors.engines.engine import Adapter

VOCABULARY = 300
RANK, ALPHA = 4, 8.0

torch.set_num_threads(1)  # several collapse where tests run side by side


def build_model(folder: Path) -> str:
    """Random weights, head dimension 32 (vLLM's CPU kernels want 32 or 64)."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = byte_level, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<answer>"],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the user likes blue pens, red paper and a desk"] * 9, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def build_adapter(model: str, folder: Path, seed: int) -> Adapter:
    """A LoRA with both matrices random, strong enough to change every completion."""
    torch.manual_seed(seed)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(Qwen2ForCausalLM.from_pretrained(model), lora)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    policy.save_pretrained(folder)
    return Adapter(str(folder))


def prompts(count: int, length: int) -> list[list[int]]:
    """Token ids without the two that end a rollout; no two prompts share a prefix block."""
    drawn = torch.randint(2, VOCABULARY, (count, length), generator=torch.manual_seed(1))
    return drawn.tolist()


@functools.cache
def policy(model: str, adapter: Adapter | None) -> torch.nn.Module:
    """The model with peft's own, unmerged LoRA."""
    base = Qwen2ForCausalLM.from_pretrained(model)
    return (PeftModel.from_pretrained(base, adapter.path) if adapter else base).eval()


def teacher_forced(
    model: str, adapter: Adapter | None, prompt: list[int], tokens: list[int], temperature: float
) -> list[float]:
    """Logprobs of `tokens` after `prompt` by one transformers forward."""
    with torch.inference_mode():
        logits = policy(model, adapter)(torch.tensor([prompt + tokens])).logits[0]
    logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1].float() / temperature, -1)
    return logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
