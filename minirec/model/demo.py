"""The demo model: a tiny Qwen2 and its tokenizer, made from the corpus without a download.

The warm-up is next-token training on prompts, templated analyses and item texts. It teaches the
form of an answer. Reinforcement learning teaches which item follows a history.

Matching (``model.demo.warmup_match``) adds two abilities of a pretrained model: to connect a text
with the things that it names, and to repeat a word. The vector of an analysis is pulled towards the
text of an item in its prompt (InfoNCE, arXiv 1807.03748). Analyses use only words of the prompt,
with the same spelling, and have most of the weight in the next-token loss. These prompts list
random items, as many as a history has, so the model learns nothing about which items users choose
together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.config.model import ModelConfig
from minirec.corpus import prompts
from minirec.model.recommender import Encoder, Policy, pad

END = "<|endoftext|>"
MATCH_ITEMS = 128
"""Random items in a matching step, besides the items that its prompts name."""
ANSWER_WEIGHT = 0.9
"""Weight of the answer tokens in the next-token loss of a matching step. The rest is the weight of
all tokens, including the answers."""


def build(
    folder: Path,
    *,
    histories: Sequence[Sequence[int]],
    items: Sequence[tuple[str, str]],
    config: ModelConfig,
    category: str,
    seed: int,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> None:
    """Train the tokenizer and the model, and save both to `folder` (safetensors).

    Args:
        histories: positions in `items` of each training history, oldest first.
        items: title and text of each catalogue item.
        progress: called with (step, steps, loss).
    """
    tokenizer = _tokenizer([[items[i][0] for i in h] for h in histories[:5000]], items, config)
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
    texts += [prompts.plain([prompts.neutralise(t) for t in titles]) for titles in histories]
    written = bool(config.demo.warmup_match)
    texts += [prompts.analysis(titles, rng=rng, as_written=written) for titles in histories]
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
    histories: Sequence[Sequence[int]],
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
    policy = Policy(model, pad_id=encoder.tokenizer.pad_token_id)
    model.train()
    for step in range(demo.warmup_steps):
        batch = [_text(encoder, histories, items, rng) for _ in range(demo.warmup_batch)]
        ids, mask = pad([text.ids for text in batch], policy.pad_id)
        if demo.warmup_match and any(text.named for text in batch):
            out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            vectors = out.hidden_states[-1][torch.arange(len(batch)), mask.sum(1) - 1]
            match = _match_loss(policy, encoder, vectors, [t.named for t in batch], items, rng)
            loss = _next_token_loss(out.logits, ids, mask, batch) + demo.warmup_match * match
        else:
            labels = ids.masked_fill(mask == 0, -100)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step + 1, demo.warmup_steps, float(loss.detach()))
    model.eval()


@dataclass(frozen=True)
class _Text:
    """Token ids, the items that the prompt names, and the number of answer tokens at the end.

    The text of an item names no items and has no answer.
    """

    ids: list[int]
    named: Sequence[int] = ()
    answer: int = 0


def _text(
    encoder: Encoder,
    histories: Sequence[Sequence[int]],
    items: Sequence[tuple[str, str]],
    rng: random.Random,
) -> _Text:
    if not histories or rng.random() < 0.25:
        return _Text(encoder.item(*rng.choice(items)))
    named = rng.choice(histories)
    if encoder.config.demo.warmup_match:
        named = rng.sample(range(len(items)), min(len(named), len(items)))
    prompt, answer, shown = templated(encoder, [items[i][0] for i in named], rng=rng)
    return _Text(prompt + answer, named[-shown:], len(answer))


def templated(
    encoder: Encoder, titles: Sequence[str], *, rng: random.Random
) -> tuple[list[int], list[int], int]:
    """Token ids of a history's prompt and of a templated answer, and the number of titles shown.

    With matching, the analysis has only words of the shown titles, with the same spelling.
    """
    shown, prompt = encoder.fitting(titles)
    match = bool(encoder.config.demo.warmup_match)
    analysis = prompts.analysis(shown if match else titles, rng=rng, as_written=match).rstrip()
    ids = encoder.tokenizer.encode(analysis, add_special_tokens=False)
    return prompt, list(ids) + encoder.answer_ids, len(shown)


def _next_token_loss(logits: Tensor, ids: Tensor, mask: Tensor, batch: Sequence[_Text]) -> Tensor:
    """Weighted mean of the losses of all tokens and of the answer tokens; there is 1 or more.

    Logits are (B, L, vocabulary); ids and mask are (B, L), padded on the right.
    """
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    place = torch.arange(1, ids.shape[1])
    length = mask.sum(1, keepdim=True)
    answered = torch.tensor([text.answer for text in batch])[:, None]
    answer = (place >= length - answered) & (place < length)
    every, answers = each[mask[:, 1:] > 0].mean(), each[answer].mean()
    return (1 - ANSWER_WEIGHT) * every + ANSWER_WEIGHT * answers


def _match_loss(
    policy: Policy,
    encoder: Encoder,
    vectors: Tensor,
    about: Sequence[Sequence[int]],
    items: Sequence[tuple[str, str]],
    rng: random.Random,
) -> Tensor:
    """Mean InfoNCE of text vectors (B, d) against item vectors, at the policy's temperature.

    The positive is one of the items that a text is `about`, more likely a late one. The others are
    not negatives. Texts about no item are skipped.
    """
    rows = [row for row, history in enumerate(about) if history]
    named = [
        rng.choices(about[row], weights=[1 / age for age in range(len(about[row]), 0, -1)])[0]
        for row in rows
    ]
    others = rng.sample(range(len(items)), min(MATCH_ITEMS, len(items)))
    candidates = list(dict.fromkeys(named + others))
    table = F.normalize(policy([encoder.item(*items[i]) for i in candidates])[0], dim=-1)
    scores = F.normalize(vectors[rows], dim=-1) @ table.T / encoder.config.temperature
    column = {item: at for at, item in enumerate(candidates)}
    known = torch.zeros_like(scores, dtype=torch.bool)
    for i, (row, item) in enumerate(zip(rows, named, strict=True)):
        known[i, [column[other] for other in {*about[row]} - {item} if other in column]] = True
    positives = torch.tensor([column[item] for item in named])
    return F.cross_entropy(scores.masked_fill(known, -torch.inf), positives)
