"""The ledger of a comparison as rows of a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from minirec.evaluation import plots
from minirec.evaluation.ledger import Entry, Ledger
from minirec.evaluation.outcomes import Curve
from minirec.evaluation.pages import compact
from minirec.evaluation.paired import Difference

Series = tuple[list[float], list[float]]
NOTHING = "–"
"""Stands for a number that does not exist."""


def letters(found: Ledger) -> dict[str, str]:
    """A letter for each reference, since names are too long for the head of a column."""
    return dict(zip(found.references, "ABC", strict=False))


def cells(entry: Entry, references: Sequence[str]) -> list[str]:
    """A row of the table: variant, quality, differences, total cost, and cost to the goal.

    A difference has * if p after Holm is below 0.05. The cost to the goal says how many seeds
    reached it, if not all did.
    """
    o, s = entry.outcome, entry.standing
    tokens, there = entry.reached
    some = f" ({there}/{len(o.rows)})" if 0 < there < len(o.rows) else ""
    return [
        entry.variant,
        f"{s.mean:.3f}",
        f"{s.low:.3f}-{s.high:.3f}",
        *(difference(entry.differences[name]) for name in references),
        compact(o.cost("forward_tokens")),
        f"{o.cost('seconds'):,.0f}",
        compact(o.cost("rollouts")),
        NOTHING if tokens is None else compact(tokens) + some,
    ]


def difference(d: Difference | None) -> str:
    """A difference, with * if its p after Holm is below 0.05."""
    return "" if d is None else f"{d.mean:+.3f}{'*' if d.p_holm < 0.05 else ' '}"


def validated(entry: Entry) -> str:
    """Forward-equivalent tokens of validations, which nobody is charged for."""
    return compact(entry.outcome.cost("validation_forward_tokens"))


def plot(found: Ledger, curves: Mapping[str, Curve], levels: Mapping[str, float]) -> Markup:
    """Validation NDCG@10 over the total cost, a line for each variant, best first.

    Args:
        curves: validations by trial.
        levels: NDCG@10 of references on the validated samples.
    """
    return plots.draw(
        f"ledger-{found.table}",
        f"Validation NDCG@10 of each variant by total cost, at equal {found.equal}",
        plots.by_cost,
        size=(7.6, 4.2),
        series={entry.variant: mean_curve(entry, curves) for entry in found.entries},
        levels=levels,
        title=f"Quality by total cost, at equal {found.equal}",
        xlabel="forward-equivalent tokens, with warm start, proxy and scoring",
        ylabel="validation NDCG@10",
    )


def mean_curve(entry: Entry, curves: Mapping[str, Curve]) -> Series:
    """Mean cost and NDCG@10 over the seeds, up to the end of the shortest."""
    mine = [curves[row["trial"]] for row in entry.outcome.rows]
    length = min(len(curve.ndcg) for curve in mine)
    cost = np.mean([curve.tokens[:length] for curve in mine], axis=0)
    ndcg = np.mean([curve.ndcg[:length] for curve in mine], axis=0)
    return cost.tolist(), ndcg.tolist()
