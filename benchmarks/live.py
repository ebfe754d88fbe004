"""Seconds that live selection takes of a training step, with long prompts and completions.

.venv/bin/python benchmarks/live.py [REPEATS]

The model is a random Qwen2 of about 10 million parameters with LoRA; prompts have 512 tokens,
completions 256, and a step has 8 prompts with 4 rollouts each. A step is what training does: the
choice, the rollouts by the transformers engine, the forward and the backward pass. The cost in
tokens comes from lengths, the seconds are measured. Prints a line for each step, then the medians.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from training_step import VOCABULARY, policy

from actors.training.live import CHOICE_TOKENS, LiveOrder
from actors.training.spec import TrainingSpec
from minirec.config.live import LiveConfig
from minirec.config.model import ModelConfig
from minirec.config.scoring import RewardConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import Catalogue, Sample
from minirec.model.recommender import Policy
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective, counted

ITEMS, SAMPLES = 300, 200
PROMPTS, ROLLOUTS, PROMPT, COMPLETION = 8, 4, 512, 256
HIDDEN, LAYERS = 384, 6


class RandomPrompts:
    """Stands for `Encoder`: random prompts of one length."""

    answer_ids = [1]

    def prompts(self, samples: list[Sample], _: Catalogue) -> list[list[int]]:
        return [words(PROMPT, seed=sample.sample_id) for sample in samples]


def words(count: int, *, seed: int) -> list[int]:
    """Random tokens."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, (count,), generator=drawn).tolist()


@torch.no_grad()
def roll_out(model: Policy, prompts: list[list[int]]) -> list[list[list[int]]]:
    """`ROLLOUTS` completions of each prompt, all of full length."""
    ids = torch.tensor(prompts).repeat_interleave(ROLLOUTS, 0)
    out = model.lm.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        min_new_tokens=COMPLETION,
        max_new_tokens=COMPLETION,
        pad_token_id=0,
    )
    found = out[:, PROMPT:].tolist()
    return [found[i : i + ROLLOUTS] for i in range(0, len(found), ROLLOUTS)]


def spec(folder: str) -> TrainingSpec:
    """Only what live selection reads of it has a meaning."""
    return TrainingSpec(
        corpus=folder,
        folder=folder,
        model_path="",
        model=ModelConfig(),
        reward=RewardConfig(),
        training=TrainingConfig(prompts_per_step=PROMPTS, prompts_per_micro_batch=PROMPTS),
        order=list(range(SAMPLES)),
        steps=1,
        seed=1,
        rollout_temperature=1.0,
        prompts_per_call=PROMPTS,
        pool=None,
        threads=torch.get_num_threads(),
        live=LiveConfig(),
        selection=SelectionConfig(),
    )


def train(model: Policy, objective: Objective, batch: list[Sample], table: torch.Tensor) -> None:
    """Rollouts, forward and backward pass of the chosen samples."""
    prompts = RandomPrompts().prompts(batch, Catalogue([], [], ""))
    groups = [
        Group(
            prompt=prompt,
            completions=completions,
            written=[COMPLETION] * ROLLOUTS,
            rollout_logprobs=[[-7.0] * COMPLETION] * ROLLOUTS,
            excluded=[],
            target=sample.target,
        )
        for sample, prompt, completions in zip(
            batch, prompts, roll_out(model, prompts), strict=True
        )
    ]
    ids = torch.tensor(sorted({sample.target for sample in batch}))
    candidates = Candidates(ids, table[ids].clone().requires_grad_(True), table)
    found = losses(model, groups, candidates=candidates, objective=objective)
    found.mean(counted(groups)).backward()
    model.zero_grad()


def main(repeats: int = 5) -> None:
    """Print the seconds of each step, and the median share."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = policy(HIDDEN, LAYERS)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    table = torch.nn.functional.normalize(torch.randn(ITEMS, HIDDEN), dim=-1)
    samples = {i: Sample(i, [i % ITEMS], (7 * i) % ITEMS) for i in range(SAMPLES)}
    reward = reward_function("ndcg_softmax", softmax_weight=0.05)
    objective = Objective(TrainingConfig(), 0.02, 1000, reward)
    step_tokens = PROMPTS * (3 * PROMPT + 3 * ROLLOUTS * COMPLETION)
    log: list[dict[str, Any]] = []
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        order = LiveOrder(
            spec(str(Path(folder))),
            policy=model,
            objective=objective,
            encoder=RandomPrompts(),  # type: ignore[arg-type]
            catalogue=Catalogue([""] * ITEMS, [""] * ITEMS, ""),
            items=[[1]] * ITEMS,
            samples=samples,
            log=log,
        )
        print(f"{millions:.1f} million parameters, {torch.get_num_threads()} threads")
        for step in range(repeats + 1):  # the first warms up
            started = time.perf_counter()
            chosen = order.prepare(step, table)
            choice = time.perf_counter() - started
            train(model, objective, [sample for _, sample in order.batch(step)], table)
            whole = time.perf_counter() - started
            tokens = chosen[CHOICE_TOKENS]
            log.append({"forward_tokens": step_tokens + tokens, CHOICE_TOKENS: tokens})
            shares.append(choice / whole)
            print(
                f"step {step}: {chosen['choice_prompts']} prompts measured in {choice:.2f} s of "
                f"{whole:.2f} s, {choice / whole:.1%}",
                flush=True,
            )
    print(f"choosing took {median(shares[1:]):.1%} of a step (median of {repeats})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
