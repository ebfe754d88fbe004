"""NDCG@10 of the parts of the collaborative prior, with equal and with fitted weights.

    .venv/bin/python benchmarks/prior.py runs/office [--model FOLDER]

Two further parts show what was left out: popularity (log of the users of an item), and with
`--model` the vectors of a pretrained model that was not trained. The latter is the cosine of the
vector of an item with the mean of those of the history, weighted 1 / (1 + age), all less the mean
of the catalogue.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from minirec.config.model import ModelConfig
from minirec.corpus.table import Catalogue, Sample, SampleFile, load_catalogue, load_samples
from minirec.evaluation.ranking import per_sample
from minirec.evaluation.references import ranked
from minirec.prior import fit
from minirec.prior.counts import PARTS, weighted
from minirec.prior.prior import Prior

Parts = Callable[[Sequence[Sample]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", help="folder or hub name of a pretrained model")
    options = parser.parse_args()
    corpus = options.run / "corpus"
    catalogue = load_catalogue(corpus)
    prior = Prior.of(corpus)

    def popularity(samples: Sequence[Sample]) -> np.ndarray:
        users = np.stack([prior.counts(prior.period(s.sample_id)).users for s in samples])
        logs = np.log1p(users)
        return logs / np.maximum(logs.max(axis=1, keepdims=True), 1)

    further: dict[str, Parts] = {"popularity": popularity}
    if options.model:
        further["vectors"] = pooled(item_vectors(options.model, catalogue))
    samples = fit.newest(SampleFile(corpus, "train"))
    chosen = fit.choices(prior, samples, items=len(catalogue), seed=0)
    recipes: dict[str, tuple[Sequence[float], Parts | None]] = {
        part: (np.eye(3)[i], None) for i, part in enumerate(PARTS)
    }
    recipes |= {"equal weights": ((1, 1, 1), None)}
    weights, likelihood = fit.fit(chosen)
    print(f"fitted {np.round(weights, 2)}, log-likelihood {likelihood:.4f}")
    recipes["fitted weights"] = (weights, None)
    for name, part in further.items():
        values = part(samples)[:, chosen.items]
        more = replace(chosen, parts=np.concatenate([chosen.parts, values[None]]))
        weights, likelihood = fit.fit(more)
        print(f"with {name} {np.round(weights, 2)}, log-likelihood {likelihood:.4f}")
        recipes[f"fitted, with {name}"] = (weights, part)
        recipes[f"{name} alone"] = ((0, 0, 0, 1), part)
    for split in ("valid", "test"):
        show(prior, load_samples(corpus, split), recipes, split)


def show(
    prior: Prior,
    samples: Sequence[Sample],
    recipes: dict[str, tuple[Sequence[float], Parts | None]],
    split: str,
) -> None:
    """Print NDCG@10 and the paired difference from equal weights, with its standard error."""
    gains = {}
    for name, (weights, part) in recipes.items():
        place = iter(range(0, len(samples), 64))

        def score(history: Sequence[Sequence[int]], weights=weights, part=part, place=place):
            start = next(place)
            block = samples[start : start + len(history)]
            parts = np.stack([part.toarray() for part in prior.sparse_parts(block)])
            if part is not None:
                parts = np.concatenate([parts, part(block)[None]])
            return np.tensordot(weights, parts, axes=1).round(7), prior.known.users

        ranks = ranked(
            score,
            items=len(prior.known.users),
            history=[s.history for s in samples],
            target=[s.target for s in samples],
            excluded=[s.excluded for s in samples],
            block=64,
        )
        gains[name] = per_sample(ranks)["ndcg@10"]
    for name, values in gains.items():
        shift = values - gains["equal weights"]
        error = shift.std() / len(shift) ** 0.5
        print(f"{split:5} {name:24} {values.mean():.4f}  {shift.mean():+.4f} +- {error:.4f}")


def item_vectors(model: str, catalogue: Catalogue) -> np.ndarray:
    """Unit vectors (V, d) of the items by an untrained model, less their mean."""
    from minirec.model.passes import item_table
    from minirec.model.recommender import Encoder, load_policy

    config = ModelConfig(name=model, max_item_tokens=20)
    encoder = Encoder.load(model, config, category=catalogue.category)
    policy = load_policy(model, config, encoder.tokenizer)
    items = [encoder.item(title, "") for title in catalogue.titles]
    table = item_table(policy, items).numpy()
    table = table - table.mean(axis=0)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def pooled(vectors: np.ndarray) -> Parts:
    """The part `vectors` of samples."""

    def part(samples: Sequence[Sample]) -> np.ndarray:
        query = weighted([s.history for s in samples], items=len(vectors)) @ vectors
        query /= np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-9)
        return query @ vectors.T

    return part


if __name__ == "__main__":
    main()
