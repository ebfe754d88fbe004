"""The item side of a training step: item table, candidates of the item loss, and their gradient.

The gradient of the candidate vectors is summed over all micro-batches and workers, and goes through
the item encoder once. So the result does not depend on their numbers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from minirec.config.training import TrainingConfig
from minirec.corpus.table import Catalogue, Sample
from minirec.model.passes import in_order, item_blocks, item_vectors
from minirec.model.recommender import Encoder
from minirec.model.sharing import Sharing
from minirec.model.tokens import StepTokens, refresh_steps
from minirec.rl.candidates import Candidates, log_presence
from minirec.rl.demonstrations import Demonstrations
from minirec.rl.group import Group
from minirec.rng import seed_of

if TYPE_CHECKING:
    from actors.training.spec import TrainingSpec

TYPICAL = 256
"""Samples at the start of the order whose prompts say what a step costs."""


@torch.no_grad()
def shared_table(engine: Any, items: Sequence[Sequence[int]]) -> Tensor:
    """`item_table` of V items, encoded by all workers; all must call it, and all get (V, d).

    A worker encodes whole blocks, so the bytes do not depend on the number of workers. Under ZeRO 3
    a forward needs all workers, so a worker without a block encodes block 0 again.
    """
    rows = item_blocks(items, engine.device)
    if dist.get_world_size() == 1:
        return in_order(((block, item_vectors(engine, items, block)) for block in rows), len(items))
    return in_order(_gathered(engine, items, rows), len(items))


def _gathered(
    engine: Any, items: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """All blocks with their vectors; the workers take turns, and gather after each turn."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for start in range(0, len(rows), world):
        turn = rows[start : start + world]
        vectors = item_vectors(engine, items, turn[rank] if rank < len(turn) else rows[0])
        # All parts of one `all_gather` need one shape.
        most = max(map(len, turn))
        own = F.pad(vectors[:most], (0, 0, 0, max(0, most - len(vectors))))
        parts = [torch.empty_like(own) for _ in range(world)]
        dist.all_gather(parts, own)
        yield from ((block, parts[i][: len(block)]) for i, block in enumerate(turn))


class ItemSide:
    """Encodes the catalogue for one training worker, and backpropagates into the items.

    Its methods run the model, so all workers must call them at the same steps.
    """

    def __init__(
        self,
        engine: Any,
        items: Sequence[Sequence[int]],
        *,
        training: TrainingConfig,
        refresh_steps: int,
        seed: int,
        log_presence: Tensor | None = None,
    ):
        """Args:
        engine: DeepSpeed engine around the policy.
        items: V token lists (`Encoder.items`).
        training: says which items join the targets.
        refresh_steps: the whole catalogue is encoded at the multiples of this number of steps.
        seed: of the run; the items that join depend on it and on the step.
        log_presence: (V,) float32, see `Candidates`.
        """
        self.engine, self.items, self.training, self.seed = engine, items, training, seed
        self.refresh_steps = refresh_steps
        self.log_presence = None if log_presence is None else log_presence.to(engine.device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._table: Tensor | None = None
        self._encoded: int | None = None  # the step in which the table was encoded
        self._ahead: tuple[int, Tensor] | None = None  # a later step, and the table for it

    def due(self, step: int) -> bool:
        """Whether this step reads a table of the weights that it begins with."""
        return self.training.reads_table and step % self.refresh_steps == 0

    def refresh(self, step: int) -> Tensor | None:
        """The vectors (V, d) of the whole catalogue, encoded at each step that is `due`; None if no
        step reads them."""
        missing = self.training.reads_table and self._table is None
        if self._encoded != step and (self.due(step) or missing):
            self._table, self._encoded, self._ahead = self.table_of(step), step, None
        return self._table

    def table_of(self, step: int) -> Tensor:
        """The vectors (V, d) of the catalogue by the weights that `step` begins with.

        A validation reads them before the step. They are kept if the step reads them too.
        """
        if self._encoded == step and self._table is not None:
            return self._table
        if self._ahead is not None and self._ahead[0] == step:
            return self._ahead[1]
        if self.due(step):
            self._table = self._encoded = None  # no step reads the old table any more
        table = shared_table(self.engine, self.items)
        self._ahead = (step, table) if self.due(step) else None
        return table

    def candidates(
        self,
        step: int,
        targets: Iterable[int],
        demonstrations: Demonstrations | None = None,
    ) -> Candidates:
        """The distinct `targets` of the global batch, which must be the same on all workers, the
        items of the demonstrations, and the items that join them.
        """
        self.refresh(step)
        t, own = self.training, set(targets) | (demonstrations.items if demonstrations else set())
        joined = negatives(
            own, items=len(self.items), count=t.item_negatives, seed=self.seed, step=step
        )
        ids = torch.tensor(sorted(own | joined), device=self.engine.device)
        with torch.no_grad():
            if self._encoded == step and self._table is not None:
                vectors = self._table[ids]  # a copy
            else:
                vectors = shared_table(self.engine, [self.items[i] for i in ids.tolist()])
        vectors.requires_grad_(True)
        return Candidates(
            ids,
            vectors,
            self._table,
            self.log_presence,
            len(self.items),
            demonstrations,
            seed_of(self.seed, "lists", step),
        )

    def largest_pass(self, candidates: Candidates) -> int:
        """Tokens of the largest pass of `backward`, including padding."""
        lengths = [len(self.items[i]) for i in candidates.ids.tolist()]
        parts = item_backwards(self.training, lengths, workers=self.world)
        return math.ceil(len(lengths) / (self.world * parts)) * max(lengths)

    def backward(self, candidates: Candidates) -> None:
        """Send the collected gradient through the item encoder: the last backwards of a step."""
        collected = candidates.vectors.grad
        gradient = torch.zeros_like(candidates.vectors) if collected is None else collected
        if self.world > 1:
            dist.all_reduce(gradient)
        ids = candidates.ids.tolist()
        parts = item_backwards(self.training, [len(self.items[i]) for i in ids], workers=self.world)
        apart = self.world * parts
        for part in range(parts):
            # Every rank runs each backward, even without an item (more parts than items).
            first = self.rank + part * self.world
            mine = range(first, len(ids), apart) or range(1)
            weight = 1.0 if first < len(ids) else 0.0
            vectors = F.normalize(self.engine([self.items[ids[i]] for i in mine])[0], dim=-1)
            last = part + 1 == parts
            self.engine.set_gradient_accumulation_boundary(last)
            # The gradient contains the factor for the average over ranks.
            self.engine.backward((vectors * gradient[list(mine)]).sum() * weight)
            if not last:
                self.engine.step()  # only counts


def step_tokens(
    spec: TrainingSpec,
    items: Sequence[Sequence[int]],
    samples: Mapping[int, Sample],
    encoder: Encoder,
    catalogue: Catalogue,
    sharing: Sharing | None,
) -> StepTokens:
    """What the steps of a training cost, with the number of steps between two tables.

    It depends on the first prompts of the order. So it is the same after a restart, and for any
    number of workers.
    """
    t, lengths = spec.training, [*map(len, items)]
    typical = encoder.prompts([samples[i] for i in spec.order[:TYPICAL]], catalogue)
    every = refresh_steps(
        t,
        items=lengths,
        prompts=[*map(len, typical)],
        answer=len(encoder.answer_ids),
        sharing=sharing,
    )
    read = [len(encoder.item_words(item)) for item in items] if spec.reads_reference else None
    return StepTokens(t, lengths, every, sharing, encoder.answer_ids, read)


def target_presence(
    spec: TrainingSpec, samples: Mapping[int, Sample], *, items: int
) -> Tensor | None:
    """(V,) float32, see `Candidates`; None unless the item loss is corrected."""
    t = spec.training
    if t.item_candidates != "corrected":
        return None
    targets = [samples[i].target for i in spec.order]
    return log_presence(targets, items=items, prompts=t.prompts_per_step)


def asked_items(groups: Sequence[Group], training: TrainingConfig) -> list[int]:
    """The targets of a step, and the other relevant items if its item loss draws lists."""
    lists = training.item_loss != "softmax"
    return [item for g in groups for item in (g.target, *(g.following if lists else ()))]


def negatives(
    targets: set[int], *, items: int, count: int | None, seed: int, step: int
) -> set[int]:
    """At most `count` of the other items, drawn at random for a step; None: all of them."""
    if count is None or count >= items:
        return set(range(items)) - targets
    if not count:
        return set()
    draw = random.Random(seed_of(seed, "negatives", step))
    drawn = draw.sample(range(items), min(items, count + len(targets)))
    return set([item for item in drawn if item not in targets][:count])


def item_backwards(training: TrainingConfig, lengths: Sequence[int], *, workers: int) -> int:
    """Backwards of each worker through the item encoder, for items of these lengths in tokens.

    Over all workers, each has at most `prompts_per_step` items. A worker has at most
    `tokens_per_micro_batch` tokens in each, including padding, or one item.
    """
    parts = math.ceil(len(lengths) / training.prompts_per_step)
    if training.tokens_per_micro_batch is not None:
        together = max(1, training.tokens_per_micro_batch // max(lengths))
        parts = max(parts, math.ceil(len(lengths) / (workers * together)))
    return parts
