"""The forward passes of scoring: prompts read once per group, or once per completion.

.venv/bin/python benchmarks/scoring_forward.py [LAYERS]

64 samples with a greedy completion and four rollouts of 16 to 48 tokens, after prompts of 256
tokens. The policy has the size of SmolLM2-135M and random weights; LAYERS (default 30) shortens it
for a quick look. One thread. "each" is the former way: a pass has 64 sequences in the order of the
samples, each completion with its whole prompt, first all greedy ones. "groups" is the way of the
scorer. Prints the seconds of both, their ratio and the largest difference of their unit vectors.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import sized_models as models
import torch
import torch.nn.functional as F

from minirec.config.model import ModelConfig
from minirec.model.loading import load_lm
from minirec.model.passes import hidden_states
from minirec.model.recommender import Policy
from minirec.rl.group import Group

SAMPLES, ROLLOUTS, PROMPT, VOCABULARY = 64, 4, 256, models.SMOLLM2_135M.vocabulary
SEQUENCES = 64  # in a pass of the former way


def policy(layers: int) -> Policy:
    with tempfile.TemporaryDirectory() as folder:
        model = models.build(Path(folder), replace(models.SMOLLM2_135M, layers=layers))
        lm = load_lm(model, ModelConfig())
    return Policy(lm.requires_grad_(False), pad_id=0)


def samples() -> list[Group]:
    """The greedy completion of each sample comes first."""
    draw = random.Random(1)

    def words(count: int) -> list[int]:
        return [draw.randrange(1, VOCABULARY) for _ in range(count)]

    groups = []
    for _ in range(SAMPLES):
        completions = [words(draw.randint(16, 48)) for _ in range(1 + ROLLOUTS)]
        written = [len(one) for one in completions]
        groups.append(Group(words(PROMPT), completions, written, [], 0))
    return groups


@torch.no_grad()
def each_completion(model: Policy, groups: list[Group]) -> torch.Tensor:
    """The former way; states (completions, d), group after group."""
    greedy = [group.sequences[0] for group in groups]
    sampled = [sequence for group in groups for sequence in group.sequences[1:]]
    first, rest = (
        torch.cat([model(part[i : i + SEQUENCES])[0] for i in range(0, len(part), SEQUENCES)])
        for part in (greedy, sampled)
    )
    both = torch.cat([first[:, None], rest.unflatten(0, (len(groups), ROLLOUTS))], dim=1)
    return both.flatten(0, 1)


def measured(
    way: Callable[[Policy, list[Group]], torch.Tensor], model: Policy, groups: list[Group]
) -> tuple[torch.Tensor, float]:
    started = time.perf_counter()
    found = way(model, groups)
    return F.normalize(found, dim=-1), time.perf_counter() - started


def main(layers: int = 30) -> None:
    """Measure both ways once, after a small pass that warms up."""
    torch.set_num_threads(1)
    model, groups = policy(layers), samples()
    hidden_states(model, groups[:2])
    new, together = measured(hidden_states, model, groups)
    print(f"groups: {together:.1f} s", flush=True)
    old, apart = measured(each_completion, model, groups)
    print(f"each:   {apart:.1f} s")
    print(f"ratio {apart / together:.2f}, largest difference {(new - old).abs().max():.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
