"""Seconds of projected per-sample LoRA gradients, a plain backward, and one backward per sample.

.venv/bin/python benchmarks/selection_lora.py

The model has the size of the demo model; weights, tokens and rewards are random.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from minirec.config.model import DemoModelConfig, ModelConfig
from minirec.model.recommender import Policy
from minirec.rl.group import Group
from minirec.selection.lora_gradients import SampleLoss, blocks, gradients
from minirec.selection.projection import Projector, lora_matrices

SAMPLES, ROLLOUTS, PROMPT, COMPLETION = 256, 4, 100, 10
ITEMS, VOCABULARY, MICRO_BATCH, DIM = 300, 1500, 8, 4096


def policy() -> Policy:
    """Random weights in the shape of the demo model, a LoRA with both matrices random."""
    torch.manual_seed(0)
    config, demo = ModelConfig(), DemoModelConfig()
    lm = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=demo.hidden_size,
            intermediate_size=2 * demo.hidden_size,
            num_hidden_layers=demo.layers,
            num_attention_heads=demo.heads,
            num_key_value_heads=demo.heads,
            tie_word_embeddings=True,
        )
    )
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=config.lora_targets
    )
    model = get_peft_model(lm, lora)
    for matrix in lora_matrices(model).values():
        torch.nn.init.normal_(matrix.weight, std=0.02)
    return Policy(model, pad_id=0)


def groups() -> list[Group]:
    """Live groups of about PROMPT and COMPLETION tokens."""
    draw = torch.Generator().manual_seed(1)

    def tokens(mean: int) -> list[int]:
        length = int(torch.randint(mean * 4 // 5, mean * 6 // 5 + 1, (), generator=draw))
        return torch.randint(2, VOCABULARY, (length,), generator=draw).tolist()

    found = []
    for number in range(SAMPLES):
        completions = [tokens(COMPLETION) for _ in range(ROLLOUTS)]
        found.append(
            Group(
                prompt=tokens(PROMPT),
                completions=completions,
                written=[len(c) for c in completions],
                rewards=torch.rand(ROLLOUTS, generator=draw).tolist(),
                excluded=[number % ITEMS],
                target=(number + 1) % ITEMS,
            )
        )
    return found


def measure(repeats: int = 5) -> dict[str, float]:
    """Median seconds for the same samples, and what follows from them.

    plain: one backward for each micro-batch with gradients of the LoRA weights. one by one: the
    same for each sample. projected: what `minirec score` does. "shared": the prompt of a group is
    read once, not once for each rollout. One by one is repeated at most three times.
    """
    model, samples = policy(), groups()
    draw = torch.Generator().manual_seed(2)
    table = torch.randn(ITEMS, DemoModelConfig().hidden_size, generator=draw)
    loss = SampleLoss(torch.nn.functional.normalize(table, dim=-1), 0.02, 1e-3, True)
    projector = Projector(model, dim=DIM, seed=0)

    def weights(needed: bool) -> None:
        for matrix in projector.matrices:
            matrix.module.weight.requires_grad_(needed)

    def plain(micro_batch: int, shared: bool) -> None:
        weights(True)
        for rows in blocks(samples, loss=loss, micro_batch=micro_batch):
            model.zero_grad(set_to_none=True)
            model.packs = lambda _: shared
            loss(model, [samples[i] for i in rows]).backward()

    def projected(shared: bool) -> None:
        weights(False)
        model.packs = lambda _: shared
        gradients(model, projector, samples, loss=loss, micro_batch=MICRO_BATCH)

    runs: dict[str, Callable[[], None]] = {
        "plain": lambda: plain(MICRO_BATCH, False),
        "projected": lambda: projected(False),
        "one by one": lambda: plain(1, False),
        "plain, shared": lambda: plain(MICRO_BATCH, True),
        "projected, shared": lambda: projected(True),
        "one by one, shared": lambda: plain(1, True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(-1, repeats):  # the first pass is slower
        for name, run in runs.items():
            if name.startswith("one by one") and not 0 <= repeat < 3:
                continue
            started = time.perf_counter()
            run()
            if repeat >= 0:
                times[name].append(time.perf_counter() - started)
    found = {name: statistics.median(values) for name, values in times.items()}
    for a, b in (
        ("projected", "plain"),
        ("projected, shared", "plain, shared"),
        ("projected, shared", "plain"),
        ("one by one", "projected"),
        ("one by one, shared", "projected, shared"),
        ("one by one", "projected, shared"),
    ):
        found[f"{a} / {b}"] = found[a] / found[b]
    return found


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:42}{value:8.2f}")
