"""Forward and backward of a training step: prompts read once per group, or once per rollout.

.venv/bin/python benchmarks/training_step.py [REPEATS]

The model is a random Qwen2 with LoRA, the tokens are random. A row of the table is a shape of the
micro-batch. "packs" shows what training would do, which is right if the ratio is above 1. Seconds
are medians over REPEATS passes (default 7) of each kind, in turn.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from minirec.config.training import TrainingConfig
from minirec.model.recommender import Policy
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective, counted

VOCABULARY, ITEMS = 1500, 300
# name, hidden size, layers, prompts, rollouts of each, tokens of a prompt and of a completion
SHAPES = [
    ("demo", 128, 2, 32, 4, 30, 10),
    ("demo, 2 rollouts", 128, 2, 32, 2, 30, 10),
    ("demo, long completions", 128, 2, 32, 4, 8, 200),
    ("10M, as the recipes", 384, 6, 4, 4, 512, 32),
    ("10M, 8 rollouts", 384, 6, 2, 8, 512, 32),
    ("10M, equal lengths", 384, 6, 2, 8, 128, 128),
    ("10M, long completions", 384, 6, 2, 4, 64, 512),
    ("a block of 0.5B", 896, 1, 1, 8, 256, 128),
]


def policy(hidden: int, layers: int) -> Policy:
    """A random model with LoRA on all linear layers."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return Policy(get_peft_model(Qwen2ForCausalLM(config), lora), pad_id=0)


def batch(prompts: int, rollouts: int, prompt: int, completion: int) -> list[Group]:
    """Random groups; the target of each is its number."""

    def words(count: int) -> list[int]:
        return torch.randint(1, VOCABULARY, (count,)).tolist()

    return [
        Group(
            prompt=words(prompt),
            completions=[words(completion) for _ in range(rollouts)],
            written=[completion] * rollouts,
            rollout_logprobs=[[-7.0] * completion] * rollouts,
            excluded=[],
            target=number,
        )
        for number in range(prompts)
    ]


def seconds(model: Policy, groups: list[Group], table: torch.Tensor, *, packed: bool) -> float:
    """Seconds of one forward and backward pass."""
    reward = reward_function("ndcg_softmax", softmax_weight=0.05)
    objective = Objective(TrainingConfig(), 0.02, 1000, reward)
    ids = torch.arange(len(groups))
    candidates = Candidates(ids, table[ids].clone().requires_grad_(True), table)
    model.packs = lambda _: packed  # type: ignore[method-assign]
    started = time.perf_counter()
    found = losses(model, groups, candidates=candidates, objective=objective)
    found.mean(counted(groups)).backward()
    return time.perf_counter() - started


def main(repeats: int = 7) -> None:
    """Print a row for each shape."""
    print(f"{'shape':24}{'packs':>8}{'apart, s':>10}{'packed, s':>10}{'ratio':>7}")
    for name, hidden, layers, *sizes in SHAPES:
        model, groups = policy(hidden, layers), batch(*sizes)
        table = torch.nn.functional.normalize(torch.randn(ITEMS, hidden), dim=-1)
        packs = model.packs(groups)
        taken: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(repeats + 1):  # the first warms up
            for packed, times in taken.items():
                times.append(seconds(model, groups, table, packed=packed))
        apart, together = (median(times[1:]) for times in taken.values())
        print(
            f"{name:24}{'yes' if packs else 'no':>8}{apart:10.3f}{together:10.3f}"
            f"{apart / together:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
