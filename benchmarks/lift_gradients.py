"""What samples of each lift pull on: gradients of a policy by lift, against validation.

.venv/bin/minirec run --config configs/demo.yaml run_dir=runs/demo
.venv/bin/python benchmarks/lift_gradients.py runs/demo [SAMPLES]

The policy is that of the warm start. Train samples are put into bins by the lift of their forced
answer. For each bin the LoRA gradient is computed of the supervised loss, and of the two losses of
GRPO with two rollouts: the mean over SAMPLES samples (default 192). `cosine` is with the gradient
of the supervised loss on all validation samples: above 0 a step on the bin lowers that loss.
`agree` is the cosine between the gradients of both halves of the bin: near 0 it is mostly noise.
All items are candidates.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actors.engines.engine import FORCED, Adapter, EngineSpec
from actors.engines.transformers import TransformersEngine
from minirec.config.reading import load
from minirec.corpus.table import Sample, load_catalogue, load_samples
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, trainable_policy
from minirec.prior.prior import Prior
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import item_loss, supervised_loss, token_loss
from minirec.rl.ranker import Ranker
from minirec.rl.reward import ndcg, reward_function
from minirec.rl.rollouts import Objective, forward, reward
from minirec.selection.learnability import chance_level, lift

BINS = (-1.0, 0.02, 0.2, 0.5, 0.98, 1.01)
NAMES = ("hopeless, below 0.02", "0.02 to 0.2", "0.2 to 0.5", "0.5 to 0.98", "solved, above 0.98")
BLOCK = 64


class Bench:
    """The policy of the warm start of a run, and its losses."""

    def __init__(self, run: Path):
        config = load(run / "config.yaml", [])
        corpus, model, start = run / "corpus", str(run / "model"), run / "warm" / "adapter"
        self.catalogue = load_catalogue(corpus)
        self.encoder = Encoder.load(model, config.model, category=self.catalogue.category)
        self.policy = trainable_policy(
            model,
            config.model,
            self.encoder.tokenizer,
            rollout_temperature=1.0,
            seed=1,
            adapter=start,
        )
        prior = Prior.load(corpus, start) if config.model.prior != "none" else None
        temperature = config.model.temperature / (prior.scale if prior else 1)
        softmax_weight = config.reward.softmax_weight
        self.objective = Objective(
            training=config.training,
            temperature=temperature,
            cutoff=config.reward.cutoff,
            reward=reward_function(config.reward.name, softmax_weight=softmax_weight),
            prior=prior,
        )
        self.table = item_table(self.policy, self.encoder.items(self.catalogue))
        self.train, self.valid = (load_samples(corpus, split) for split in ("train", "valid"))
        length = config.model.max_prompt_tokens + config.rollout.max_new_tokens + 8
        tokens = config.rollout.max_new_tokens
        self.engine = TransformersEngine(EngineSpec(model, length, max_new_tokens=tokens))
        self.adapter = Adapter(str(start))
        self.lora = [p for p in self.policy.parameters() if p.requires_grad]

    def lifts(self, samples: Sequence[Sample]) -> np.ndarray:
        """The lift of the forced answer of each sample."""
        ranker = Ranker(self.table, self.objective.temperature, self.objective.prior)
        cutoff = min(self.objective.cutoff, len(self.table))
        found: list[float] = []
        for i in range(0, len(samples), BLOCK):
            part = samples[i : i + BLOCK]
            with torch.no_grad():
                hidden, _ = self.policy([g.sequences[0] for g in self.forced(part)])
            found += ndcg(ranker.rank(hidden, ranker.targets(part)), cutoff).tolist()
        chance = chance_level(len(self.table), cutoff=self.objective.cutoff)
        return lift(found, chance=chance)

    def forced(self, samples: Sequence[Sample]) -> list[Group]:
        """Each sample with the forced answer."""
        prompts = self.encoder.prompts(samples, self.catalogue)
        both = zip(samples, prompts, strict=True)
        return [self.encoder.group(sample, prompt, [FORCED]) for sample, prompt in both]

    def rolled(self, samples: Sequence[Sample]) -> list[Group]:
        """Each sample with two rollouts."""
        prompts = self.encoder.prompts(samples, self.catalogue)
        seeds = [sample.sample_id for sample in samples]
        found = self.engine.generate(prompts, n=2, seeds=seeds, adapter=self.adapter)
        triples = zip(samples, prompts, found, strict=True)
        return [self.encoder.group(sample, prompt, one) for sample, prompt, one in triples]

    def gradient(self, groups: Sequence[Group], loss: Callable[[list[Group]], Tensor]) -> Tensor:
        """The LoRA gradient of the mean loss over groups."""
        self.policy.zero_grad()
        for i in range(0, len(groups), BLOCK):
            (loss(list(groups[i : i + BLOCK])) / len(groups)).backward()
        return torch.cat([p.grad.flatten() for p in self.lora if p.grad is not None]).double()

    @property
    def candidates(self) -> Candidates:
        return Candidates(torch.arange(len(self.table)), self.table, self.table)

    def supervised(self, groups: list[Group]) -> Tensor:
        found = supervised_loss(
            self.policy, groups, candidates=self.candidates, objective=self.objective
        )
        return found.total

    def of_rollouts(self, kind: Callable) -> Callable[[list[Group]], Tensor]:
        """One of the two losses of GRPO; tokens are divided by their mean number in a group."""

        def loss(groups: list[Group]) -> Tensor:
            rollouts = forward(
                self.policy, groups, items=len(self.table), prior=self.objective.prior
            )
            rewards = reward(rollouts, table=self.table, objective=self.objective)
            total = kind(rollouts, rewards, self.candidates, self.objective).total
            if kind is token_loss:
                total = total * len(groups) / max(1, sum(sum(g.written) for g in groups))
            return total

        return loss


def cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()).clamp_min(1e-30))


def main(run: str, samples: int = 192) -> None:
    """Print a row for each bin and loss."""
    torch.set_num_threads(1)
    bench = Bench(Path(run))
    lifts = bench.lifts(bench.train)
    goal = bench.gradient(bench.forced(bench.valid), bench.supervised)
    kinds: dict[str, tuple[Callable, Callable]] = {
        "supervised": (bench.forced, bench.supervised),
        "GRPO, items": (bench.rolled, bench.of_rollouts(item_loss)),
        "GRPO, tokens": (bench.rolled, bench.of_rollouts(token_loss)),
    }
    print(
        f"{'lift of the sample':22}{'share':>7}  {'loss':14}{'length':>8}{'cosine':>8}{'agree':>7}"
    )
    for name, low, high in zip(NAMES, BINS, BINS[1:], strict=False):
        inside = np.flatnonzero((lifts >= low) & (lifts < high)).tolist()
        chosen = random.Random(1).sample(inside, min(samples, len(inside)) // 2 * 2)
        for kind, (grouped, loss) in kinds.items():
            groups = grouped([bench.train[i] for i in chosen])
            half = len(groups) // 2
            parts = [bench.gradient(part, loss) for part in (groups[:half], groups[half:])]
            mean = (parts[0] + parts[1]) / 2
            print(
                f"{name:22}{len(inside) / len(lifts):7.0%}  {kind:14}{float(mean.norm()):8.3f}"
                f"{cosine(mean, goal):8.2f}{cosine(*parts):7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
