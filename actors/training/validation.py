"""Validation during training: NDCG@10 of greedy completions over the whole catalogue."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from actors.engines.engine import Adapter
from actors.pool.pool import Call, PoolHandle
from minirec.config.run import TrainingConfig
from minirec.corpus.table import SampleFile
from minirec.model.recommender import Encoder, Policy, item_table
from minirec.rl.reward import item_scores, ndcg, rank_target, target_and_mask
from minirec.rng import seed_of

CUTOFF = 10


def due(step: int, *, steps: int, every: int | None) -> bool:
    """Whether the policy is validated after `step` of 0..steps-1; always after the last."""
    return every is not None and ((step + 1) % every == 0 or step + 1 == steps)


def drawn(total: int, *, count: int, seed: int) -> list[int]:
    """At most `count` of the rows 0..total-1, drawn at random, rising."""
    return sorted(
        random.Random(seed_of(seed, "validation")).sample(range(total), min(count, total))
    )


METRIC = f"valid_ndcg@{CUTOFF}"


def best_step(log: Sequence[dict[str, Any]]) -> int | None:
    """The step of the best validation in a training log, the first of equals; None: none yet."""
    measured = [entry for entry in log if METRIC in entry]
    if not measured:
        return None
    return int(max(measured, key=lambda entry: (entry[METRIC], -entry["step"]))["step"])


def exhausted(log: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` validations were no better than one before them."""
    measured = [entry["step"] for entry in log if METRIC in entry]
    if patience is None or len(measured) <= patience:
        return False
    return best_step(log) not in measured[-patience:]


class Validation:
    """The validation samples of one worker. Every worker calls it at the same steps."""

    def __init__(
        self,
        samples: SampleFile,
        *,
        training: TrainingConfig,
        seed: int,
        encoder: Encoder,
        titles: Sequence[str],
        items: Sequence[Sequence[int]],
        temperature: float,
        pool: PoolHandle,
        prompts_per_call: int,
    ):
        """Args:
        samples: the validation split.
        training: says how many are drawn, and the size of a micro-batch.
        seed: of the run, where `training` has none for the draw.
        encoder: of the model that is trained.
        titles: V titles, by item.
        items: V token lists (`Encoder.item`).
        temperature: tau of the item softmax.
        pool: engines that complete the prompts.
        prompts_per_call: prompts of one call of an engine.
        """
        own = training.validation_seed
        rows = drawn(
            len(samples), count=training.validation_samples, seed=seed if own is None else own
        )
        self.samples = samples.take(rows)
        self.encoder, self.items, self.temperature = encoder, items, temperature
        self.prompts = [encoder.prompt([titles[i] for i in s.history]) for s in self.samples]
        self.block = training.prompts_per_micro_batch * training.rollouts_per_prompt
        self.pool, self.prompts_per_call = pool.copy(), prompts_per_call
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @torch.no_grad()
    def measure(self, policy: Policy, adapter: Adapter | None) -> dict[str, Any]:
        """What the log says of a validation: ``valid_ndcg@10`` and what it cost.

        Args:
            policy: the policy in training, maybe inside a DeepSpeed engine.
            adapter: its published weights, for the engines.
        """
        started = time.monotonic()
        completions = self._complete(adapter)
        sequences = [
            prompt + self.encoder.finish(tokens, stopped=stopped)
            for prompt, (tokens, stopped) in zip(self.prompts, completions, strict=True)
        ]
        table = item_table(policy, self.items)
        gains = self._shared(lambda rows: self._gains(policy, sequences, rows, table))
        return {
            "valid_ndcg@10": sum(gains) / len(gains),
            "validation_rollouts": len(sequences),
            "validation_tokens": sum(len(tokens) for tokens, _ in completions),
            "validation_seconds": round(time.monotonic() - started, 3),
        }

    def _complete(self, adapter: Adapter | None) -> list[tuple[list[int], bool]]:
        """Token ids of the greedy completions, and whether each stopped; the same on all ranks."""
        box: list[Any] = [None]
        if self.rank == 0:
            n = self.prompts_per_call
            blocks = [self.prompts[i : i + n] for i in range(0, len(self.prompts), n)]
            calls = [Call(block, 1, [0] * len(block), greedy=True) for block in blocks]
            answers = self.pool.generate(calls, adapter=adapter)
            box[0] = [(c[0].token_ids, c[0].stopped) for answer in answers for c in answer]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def _shared(self, gains: Callable[[range], list[float]]) -> list[float]:
        """Gains of all samples, in blocks that the workers share.

        Under ZeRO 3 a forward needs all workers: one that has no block left repeats the first.
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
        by_block = {number: part for one in parts for number, part in one.items()}
        return [gain for number in range(len(blocks)) for gain in by_block[number]]

    def _gains(
        self, policy: Policy, sequences: list[list[int]], rows: range, table: torch.Tensor
    ) -> list[float]:
        """NDCG@10 of some samples over the catalogue `table` (V, d)."""
        hidden = policy([sequences[row] for row in rows])[0]
        samples = [self.samples[row] for row in rows]
        target, mask = target_and_mask(samples, items=len(table), device=table.device)
        scores = item_scores(hidden, items=table, temperature=self.temperature)
        return ndcg(rank_target(scores, target=target, mask=mask), CUTOFF).tolist()
