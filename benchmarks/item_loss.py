"""The effect of the candidates of the item loss, without rollouts.

.venv/bin/python benchmarks/item_loss.py RUN [--steps 120] [--candidates batch corrected catalogue]

RUN holds the corpus and the demo model of a run (`minirec proxy ... run_dir=RUN`). A LoRA adapter
of that model is trained by the item loss with advantage 1 on random train samples. A templated
analysis replaces the rollout. Output: NDCG@10 of 600 validation samples before training, and at
four points during it. All settings use the same samples.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from minirec.config.reading import load
from minirec.corpus.table import Sample, load_catalogue, load_samples
from minirec.evaluation.ranking import per_sample
from minirec.model import demo
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, trainable_policy
from minirec.rl import grpo
from minirec.rl.candidates import CANDIDATES, Candidates, log_presence
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.schedule import lr_factor

PROMPTS, VALIDATED, BLOCK = 64, 600, 50


class Bench:
    """Corpus and base model of a run."""

    def __init__(self, run: Path):
        self.config = load(run / "config.yaml", [f"run_dir={run}"]).model
        self.model = str(run / "model")
        catalogue = load_catalogue(run / "corpus")
        self.titles = catalogue.titles
        self.train = load_samples(run / "corpus", "train")
        self.valid = load_samples(run / "corpus", "valid")[:VALIDATED]
        self.encoder = Encoder.load(self.model, self.config, category=catalogue.category)
        self.items = self.encoder.items(catalogue)

    def texts(self, samples: Sequence[Sample], rng: random.Random) -> list[list[int]]:
        """Prompt, templated analysis and answer marker of each sample."""
        result = []
        for sample in samples:
            titles = [self.titles[i] for i in sample.history]
            prompt, answer, _ = demo.templated(self.encoder, titles, rng=rng)
            result.append(prompt + answer)
        return result

    @torch.no_grad()
    def quality(self, policy: torch.nn.Module) -> float:
        """NDCG@10 of the validation samples."""
        ranker = Ranker(item_table(policy, self.items), self.config.temperature)
        rng, ranks = random.Random(0), []
        for start in range(0, len(self.valid), BLOCK):
            samples = self.valid[start : start + BLOCK]
            hidden, _ = policy(self.texts(samples, rng))
            ranks.append(ranker.rank(hidden, ranker.targets(samples)).rank)
        return float(per_sample(torch.cat(ranks).numpy().astype(np.int64))["ndcg@10"].mean())

    def curve(self, kind: str, *, steps: int, learning_rate: float) -> list[float]:
        """Quality before, and after each quarter of the steps."""
        policy = trainable_policy(
            self.model, self.config, self.encoder.tokenizer, rollout_temperature=1.0, seed=0
        )
        lora = [p for p in policy.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(lora, lr=learning_rate, weight_decay=0.0)
        targets = [s.target for s in self.train]
        presence = log_presence(targets, items=len(self.items), prompts=PROMPTS)
        rng, found = random.Random(0), [self.quality(policy)]
        table = item_table(policy, self.items)
        for step in range(steps):
            factor = lr_factor(step, steps=steps, warmup=3, schedule="linear")
            optimizer.param_groups[0]["lr"] = learning_rate * factor
            samples = rng.sample(self.train, PROMPTS)
            if kind == "catalogue":  # each step: the targets are of this one
                table = item_table(policy, self.items)
            targets = Targets.of(samples, items=len(self.items))
            ids = targets.target.unique()
            vectors = F.normalize(policy([self.items[i] for i in ids.tolist()])[0], dim=-1)
            present = presence if kind == "corrected" else None
            rivals = CANDIDATES[kind](Candidates(ids, vectors, table, present), targets)
            loss, _ = grpo.item_loss(
                policy(self.texts(samples, rng))[0],
                candidates=rivals.vectors,
                target=rivals.target,
                excluded=rivals.excluded,
                advantage=torch.ones(PROMPTS),
                temperature=self.config.temperature,
                clip=grpo.Clip(),
                offset=rivals.offset,
            )
            (loss / PROMPTS).backward()
            torch.nn.utils.clip_grad_norm_(lora, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % (steps // 4) == 0:
                found.append(self.quality(policy))
        return found


def main() -> None:
    """Print a line for each kind of candidates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args.run)
    for kind in args.candidates:
        curve = bench.curve(kind, steps=args.steps, learning_rate=args.learning_rate)
        print(f"{kind:10}", *(f"{value:.4f}" for value in curve), flush=True)


if __name__ == "__main__":
    main()
