"""Curriculum GRPO with the recommendation head: the whole algorithm in one process.

.venv/bin/python examples/loop.py [--steps 30] [--seed 42]

The distributed loop (actors/training/loop.py) does the same steps and adds:
- vLLM engines in a pool that restarts them, and that can roll out the next step during training;
- training workers with DeepSpeed, which divide a step into micro-batches;
- checkpoints for restarts, early stopping, and a log for trackers;
- samples chosen by `minirec select`; here they are random.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from actors.engines.engine import Adapter, EngineSpec
from actors.engines.transformers import TransformersEngine
from minirec.config.model import DemoModelConfig, ModelConfig
from minirec.config.run import Config
from minirec.config.training import TrainingConfig
from minirec.corpus import demo as demo_corpus
from minirec.corpus.samples import make_samples
from minirec.corpus.table import Catalogue, Sample
from minirec.model import demo as demo_model
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, Policy, trainable_policy
from minirec.rl.candidates import Candidates
from minirec.rl.losses import losses
from minirec.rl.ranker import Ranker
from minirec.rl.reward import ndcg, reward_function
from minirec.rl.rollouts import Objective, counted
from minirec.rl.schedule import lr_factor
from minirec.rng import seed_of
from minirec.selection.curriculum import easy_to_hard

COLUMNS = ["sample_id", "history", "target"]
MODEL = ModelConfig(max_prompt_tokens=160, max_item_tokens=16, demo=DemoModelConfig())
CONFIG = Config(model=MODEL, training=TrainingConfig(prompts_per_step=32, learning_rate=2e-3))


def corpus(config: Config, seed: int) -> tuple[Catalogue, list[Sample], list[Sample]]:
    """The catalogue of the demo corpus, its training and its validation samples."""
    events, items, _ = demo_corpus.generate(config.corpus.demo, seed=seed)
    samples = make_samples(events.clean(), items, config.corpus)
    table = items.table.take(samples.item_codes)
    catalogue = Catalogue(table["title"].to_pylist(), table["text"].to_pylist(), "demo items")
    rows = (samples.tables[name].select(COLUMNS).to_pylist() for name in ("train", "valid"))
    train, valid = ([Sample(**row) for row in table] for table in rows)
    return catalogue, train, valid


class Recommender:
    """The policy in training, and an engine that generates its rollouts."""

    def __init__(self, folder: Path, catalogue: Catalogue, *, config: Config, seed: int):
        self.catalogue, self.config, self.folder = catalogue, config, folder
        model = str(folder / "model")
        self.encoder = Encoder.load(model, config.model, category=catalogue.category)
        self.items = self.encoder.items(catalogue)
        self.policy: Policy = trainable_policy(
            model, config.model, self.encoder.tokenizer, rollout_temperature=1.0, seed=seed
        )
        self.engine = TransformersEngine(EngineSpec(model=model, max_model_len=256))

    def roll_out(self, samples: list[Sample], *, n: int, seed: int, version: int) -> list:
        """A group of `n` completions for each sample: sampled, or greedy if n is 1."""
        adapter = Adapter(str(self.folder / f"adapter-{version}"))
        self.policy.lm.save_pretrained(adapter.path, save_embedding_layers=False)
        prompts = self.encoder.prompts(samples, self.catalogue)
        seeds = [seed_of(seed, version, s.sample_id) for s in samples]
        rollouts = self.engine.generate(prompts, n=n, seeds=seeds, greedy=n == 1, adapter=adapter)
        return list(map(self.encoder.group, samples, prompts, rollouts))

    @torch.no_grad()
    def ndcg(self, samples: list[Sample], version: int) -> list[float]:
        """NDCG@10 of the greedy completion of each sample, over the whole catalogue."""
        groups = self.roll_out(samples, n=1, seed=0, version=version)
        hidden, _ = self.policy([sequence for group in groups for sequence in group.sequences])
        ranker = Ranker(item_table(self.policy, self.items), self.config.model.temperature)
        return ndcg(ranker.rank(hidden, ranker.targets(samples)), 10).tolist()


def train(
    recommender: Recommender, samples: list[Sample], *, objective: Objective, steps: int, seed: int
) -> Iterator[float]:
    """Train on the samples in order; yields the mean reward of each step."""
    policy, t = recommender.policy, objective.training
    lora = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(lora, weight_decay=t.weight_decay)
    for step in range(steps):
        # 1. Roll out G completions of each prompt with the current weights.
        positions = range(step * t.prompts_per_step, (step + 1) * t.prompts_per_step)
        batch = [samples[p % len(samples)] for p in positions]
        groups = recommender.roll_out(batch, n=t.rollouts_per_prompt, seed=seed, version=step)
        # 2. Encode the catalogue for the rewards, and the targets with gradient for the item loss.
        table = item_table(policy, recommender.items)
        ids = torch.tensor(sorted({sample.target for sample in batch}))
        vectors = F.normalize(policy([recommender.items[i] for i in ids.tolist()])[0], dim=-1)
        # 3. One forward pass gives rewards, advantages and both losses.
        candidates = Candidates(ids, vectors, table)
        found = losses(policy, groups, candidates=candidates, objective=objective)
        # 4. Update the LoRA weights.
        found.mean(counted(groups)).backward()
        torch.nn.utils.clip_grad_norm_(lora, t.max_grad_norm)
        factor = lr_factor(step, steps=steps, warmup=t.lr_warmup_steps, schedule=t.lr_schedule)
        optimizer.param_groups[0]["lr"] = (t.learning_rate or 1e-4) * factor
        optimizer.step()
        optimizer.zero_grad()
        yield float(found.rewards.reward.mean())


def run(config: Config, folder: Path, *, steps: int, seed: int, validated: int = 256) -> None:
    """Make corpus and model, train, and print rewards, and NDCG@10 before and after."""
    catalogue, samples, valid = corpus(config, seed)
    demo_model.build(
        folder / "model",
        histories=[sample.history for sample in samples],
        items=list(zip(catalogue.titles, catalogue.texts, strict=True)),
        config=config.model,
        category=catalogue.category,
        seed=seed,
    )
    recommender = Recommender(folder, catalogue, config=config, seed=seed)
    valid = random.Random(seed).sample(valid, min(validated, len(valid)))
    before = recommender.ndcg(valid, version=0)
    count = min(steps * config.training.prompts_per_step, len(samples))
    chosen = random.Random(seed).sample(samples, count)
    by_id = {sample.sample_id: sample for sample in chosen}
    # The curriculum: samples that are easy for the untrained policy come first.
    order = easy_to_hard(list(by_id), mean_reward=recommender.ndcg(chosen, version=0), seed=seed)
    reward = reward_function(config.reward.name, softmax_weight=config.reward.softmax_weight)
    objective = Objective(config.training, config.model.temperature, config.reward.cutoff, reward)
    chosen = [by_id[i] for i in order.tolist()]
    rewards = train(recommender, chosen, objective=objective, steps=steps, seed=seed)
    for step, value in enumerate(rewards, 1):
        print(f"step {step}/{steps}  reward {value:.3f}", flush=True)
    after = recommender.ndcg(valid, version=steps)
    means = (sum(gains) / len(gains) for gains in (before, after))
    print("validation NDCG@10: {:.3f} before, {:.3f} after".format(*means))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=42)
    with tempfile.TemporaryDirectory() as work:
        run(CONFIG, Path(work), **vars(parser.parse_args()))
