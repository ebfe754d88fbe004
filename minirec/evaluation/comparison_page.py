"""One self-contained HTML page about a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from minirec.evaluation import plots
from minirec.evaluation.diagnostics import Foretold, Overlaps
from minirec.evaluation.pages import template
from minirec.evaluation.paired import Difference
from minirec.evaluation.standings import Place, Race

SHOWN = ("minirec", "random", "paper", "full")
"""Methods whose lines stand out in the plots."""


def render(
    name: str,
    *,
    races: Sequence[Race],
    rows: Sequence[dict[str, Any]],
    reach: float,
    samples: int,
    users: int,
    overlap: Sequence[tuple[int, Overlaps]] = (),
    foretold: Sequence[tuple[str, int, Foretold]] = (),
) -> str:
    """The page as HTML that needs no network.

    Args:
        name: of the run directory.
        races: one for each table.
        rows: trials, as in `minirec.corpus.schema.COMPARISON`.
        reach: share of the full-data quality that was the goal.
        samples: of the train split.
        users: of the test split, which are resampled.
        overlap: number of samples selected, and what each pair of methods shares.
        foretold: name of a score, samples selected, and how well it foretells quality.
    """
    return template("comparison.html.j2", cells=cells, headings=headings).render(
        name=name,
        races=[(race, [Markup(svg) for svg in _plots(race)]) for race in races],
        rows=rows,
        reach=reach,
        samples=samples,
        users=users,
        overlap=[(chosen, _matrix(found)) for chosen, found in overlap],
        foretold=foretold,
    )


def _matrix(found: Overlaps) -> tuple[list[str], list[list[str]]]:
    """Names, and a row of shares for each."""
    names = list(dict.fromkeys(one for one, _ in found))
    share = {pair: "–" if value is None else f"{value:.0%}" for pair, value in found.items()}
    return names, [[share[one, other] for other in names] for one in names]


def headings(references: Sequence[str]) -> list[str]:
    """Of the columns of `cells`."""
    against = [f"minus {name}" for name in references]
    return ["method", "samples", "NDCG@10", "95% interval", *against, "rollouts", "seconds"]


def cells(place: Place, references: Sequence[str]) -> list[str]:
    """A row of the table: quality, differences (* where p after Holm is below 0.05), cost."""
    s = place.standing
    all_seeds = place.reached in (0, place.seeds)
    seeds = "" if all_seeds else f" ({place.reached}/{place.seeds})"
    return [
        place.method,
        f"{place.samples:,}",
        f"{s.mean:.3f}",
        f"{s.low:.3f}-{s.high:.3f}",
        *(_difference(place.differences[name]) for name in references),
        _share(place.share_rollouts) + seeds,
        _share(place.share_seconds),
    ]


def _difference(d: Difference | None) -> str:
    return "" if d is None else f"{d.mean:+.3f}{'*' if d.p_holm < 0.05 else ' '}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _plots(race: Race) -> list[str]:
    # By name, full data last: a method has the same marker in every plot.
    ranked = sorted(race.places, key=lambda p: (p.method == "full", p.method, p.samples))
    by_method: dict[str, list[Place]] = {}
    for place in ranked:
        by_method.setdefault(place.method, []).append(place)
    quality = {
        method: ([p.samples for p in places], [p.standing.mean for p in places])
        for method, places in by_method.items()
        if method != "full"
    }
    largest = max((p.samples for p in race.places if p.method != "full"), default=0)
    learning = {
        spent: {
            place.method: _mean_curve(place, spent)
            for place in ranked
            if place.samples == largest or place.method == "full"
        }
        for spent in ("steps", "rollouts")
    }
    return [
        plots.draw(
            f"quality-{race.table}",
            f"Test NDCG@10 of each method by samples selected, at equal {race.table}",
            partial(
                plots.lines,
                series=quality,
                shown=SHOWN,
                title=f"Quality at equal {race.table}",
                xlabel="samples selected",
                ylabel="test NDCG@10",
            ),
        ),
        *(
            plots.draw(
                f"learning-{spent}-{race.table}",
                f"Validation NDCG@10 by {xlabel}, {largest:,} samples and full data",
                partial(
                    plots.lines,
                    series=learning[spent],
                    shown=SHOWN,
                    title=f"Learning, {largest:,} samples",
                    xlabel=xlabel,
                    ylabel="validation NDCG@10",
                ),
            )
            for spent, xlabel in (
                ("steps", "optimizer steps"),
                ("rollouts", "rollouts, those of scoring included"),
            )
        ),
    ]


def _mean_curve(place: Place, spent: str) -> tuple[list[float], list[float]]:
    """Mean over seeds of what was spent and of NDCG@10, as far as all seeds were trained."""
    length = min(len(curve.ndcg) for curve in place.curves)
    cost = np.mean([getattr(curve, spent)[:length] for curve in place.curves], axis=0)
    ndcg = np.mean([curve.ndcg[:length] for curve in place.curves], axis=0)
    return cost.tolist(), ndcg.tolist()
