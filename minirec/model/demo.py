"""The demo model: a tiny Qwen2 and its tokenizer, made from the corpus at hand, with no download.

The warm-up is next-token training on prompts, templated analyses and item texts. It teaches the
form of an answer; which item follows which history is left to reinforcement learning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from minirec.config import ModelConfig
from minirec.corpus import prompts
from minirec.model.recommender import Encoder, pad

END = "<|endoftext|>"


def build(
    folder: Path,
    *,
    histories: Sequence[Sequence[str]],
    items: Sequence[tuple[str, str]],
    config: ModelConfig,
    category: str,
    seed: int,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> None:
    """Train tokenizer and model, save both to `folder` (safetensors).

    Args:
        histories: titles of each training history, oldest first.
        items: title and text of each catalogue item.
        progress: called with (step, steps, loss).
    """
    tokenizer = _tokenizer(histories, items, config)
    encoder = Encoder(tokenizer, config, category=category)
    model = _model(tokenizer, config, seed=seed)
    _warm_up(model, encoder, histories, items, seed=seed, progress=progress)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _tokenizer(
    histories: Sequence[Sequence[str]], items: Sequence[tuple[str, str]], config: ModelConfig
) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.demo.vocabulary,
        special_tokens=[END, prompts.ANSWER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    texts = [prompts.item_text(*map(prompts.neutralise, item)) for item in items]
    texts += [prompts.plain([prompts.neutralise(t) for t in titles]) for titles in histories[:5000]]
    texts += [prompts.analysis(titles, rng=rng) for titles in histories[:5000]]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def _model(tokenizer: Any, config: ModelConfig, *, seed: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    size = config.demo.hidden_size
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=size,
            intermediate_size=2 * size,
            num_hidden_layers=config.demo.layers,
            num_attention_heads=config.demo.heads,
            num_key_value_heads=config.demo.heads,
            max_position_embeddings=config.max_prompt_tokens + 1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _warm_up(
    model: Any,
    encoder: Encoder,
    histories: Sequence[Sequence[str]],
    items: Sequence[tuple[str, str]],
    *,
    seed: int,
    progress: Callable[[int, int, float], None],
) -> None:
    demo = encoder.config.demo
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=demo.warmup_learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=demo.warmup_learning_rate, total_steps=demo.warmup_steps
    )
    pad_id = encoder.tokenizer.pad_token_id
    model.train()
    for step in range(demo.warmup_steps):
        texts = [_text(encoder, histories, items, rng) for _ in range(demo.warmup_batch)]
        ids, mask = pad(texts, pad_id)
        labels = ids.masked_fill(mask == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step + 1, demo.warmup_steps, float(loss.detach()))
    model.eval()


def _text(
    encoder: Encoder,
    histories: Sequence[Sequence[str]],
    items: Sequence[tuple[str, str]],
    rng: random.Random,
) -> list[int]:
    if not histories or rng.random() < 0.25:
        return encoder.item(*rng.choice(items))
    titles = rng.choice(histories)
    said = prompts.analysis(titles, rng=rng)
    ids = encoder.tokenizer.encode(said.rstrip(), add_special_tokens=False)
    return encoder.prompt(titles) + ids + encoder.answer_ids
