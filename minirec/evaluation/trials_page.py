"""One self-contained HTML page about a sweep or a comparison.

Both pages end with the trials. A sweep shows its front and the recommended budget, a comparison its
standings and their explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from minirec.evaluation import ledger_page, plots
from minirec.evaluation.diagnostics import Correlation, Overlaps
from minirec.evaluation.front import COSTS, Choice, fronts
from minirec.evaluation.ledger import Ledger
from minirec.evaluation.outcomes import Curve, Outcome, Row
from minirec.evaluation.pages import template
from minirec.evaluation.paired import Standing
from minirec.evaluation.standings import Place, Race
from minirec.trials.trial import FULL, WHOLE

SHOWN = ("minirec", "random", "paper", FULL)
"""Methods with emphasised lines in the plots."""


def sweep_page(
    name: str,
    *,
    rows: Sequence[Row],
    points: Sequence[tuple[Outcome, Standing]],
    choice: Choice | None,
    users: int,
) -> str:
    """The page of a sweep in the run directory `name`.

    `rows` are as in `minirec.corpus.schema.TRIALS`. `points` are the settings with all seeds
    finished, by rollouts; without points `choice` is None. `users` is the number of users in the
    validation split.
    """
    best = fronts([outcome for outcome, _ in points])
    return _render(
        "sweep.html.j2",
        name=name,
        rows=rows,
        points=points,
        fronts=best,
        sentence=sentence(choice) if choice else None,
        plots=[_front(points, unit, best[unit]) for unit in COSTS] if points else [],
        users=users,
    )


def comparison_page(
    name: str,
    *,
    rows: Sequence[Row],
    races: Sequence[Race],
    curves: Mapping[str, Curve],
    reach: float,
    samples: int,
    users: int,
    ledgers: Sequence[Ledger] = (),
    levels: Mapping[str, float] | None = None,
    overlap: Sequence[tuple[int, Overlaps]] = (),
    predicted: Sequence[tuple[str, int, Correlation]] = (),
) -> str:
    """The page of a comparison in the run directory `name`.

    Args:
        rows: trials, as in `minirec.corpus.schema.TRIALS`.
        races: one for each table of methods.
        curves: validations by trial.
        reach: the goal, as a share of the quality of full data.
        samples, users: number of samples in the train split, and of users in the test split.
        ledgers: one for each table of variants, that at equal cost first.
        levels: NDCG@10 of references on the validated samples, by name.
        overlap: number of selected samples, and the share that each pair of methods has in common.
        predicted: name of a score, number of selected samples, and how well it predicts quality.
    """
    return _render(
        "comparison.html.j2",
        name=name,
        rows=rows,
        races=[(race, _race_plots(race, curves)) for race in races],
        ledgers=[(one, ledger_page.plot(one, curves, levels or {})) for one in ledgers],
        entry_cells=ledger_page.cells,
        validated=ledger_page.validated,
        letters=ledger_page.letters,
        reach=reach,
        samples=samples,
        users=users,
        overlap=[(chosen, _matrix(found)) for chosen, found in overlap],
        predicted=predicted,
    )


def _render(file: str, **values: Any) -> str:
    return template(file, number=_number, count=_count, cells=cells).render(values)


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.4f}"


def _count(x: float | None) -> str:
    return "–" if x is None else f"{x:,.0f}"


def sentence(choice: Choice) -> str:
    """The recommendation of the sweep, and how certain it is."""
    budget = f"smallest budget within {choice.tolerance:.0%} of the best: {choice.setting}"
    if choice.setting == choice.best:
        return f"{budget}, which is the best itself"
    doubt = "" if choice.sure else "; the interval exceeds the tolerance, so try more seeds"
    return (
        f"{budget}; NDCG@10 minus that of {choice.best}: {choice.difference:+.4f}, 95% interval "
        f"{choice.low:+.4f} to {choice.high:+.4f}{doubt}"
    )


def cells(place: Place, references: Sequence[str]) -> list[str]:
    """A row of the table: quality, differences (* if p after Holm is below 0.05), cost."""
    s, seeds = place.standing, len(place.outcome.rows)
    some = len(place.reached) not in (0, seeds)
    return [
        place.outcome.method,
        f"{place.outcome.samples:,}",
        f"{s.mean:.3f}",
        f"{s.low:.3f}-{s.high:.3f}",
        *(ledger_page.difference(place.differences[name]) for name in references),
        _share(place.share("rollouts")) + (f" ({len(place.reached)}/{seeds})" if some else ""),
        _share(place.share("seconds")),
    ]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _matrix(found: Overlaps) -> tuple[list[str], list[list[str]]]:
    """Names, and a row of shares for each."""
    names = list(dict.fromkeys(one for one, _ in found))
    share = {pair: "–" if value is None else f"{value:.0%}" for pair, value in found.items()}
    return names, [[share[one, other] for other in names] for one in names]


def _front(points: Sequence[tuple[Outcome, Standing]], unit: str, best: set[str]) -> Markup:
    return plots.draw(
        f"front-{unit}",
        f"Validation NDCG@10 of each setting against its total cost in {unit}",
        plots.front,
        cost=[outcome.cost(unit) for outcome, _ in points],
        on_front=[outcome.setting in best for outcome, _ in points],
        title=f"Quality by total cost in {unit}",
        xlabel=unit,
        mean=[quality.mean for _, quality in points],
        low=[quality.low for _, quality in points],
        high=[quality.high for _, quality in points],
    )


def _race_plots(race: Race, curves: Mapping[str, Curve]) -> list[Markup]:
    # By name, full data last, so that a method has the same marker in every plot.
    ranked = sorted(race.places, key=lambda p: (p.outcome.method == FULL, p.outcome.method))
    quality: dict[str, tuple[list[int], list[float]]] = {}
    for place in ranked:
        if place.outcome.method not in WHOLE:
            x, y = quality.setdefault(place.outcome.method, ([], []))
            x.append(place.outcome.samples)
            y.append(place.standing.mean)
    largest = max((max(x) for x, _ in quality.values()), default=0)
    last = [p for p in ranked if p.outcome.samples == largest or p.outcome.method in WHOLE]
    spent = {"steps": "optimizer steps", "rollouts": "rollouts, including scoring"}
    return [
        plots.draw(
            f"quality-{race.table}",
            f"Test NDCG@10 of each method by samples selected, at equal {race.table}",
            plots.lines,
            series=quality,
            shown=SHOWN,
            title=f"Quality at equal {race.table}",
            xlabel="samples selected",
            ylabel="test NDCG@10",
        ),
        *(
            plots.draw(
                f"learning-{unit}-{race.table}",
                f"Validation NDCG@10 by {xlabel}, {largest:,} samples and full data",
                plots.lines,
                series={p.outcome.method: _mean_curve(p, curves, unit) for p in last},
                shown=SHOWN,
                title=f"Learning, {largest:,} samples",
                xlabel=xlabel,
                ylabel="validation NDCG@10",
            )
            for unit, xlabel in spent.items()
        ),
    ]


def _mean_curve(
    place: Place, curves: Mapping[str, Curve], unit: str
) -> tuple[list[float], list[float]]:
    """Mean cost and NDCG@10 over the seeds, up to the end of the shortest."""
    mine = [curves[row["trial"]] for row in place.outcome.rows]
    length = min(len(curve.ndcg) for curve in mine)
    cost = np.mean([getattr(curve, unit)[:length] for curve in mine], axis=0)
    ndcg = np.mean([curve.ndcg[:length] for curve in mine], axis=0)
    return cost.tolist(), ndcg.tolist()
