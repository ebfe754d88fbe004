"""Validation during training: NDCG@10 of greedy completions over the whole catalogue.

A training without rollouts is validated at the forced answer.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.engines.engine import FORCED, Adapter, Completion
from actors.pool.actor import calls_of
from actors.training.spec import TrainingSpec
from actors.training.zero import of_rank_0, spread
from minirec.corpus.table import Catalogue, SampleFile
from minirec.model import tokens
from minirec.model.recommender import Encoder, Policy
from minirec.prior.counts import PARTS
from minirec.prior.fit import Choices, choices, fit
from minirec.prior.prior import Prior
from minirec.rl.ranker import Ranker
from minirec.rl.reward import item_scores, ndcg
from minirec.rng import seed_of
from minirec.store.remote import located

T = TypeVar("T")
CUTOFF = 10
METRIC = f"valid_ndcg@{CUTOFF}"
VALUE = f"valid_value@{CUTOFF}"
"""NDCG@10 times the factor of the target; where `reward.item_weight` is set, it judges."""
WEIGHTS = tuple(f"weight_{part}" for part in ("policy", *PARTS))
"""Names of the fitted weights in a training log."""
START = -1
"""The step of the weights that training starts from, before step 0."""
OF_START = "start_"
"""Prefix, in the entry of step 0, of the figures of their validation."""


def due(step: int, *, last: bool, every: int | None) -> bool:
    """Whether to validate after `step`: each `every` steps and after the last."""
    return every is not None and ((step + 1) % every == 0 or last)


def drawn(total: int, *, count: int, seed: int) -> list[int]:
    """At most `count` of the rows 0..total-1, drawn at random, ascending."""
    draw = random.Random(seed_of(seed, "validation"))
    return sorted(draw.sample(range(total), min(count, total)))


def goal_rows(spec: TrainingSpec, total: int) -> list[int]:
    """The rows of the valid split that the rule influence of live selection reads, ascending.

    Validation leaves them out. With another rule there are none.
    """
    if spec.live is None or spec.live.rule != "influence":
        return []
    draw = random.Random(seed_of(spec.seed, "influence"))
    return sorted(draw.sample(range(total), spec.live.validation_samples))


def best_step(log: Sequence[dict[str, Any]]) -> int | None:
    """The first step with the best validation in a training log; None without a validation.

    The best has the highest `VALUE`, or `METRIC` where the log has no value. It can be `START`.
    """
    measured = _measured(log)
    return max(measured, key=lambda step: (measured[step], -step)) if measured else None


def _measured(log: Sequence[dict[str, Any]]) -> dict[int, float]:
    """What judges a validation, by step, in order."""
    weighted = any(name in entry for entry in log for name in (VALUE, OF_START + VALUE))
    metric = VALUE if weighted else METRIC
    before = [(START, entry.get(OF_START + metric)) for entry in log[:1]]
    after = [(int(entry["step"]), entry.get(metric)) for entry in log]
    return {step: found for step, found in before + after if found is not None}


def weights_after(log: Sequence[dict[str, Any]], best: int | None) -> list[float]:
    """The weights of policy and prior that the validation after step `best` fitted.

    None: after the last step. Empty without a prior or a validation.
    """
    if best == START:
        found = [log[0].get(OF_START + name) for name in WEIGHTS]
    else:
        entry = log[-1] if best is None else next(e for e in log if e["step"] == best)
        found = [entry.get(name) for name in WEIGHTS]
    return [weight for weight in found if weight is not None]


def exhausted(log: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether none of the last `patience` validations was better than the best before them."""
    measured = [*_measured(log)]
    if patience is None or len(measured) <= patience:
        return False
    return best_step(log) not in measured[-patience:]


class Validation:
    """Measures the policy on validation samples. All workers must call it at the same steps."""

    def __init__(
        self,
        spec: TrainingSpec,
        *,
        encoder: Encoder,
        catalogue: Catalogue,
        prior: Prior | None,
        factors: NDArray[np.float64] | None = None,
    ):
        """`factors` (V,) holds the factor of each item as a target, if any."""
        t = spec.training
        file = SampleFile(located(spec.corpus), "valid")
        seed = spec.seed if t.validation_seed is None else t.validation_seed
        self.seed = seed
        goal = set(goal_rows(spec, len(file)))
        rows = [row for row in range(len(file)) if row not in goal]
        places = drawn(len(rows), count=t.validation_samples, seed=seed)
        self.samples = file.take([rows[place] for place in places])
        self.encoder, self.temperature = encoder, spec.model.temperature
        self.catalogue_size = len(catalogue)
        self.prior, self.factors = prior, factors
        self.prompts = encoder.prompts(self.samples, catalogue)
        self.block = t.prompts_per_micro_batch * (t.rollouts_per_prompt if spec.pool else 1)
        self.pool = copy.copy(spec.pool)  # another thread uses the original
        self.prompts_per_call = spec.prompts_per_call

    @torch.no_grad()
    def measure(self, policy: Policy, adapter: Adapter | None, *, table: Tensor) -> dict[str, Any]:
        """The log entries of a validation: `METRIC`, with factors also `VALUE`, and its cost
        without that of the table.

        Args:
            policy: the policy in training, or a DeepSpeed engine around it.
            adapter: the published weights of that policy, for the engines.
            table: (V, d) item vectors of that policy.
        """
        started = time.monotonic()
        completions = self._complete(adapter)
        sequences = [
            self.encoder.sequence(prompt, one)
            for prompt, one in zip(self.prompts, completions, strict=True)
        ]
        ranker = Ranker(table, self.temperature)
        if self.prior is None:
            gains = self._spread(lambda rows: self._gains(policy, sequences, rows, ranker))
            weights: dict[str, float] = {}
        else:
            hidden = torch.tensor(
                self._spread(lambda rows: self._hidden(policy, sequences, rows).tolist()),
                device=ranker.table.device,
            )
            # Different machines can round differently, and all ranks must decide alike.
            gains, weights = of_rank_0(lambda: self._calibrated(hidden, ranker.table))
        return {
            METRIC: sum(gains) / len(gains),
            **self._value(gains),
            **weights,
            "validation_rollouts": len(sequences) if self.pool else 0,
            "validation_tokens": sum(len(one.token_ids) for one in completions),
            "validation_forward_tokens": self._cost(completions, sequences),
            "validation_seconds": round(time.monotonic() - started, 3),
        }

    def _value(self, gains: Sequence[float]) -> dict[str, float]:
        if self.factors is None:
            return {}
        targets = [sample.target for sample in self.samples]
        return {VALUE: float(np.mean(self.factors[targets] * np.array(gains)))}

    def _cost(self, completions: list[Completion], sequences: list[list[int]]) -> int:
        """Forward-equivalent tokens: rollouts and their sequences."""
        rollouts = 0
        if self.pool:
            both = zip(self.prompts, completions, strict=True)
            rollouts = sum(tokens.rolled_out(len(p), [len(c.token_ids)]) for p, c in both)
        return rollouts + tokens.FORWARD * sum(map(len, sequences))

    def _complete(self, adapter: Adapter | None) -> list[Completion]:
        """The greedy completion of each prompt, the same on all ranks; forced without engines."""
        pool = self.pool
        if pool is None:
            return [FORCED] * len(self.prompts)

        def complete() -> list[Completion]:
            calls = calls_of(
                self.prompts,
                n=1,
                seeds=[0] * len(self.prompts),
                size=self.prompts_per_call,
                engines=len(pool),
                greedy=True,
            )
            answers = pool.generate(calls, adapter=adapter)
            return [one for answer in answers for (one,) in answer]

        return of_rank_0(complete)

    def _spread(self, compute: Callable[[range], list[T]]) -> list[T]:
        return spread(len(self.samples), self.block, compute)

    def _calibrated(self, hidden: Tensor, table: Tensor) -> tuple[list[float], dict[str, float]]:
        """Fit the weights of the policy and of the prior to the samples, and rank with them.

        `hidden` (N, d) of the samples, `table` (V, d). Returns the gains and the named weights.
        """
        assert self.prior is not None
        seen = self._choices
        candidates = table[torch.as_tensor(seen.items, device=table.device)]
        scores = item_scores(hidden, items=candidates, temperature=self.temperature)
        (scale, *weights), _ = fit(seen.and_policy(scores.cpu().numpy()))
        ranker = Ranker(
            table, self.temperature / float(scale), self.prior.reweighted(float(scale), weights)
        )
        gains: list[float] = []
        for start in range(0, len(hidden), self.block):
            part = slice(start, start + self.block)
            targets = ranker.targets(self.samples[part])
            gains += ndcg(ranker.rank(hidden[part], targets), CUTOFF).tolist()
        named = zip(WEIGHTS, (scale, *weights), strict=True)
        return gains, {name: float(weight) for name, weight in named}

    @cached_property
    def _choices(self) -> Choices:
        assert self.prior is not None
        return choices(
            self.prior,
            self.samples,
            items=self.catalogue_size,
            seed=self.seed,
            factors=self.factors,
        )

    def _gains(
        self, policy: Policy, sequences: list[list[int]], rows: range, ranker: Ranker
    ) -> list[float]:
        hidden = self._hidden(policy, sequences, rows)
        targets = ranker.targets([self.samples[row] for row in rows])
        return ndcg(ranker.rank(hidden, targets), CUTOFF).tolist()

    @staticmethod
    def _hidden(policy: Policy, sequences: list[list[int]], rows: range) -> Tensor:
        return policy([sequences[row] for row in rows])[0]
