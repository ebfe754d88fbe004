"""Recommends items for histories with the trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.engines.engine import Adapter, engine_spec
from actors.engines.transformers import TransformersEngine
from actors.scoring.orders import drawn_orders
from actors.scoring.rise import risen
from minirec.config.run import Config
from minirec.corpus.prompts import chosen_pairs
from minirec.corpus.table import Catalogue, Strings, load_catalogue
from minirec.errors import ConfigError
from minirec.evaluation.orders import SHORTLIST, mean_direction
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, load_policy
from minirec.prior.serving import ServedPrior, load
from minirec.resources.allocation import Shape
from minirec.store.files import fetch
from minirec.store.remote import located
from minirec.store.tables import map_array, read_table

BATCH = 64
SCORES = 1 << 24
"""Most scores that a ranking holds at a time: 16 histories by a million items."""
PIECE = 1 << 16
"""Items whose vectors are converted to float64 at a time."""


@dataclass(frozen=True)
class RecommenderSpec:
    """The settings of a recommender; picklable.

    analysis: whether the policy writes an analysis, unless the run's policy writes none; without
        it, one forward pass is enough.
    new_items: keys, titles and texts of items that are not in the catalogue.
    prior, refreshed: folders of the collaborative prior, see `minirec.prior.serving.load`; None: no
        prior, and no newer counts.
    """

    corpus: str
    model: str
    adapter: str
    vectors: str
    config: Config
    analysis: bool = True
    new_items: tuple[tuple[str, str, str], ...] = ()
    gpus: float = 0.0
    threads: int = 1
    prior: str | None = None
    refreshed: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """Item ids, best first, with their cosines, and the analysis of the policy.

    scores: what orders the items if there is a prior: weight of the policy x cosine / tau + prior;
    None: the cosines do.
    """

    items: list[int]
    cosines: list[float]
    analysis: str
    scores: list[float] | None = None


class Recommender:
    """A policy with the vectors of all items, including new ones.

    titles: of all V items; keys: item id by the key of its source.
    """

    def __init__(self, spec: RecommenderSpec):
        self.spec, self.config = spec, spec.config
        torch.set_num_threads(spec.threads)
        path, adapter = fetch(spec.model), fetch(spec.adapter)
        known = load_catalogue(located(spec.corpus))
        self.encoder = Encoder.load(path, self.config.model, category=known.category)
        self.choices = known.choices
        self.device = "cuda" if spec.gpus else "cpu"
        self.policy = load_policy(
            path, self.config.model, self.encoder.tokenizer, adapter=adapter, device=self.device
        )
        self.adapter = Adapter(adapter)
        writes = spec.analysis and self.config.rollout.analysis
        self.engine = self._engine(path) if writes else None
        self.table = torch.from_numpy(map_array(located(spec.vectors))).to(self.device)
        self.titles, self.keys = _with_new(known, located(spec.corpus), spec.new_items)
        if spec.new_items:
            tokens = [self.encoder.item(title, text) for _, title, text in spec.new_items]
            self.table = torch.cat([self.table, item_table(self.policy, tokens)])
        self.prior = self._prior()

    def _prior(self) -> ServedPrior | None:
        spec = self.spec
        if spec.prior is None:
            return None
        prior = load(located(spec.corpus), spec.prior, refreshed=spec.refreshed)
        return prior.with_titles([title for _, title, _ in self.spec.new_items])

    def _engine(self, path: str) -> TransformersEngine:
        c = self.config
        length = c.model.max_prompt_tokens + c.rollout.max_new_tokens + 8
        # Both engines give the same greedy completions, and vLLM takes longer to start.
        shape = Shape(self.spec.threads, self.spec.gpus)
        return TransformersEngine(engine_spec(c, path, length, shape=shape))

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        *,
        top: Sequence[int],
        ratings: Sequence[Sequence[float] | None] | None = None,
    ) -> list[Recommendation]:
        """Recommend `top[i]` items for history i, a list of item ids, oldest first.

        `ratings` are those of its items, where known; they are used with `corpus.choices` only.

        Items of the history are never recommended, so there may be fewer than `top[i]`. Items with
        equal scores (without a prior: equal cosines) are in the order of their ids, independent of
        the rest of the batch.
        """
        known = [one or () for one in ratings or [None] * len(histories)]
        parts = [slice(start, start + BATCH) for start in range(0, len(histories), BATCH)]
        return [
            one for part in parts for one in self._batch(histories[part], top[part], known[part])
        ]

    @torch.no_grad()
    def _batch(
        self,
        histories: Sequence[Sequence[int]],
        top: Sequence[int],
        ratings: Sequence[Sequence[float]],
    ) -> list[Recommendation]:
        hidden, texts = self._read(histories, ratings)
        rises = self.config.evaluation.rerank == "rise"
        wanted = [max(most, SHORTLIST) for most in top] if rises else top
        if self.config.evaluation.rerank == "orders":
            hidden = self._over_orders(histories, hidden)
        size = max(1, SCORES // len(self.table))
        found = []
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            found += self._ranked(hidden[part], texts[part], histories[part], wanted[part])
        return self._risen(found, histories, top) if rises else found

    def _risen(
        self,
        found: list[Recommendation],
        histories: Sequence[Sequence[int]],
        top: Sequence[int],
    ) -> list[Recommendation]:
        """The recommendations with their best items in the order of `risen`, cut to `top`."""

        def read(rows: list[int], prompts: list[list[int]]) -> Tensor:
            return self._answers(prompts)[0]

        lists = risen(
            [one.items[:SHORTLIST] for one in found],
            histories,
            encoder=self.encoder,
            titles=self.titles,
            table=self.table,
            read=read,
            seed=self.config.seed,
        )
        result = []
        for one, first, most in zip(found, lists, top, strict=True):
            items = [*first, *one.items[len(first) :]][:most]
            at = [one.items.index(item) for item in items]
            scores = None if one.scores is None else [one.scores[i] for i in at]
            result.append(
                replace(one, items=items, cosines=[one.cosines[i] for i in at], scores=scores)
            )
        return result

    def _over_orders(self, histories: Sequence[Sequence[int]], hidden: Tensor) -> Tensor:
        """Mean direction (B, d) over the orders of each history, as in `evaluate`."""
        settings = self.config.evaluation
        drawn = [
            drawn_orders(
                self.encoder,
                [self.titles[i] for i in history],
                history,
                orders=settings.orders,
                keep=settings.orders_keep,
                seed=self.config.seed,
            )
            for history in histories
        ]
        states = [hidden]
        for number in range(settings.orders):
            both = zip(histories, drawn, strict=True)
            others = [[h[at] for at in orders[number]] for h, orders in both]
            states.append(self._read(others)[0])
        return mean_direction(torch.stack(states, 1))

    def _read(
        self,
        histories: Sequence[Sequence[int]],
        ratings: Sequence[Sequence[float]] | None = None,
    ) -> tuple[Tensor, list[str]]:
        """Hidden states (B, d) at the answers to histories, and the analyses."""
        most = self.choices
        prompts = [
            self.encoder.prompt([self.titles[i] for i in h], chosen_pairs(h, given, most=most))
            for h, given in zip(histories, ratings or [()] * len(histories), strict=True)
        ]
        return self._answers(prompts)

    def _answers(self, prompts: list[list[int]]) -> tuple[Tensor, list[str]]:
        """Hidden states (B, d) at the answers to prompts, and the analyses."""
        texts = [""] * len(prompts)
        sequences = [[*prompt, *self.encoder.answer_ids] for prompt in prompts]
        if self.engine is not None:
            said = self.engine.generate(
                prompts, n=1, seeds=[0] * len(prompts), greedy=True, adapter=self.adapter
            )
            texts = [one[0].text for one in said]
            sequences = [
                self.encoder.sequence(prompt, one)
                for prompt, (one,) in zip(prompts, said, strict=True)
            ]
        return self.policy(sequences)[0], texts

    def _ranked(
        self,
        hidden: Tensor,
        texts: Sequence[str],
        histories: Sequence[Sequence[int]],
        top: Sequence[int],
    ) -> list[Recommendation]:
        """The best items for hidden states (B, d).

        The order is that of float64 scores, rounded to 10 decimals. In float32, the batch would
        change the last bits of a product, and so the order of items with equal vectors. The scores
        of the whole catalogue are in float32. They differ from the exact ones by less than half of
        `slack`, so only items within `slack` of the last place are computed in float64.
        """
        unit = F.normalize(hidden.double(), dim=-1)
        rough, prior, largest = unit.float() @ self.table.T, None, 1.0
        if self.prior is not None:
            temperature = self.config.model.temperature / self.prior.scale
            prior = torch.from_numpy(self.prior.scores(histories)).to(self.device)
            rough = rough / temperature + prior.float()
            largest = 1 / temperature + float(prior.abs().max())
        slack = torch.finfo(torch.float32).eps * (self.table.shape[1] + 8) * largest
        found = []
        for row, (text, history, k) in enumerate(zip(texts, histories, top, strict=True)):
            rough[row, torch.tensor(list(history), device=self.device)] = -torch.inf
            k = min(k, len(self.titles) - len(set(history)))
            near = _near(rough[row], k, slack)
            cosines = self._cosines(unit[row], near)
            scores = cosines
            if prior is not None:
                scores = (cosines / temperature + prior[row, near]).round(decimals=10)
            best = _best(scores, k)
            shown = None if prior is None else _rounded(scores[best])
            found.append(Recommendation(near[best].tolist(), _rounded(cosines[best]), text, shown))
        return found

    def _cosines(self, unit: Tensor, items: Tensor) -> Tensor:
        """Cosines (n,) float64 of a unit vector (d,) float64 with items (n,), rounded."""
        parts = [self.table[part].double() @ unit for part in items.split(PIECE)]
        return torch.cat(parts).round(decimals=10)


def _near(scores: Tensor, k: int, slack: float) -> Tensor:
    """The ids of the items whose scores (V,) are at most `slack` below the k-th, ascending."""
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    least = scores.topk(k).values[-1] - slack
    # Items of the history have -inf.
    return ((scores >= least) & (scores > -torch.inf)).nonzero()[:, 0]


def _best(scores: Tensor, k: int) -> Tensor:
    """Places (k,) of the k highest of n scores, best first; of equal ones, the lowest places."""
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    # `topk` chooses arbitrarily among equal values; a stable sort of all takes 40 times as long.
    part = (scores >= scores.topk(k).values[-1]).nonzero()[:, 0]
    return part[scores[part].sort(descending=True, stable=True).indices[:k]]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _with_new(
    known: Catalogue, corpus: Path, new: Sequence[tuple[str, str, str]]
) -> tuple[Strings, dict[str, int]]:
    """Titles and keys of the catalogue, then of the new items."""
    keys = Strings(read_table(corpus / "items.parquet", ["key"])["key"])
    by_key = {key: item for item, key in enumerate(keys)}
    for place, (key, _, _) in enumerate(new):
        if key in by_key:
            raise ConfigError(f"item {key!r} is in the catalogue already; leave it out")
        by_key[key] = len(keys) + place
    titles = Strings(known.titles)
    return (titles + [title for _, title, _ in new] if new else titles), by_key
