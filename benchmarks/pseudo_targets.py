"""Accuracy of pseudo-targets by their confidence, on validation samples whose targets are known.

.venv/bin/minirec run --config configs/demo.yaml
.venv/bin/python benchmarks/pseudo_targets.py runs/demo [--adapter warm] [--rollouts 4]

The policy of the run rolls out the prompts in this process. A pseudo-target is right if it is the
target of the sample. Popularity takes the item with the most users in the train split that is not
excluded, and the last column is the policy right after the prompt; all on the same prompts.
`--plain` leaves out the collaborative prior of the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from actors.engines.engine import FORCED, Adapter, engine_spec
from actors.engines.transformers import TransformersEngine
from minirec.config.reading import load
from minirec.corpus.table import Sample, SampleFile, load_catalogue
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, load_policy
from minirec.prior.prior import Prior
from minirec.resources.allocation import Shape
from minirec.rl.agreement import pseudo_targets
from minirec.rl.group import Group
from minirec.rl.ranker import Ranker
from minirec.rng import seed_of

BLOCK = 16
"""Prompts in one pass."""


def measure(
    root: Path, *, adapter: str, rollouts: int, count: int, plain: bool = False
) -> pd.DataFrame:
    """A row for each prompt: the share of the largest cluster, whether it is unique, and whether
    the pseudo-target, popularity, and the policy without a rollout are right."""
    config = load(root / "config.yaml")
    corpus, folder = root / "corpus", root / adapter / "adapter"
    model = str(root / "model") if config.model.built else config.model.name
    catalogue = load_catalogue(corpus)
    encoder = Encoder.load(model, config.model, category=catalogue.category)
    policy = load_policy(model, config.model, encoder.tokenizer, adapter=folder)
    prior = None
    if not plain and config.model.prior != "none":
        prior = Prior.load(corpus, folder)
    with torch.no_grad():
        table = item_table(policy, encoder.items(catalogue))
    ranker = Ranker(table, config.model.temperature / (prior.scale if prior else 1), prior)
    length = config.model.max_prompt_tokens + config.rollout.max_new_tokens + 8
    engine = TransformersEngine(engine_spec(config, model, length, shape=Shape(cpus=1, gpus=0)))
    file = SampleFile(corpus, "valid")
    rows = np.unique(np.linspace(0, len(file) - 1, min(count, len(file))).astype(int))
    samples = file.take(rows.tolist())
    users = (prior or Prior.of(corpus)).known.users
    found = []
    for start in range(0, len(samples), BLOCK):
        part = samples[start : start + BLOCK]
        prompts = encoder.prompts(part, catalogue)
        seeds = [seed_of(config.seed, "pseudo-targets", sample.sample_id) for sample in part]
        written = engine.generate(prompts, n=rollouts, seeds=seeds, adapter=Adapter(str(folder)))
        drawn, forced = (
            [encoder.group(*one) for one in zip(part, prompts, answers, strict=True)]
            for answers in (written, [[FORCED]] * len(part))
        )
        elected = pseudo_targets(first_items(policy, drawn, ranker), 1e-6)
        target = torch.tensor([sample.target for sample in part])
        found.append(
            pd.DataFrame(
                {
                    "confidence": elected.share.numpy(),
                    "unique": elected.kept.numpy(),
                    "item": elected.target.numpy(),
                    "pseudo-target": (elected.target == target).numpy(),
                    "popularity": popular(part, users) == target.numpy(),
                    "without rollout": (
                        first_items(policy, forced, ranker)[:, 0] == target
                    ).numpy(),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


@torch.no_grad()
def first_items(policy: torch.nn.Module, groups: Sequence[Group], ranker: Ranker) -> torch.Tensor:
    """The item (P, G) that each rollout ranks first, without the excluded items. The target is not
    read: it is excluded if it is in the history, as a training without it would do."""
    asked = [
        Group(g.prompt, g.completions, g.written, g.excluded, -1, [], [], g.history, g.sample_id)
        for g in groups
    ]
    hidden, _ = policy(groups=asked, logprobs=False)
    return ranker.best(hidden, ranker.targets(asked)).view(len(groups), -1)


def popular(samples: Sequence[Sample], users: np.ndarray) -> np.ndarray:
    """The item (P,) with the most users that is not excluded, for each sample."""
    order = np.argsort(-users, kind="stable").tolist()
    return np.array([next(i for i in order if i not in set(s.excluded)) for s in samples])


def by_confidence(prompts: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies of the prompts with a unique largest cluster, by its share; and of all."""
    kept = prompts[prompts["unique"]]
    columns = ["pseudo-target", "popularity", "without rollout"]
    groups = kept.groupby("confidence")
    table = groups[columns].mean()
    table.insert(0, "prompts", groups.size())
    table["items"] = groups["item"].nunique()
    table["largest share of an item"] = groups["item"].agg(
        lambda item: item.value_counts(normalize=True).iloc[0]
    )
    table.loc["all prompts", columns] = prompts[columns].mean()
    table.loc["all prompts", "prompts"] = len(prompts)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--adapter", default="warm", help="warm, proxy or policy")
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--plain", action="store_true", help="without the collaborative prior")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(
        options.run,
        adapter=options.adapter,
        rollouts=options.rollouts,
        count=options.samples,
        plain=options.plain,
    )
    print(by_confidence(found).round(3).to_string())


if __name__ == "__main__":
    main()
