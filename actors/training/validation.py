"""Validation during training: NDCG@10 of greedy completions over the whole catalogue."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from actors.engines.engine import Adapter, Completion
from actors.pool.actor import Call
from actors.training.spec import TrainingSpec
from actors.training.zero import of_rank_0
from minirec.corpus.table import Catalogue, SampleFile
from minirec.model.recommender import Encoder, Policy, item_table
from minirec.prior.prior import Prior
from minirec.rl.ranker import Ranker
from minirec.rl.reward import ndcg
from minirec.rng import seed_of
from minirec.store.remote import located

CUTOFF = 10
METRIC = f"valid_ndcg@{CUTOFF}"


def due(step: int, *, steps: int, every: int | None) -> bool:
    """Whether to validate after `step` of 0..steps-1: each `every` steps and after the last."""
    return every is not None and ((step + 1) % every == 0 or step + 1 == steps)


def drawn(total: int, *, count: int, seed: int) -> list[int]:
    """At most `count` of the rows 0..total-1, drawn at random, ascending."""
    draw = random.Random(seed_of(seed, "validation"))
    return sorted(draw.sample(range(total), min(count, total)))


def best_step(log: Sequence[dict[str, Any]]) -> int | None:
    """The first step with the best validation in a training log; None without a validation."""
    measured = [entry for entry in log if METRIC in entry]
    if not measured:
        return None
    return int(max(measured, key=lambda entry: (entry[METRIC], -entry["step"]))["step"])


def exhausted(log: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether none of the last `patience` validations was better than the best before them."""
    measured = [entry["step"] for entry in log if METRIC in entry]
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
        items: Sequence[Sequence[int]],
        prior: Prior | None,
    ):
        """`items` holds the V token lists of the catalogue (`Encoder.items`)."""
        t = spec.training
        file = SampleFile(located(spec.corpus), "valid")
        seed = spec.seed if t.validation_seed is None else t.validation_seed
        self.samples = file.take(drawn(len(file), count=t.validation_samples, seed=seed))
        self.encoder, self.items, self.temperature = encoder, items, spec.model.temperature
        self.prior = prior
        self.prompts = encoder.prompts(self.samples, catalogue)
        self.block = t.prompts_per_micro_batch * t.rollouts_per_prompt
        self.pool = copy.copy(spec.pool)  # another thread uses the original
        self.prompts_per_call = spec.prompts_per_call
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @torch.no_grad()
    def measure(self, policy: Policy, adapter: Adapter | None) -> dict[str, Any]:
        """The log entries of a validation: ``valid_ndcg@10`` and its cost.

        Args:
            policy: the policy in training, or a DeepSpeed engine around it.
            adapter: the published weights of that policy, for the engines.
        """
        started = time.monotonic()
        completions = self._complete(adapter)
        sequences = [
            self.encoder.sequence(prompt, one)
            for prompt, one in zip(self.prompts, completions, strict=True)
        ]
        ranker = Ranker(item_table(policy, self.items), self.temperature, self.prior)
        gains = self._shared(lambda rows: self._gains(policy, sequences, rows, ranker))
        return {
            METRIC: sum(gains) / len(gains),
            "validation_rollouts": len(sequences),
            "validation_tokens": sum(len(one.token_ids) for one in completions),
            "validation_seconds": round(time.monotonic() - started, 3),
        }

    def _complete(self, adapter: Adapter | None) -> list[Completion]:
        """The greedy completion of each prompt, the same on all ranks."""

        def complete() -> list[Completion]:
            n = self.prompts_per_call
            blocks = [self.prompts[i : i + n] for i in range(0, len(self.prompts), n)]
            calls = [Call(block, 1, [0] * len(block), greedy=True) for block in blocks]
            answers = self.pool.generate(calls, adapter=adapter)
            return [one for answer in answers for (one,) in answer]

        return of_rank_0(complete)

    def _shared(self, gains: Callable[[range], list[float]]) -> list[float]:
        """Gains of all samples, in blocks that are spread over the workers.

        Under ZeRO 3 a forward needs all workers, so a worker without a block repeats block 0.
        """
        count = len(self.samples)
        blocks = [range(i, min(i + self.block, count)) for i in range(0, count, self.block)]
        found: dict[int, list[float]] = {}
        for first in range(0, len(blocks), self.world):
            mine = first + self.rank
            part = gains(blocks[mine if mine < len(blocks) else 0])
            if mine < len(blocks):
                found[mine] = part
        parts: list[dict[int, list[float]]] = [found]
        if self.world > 1:
            parts = [{}] * self.world
            dist.all_gather_object(parts, found)
        by_block = sorted(pair for part in parts for pair in part.items())
        return [gain for _, gains_of_block in by_block for gain in gains_of_block]

    def _gains(
        self, policy: Policy, sequences: list[list[int]], rows: range, ranker: Ranker
    ) -> list[float]:
        hidden = policy([sequences[row] for row in rows])[0]
        targets = ranker.targets([self.samples[row] for row in rows])
        return ndcg(ranker.rank(hidden, targets), CUTOFF).tolist()
