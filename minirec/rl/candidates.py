"""The candidates of the item loss: with which items it compares the target.

To add a kind of candidates, write a function like `batch` and add it to `CANDIDATES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minirec.rl.demonstrations import Demonstrations
from minirec.rl.ranker import Targets
from minirec.rl.rest import log_sum_exp

WHOLE = 1 << 16
"""The item loss compares with a catalogue of at most this size at once; of a larger one, it reads
the items without gradient in blocks."""


@dataclass(frozen=True)
class Candidates:
    """The items of a step with gradient, its distinct targets among them, and the catalogue.

    ids (U,) int64; vectors (U, d) float32, unit norm, by the current policy; table (V, d) float32
    without gradient, None where `TrainingConfig.reads_table` is False; log_presence (V,) float32,
    only for `item_candidates: corrected`; items: V, needed without a table; demonstrations: of an
    expert, whose items are among the ids; seed: of the lists that the step draws
    (`minirec.rl.ranking`). All rows of the table
    come from the policy of the last refresh. Newer vectors of the targets alone would rank too
    high, because they have moved together with the prompts.
    """

    ids: Tensor
    vectors: Tensor
    table: Tensor | None
    log_presence: Tensor | None = None
    items: int | None = None
    demonstrations: Demonstrations | None = None
    seed: int = 0

    @property
    def catalogue_size(self) -> int:
        """V."""
        if self.table is not None:
            return len(self.table)
        assert self.items is not None
        return self.items


@dataclass(frozen=True)
class Rivals:
    """The C candidates of the item loss (see `grpo.item_loss`).

    vectors (C, d), position (P,) of each target, excluded (P, C) bool, and offset (P, C) or None.
    rest: the log-sum-exp (P,) of the scores of further items for unit vectors (P, d), or None.
    """

    vectors: Tensor
    target: Tensor
    excluded: Tensor
    offset: Tensor | None
    rest: Callable[[Tensor, float], Tensor] | None = None


def batch(candidates: Candidates, targets: Targets) -> Rivals:
    """The distinct targets of the step, and the random items that join them."""
    ids = candidates.ids
    place = (targets.target[:, None] == ids[None]).int().argmax(1)
    prior = None if targets.prior is None else targets.prior.pick(ids)
    return Rivals(candidates.vectors, place, targets.excluded.pick(ids), prior)


def corrected(candidates: Candidates, targets: Targets) -> Rivals:
    """The distinct targets of the step, corrected for how often each item is a target."""
    assert candidates.log_presence is not None
    found = batch(candidates, targets)
    presence = candidates.log_presence[candidates.ids]
    prior = torch.zeros_like(presence) if found.offset is None else found.offset
    return replace(found, offset=(prior - presence).expand_as(found.excluded))


def catalogue(candidates: Candidates, targets: Targets) -> Rivals:
    """All items; only the targets of the step have a gradient."""
    table = candidates.table
    assert table is not None
    if len(table) > WHOLE:
        return beside_rest(candidates, targets)
    vectors = table.index_copy(0, candidates.ids, candidates.vectors)
    return _whole(vectors, targets)


def frozen_catalogue(table: Tensor, targets: Targets) -> Rivals:
    """All items of a table (V, d), none with a gradient."""
    if len(table) > WHOLE:
        ids = targets.target.unique()
        return beside_rest(Candidates(ids, table[ids], table), targets)
    return _whole(table, targets)


def beside_rest(candidates: Candidates, targets: Targets) -> Rivals:
    """The items of the step, beside the rest of the table, which is scored in blocks."""

    def rest(unit: Tensor, temperature: float) -> Tensor:
        assert candidates.table is not None
        return log_sum_exp(
            unit,
            table=candidates.table,
            without=candidates.ids,
            targets=targets,
            temperature=temperature,
        )

    return replace(batch(candidates, targets), rest=rest)


def _whole(vectors: Tensor, targets: Targets) -> Rivals:
    prior = None if targets.prior is None else targets.prior.dense()
    return Rivals(vectors, targets.target, targets.excluded.dense(), prior)


CANDIDATES: dict[str, Callable[[Candidates, Targets], Rivals]] = {
    "batch": batch,
    "corrected": corrected,
    "catalogue": catalogue,
}
"""Values of the setting `item_candidates`."""


def log_presence(targets: Sequence[int], *, items: int, prompts: int) -> Tensor:
    """Log-probability (items,) float32 that the rest of a step has each item as a target.

    The rest of a sample's step is `prompts` - 1 of the other samples, drawn without replacement;
    the order of the curriculum is ignored. An item that is never in `targets` (n,) has -inf.
    """
    n = len(targets)
    if min(n, prompts) < 2:  # no other candidates
        return torch.zeros(items)
    rest = min(prompts, n) - 1
    having = torch.bincount(torch.as_tensor(targets), minlength=items).double()
    others = (n - 1 - having).clamp_min(0)  # other samples with another target
    # C(others, rest) / C(n - 1, rest); lgamma is infinite if others < rest.
    log_absent = (
        torch.lgamma(others + 1)
        - torch.lgamma(others - rest + 1)
        - math.lgamma(n)
        + math.lgamma(n - rest)
    )
    return (1 - log_absent.exp()).clamp(0, 1).log().float()
