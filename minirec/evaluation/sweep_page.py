"""One self-contained HTML page about a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from minirec.evaluation import plots
from minirec.evaluation.front import Choice, Point
from minirec.evaluation.pages import template


def render(
    name: str,
    *,
    rows: Sequence[dict[str, Any]],
    points: Sequence[Point],
    choice: Choice | None,
    users: int,
) -> str:
    """The page as HTML that needs no network.

    Args:
        name: of the run directory.
        rows: trials, as in `minirec.corpus.schema.SWEEP`.
        points: settings of which every seed has finished; may be empty.
        choice: None if there are no points.
        users: of the validation split, which are resampled.
    """
    return template("sweep.html.j2").render(
        name=name,
        rows=rows,
        points=sorted(points, key=lambda p: p.rollouts),
        sentence=sentence(choice) if choice else None,
        plots=[Markup(svg) for svg in _plots(points)] if points else [],
        users=users,
    )


def sentence(choice: Choice) -> str:
    """What the sweep recommends, and how sure that is."""
    if choice.setting == choice.best:
        return (
            f"smallest budget within {choice.tolerance:.0%} of the best: {choice.setting}, which "
            f"is the best itself"
        )
    doubt = (
        "" if choice.sure else "; the interval reaches beyond, so more seeds may decide otherwise"
    )
    return (
        f"smallest budget within {choice.tolerance:.0%} of the best: {choice.setting}; NDCG@10 "
        f"minus that of {choice.best}: {choice.difference:+.4f}, 95% interval {choice.low:+.4f} "
        f"to {choice.high:+.4f}{doubt}"
    )


def _plots(points: Sequence[Point]) -> list[str]:
    costs = {
        "rollouts": ([p.rollouts for p in points], [p.front_rollouts for p in points]),
        "seconds": ([p.seconds for p in points], [p.front_seconds for p in points]),
    }
    return [
        plots.draw(
            f"front-{unit}",
            f"Validation NDCG@10 of each setting against its total cost in {unit}",
            partial(
                plots.front,
                cost=cost,
                on_front=on_front,
                title=f"Quality by total cost in {unit}",
                xlabel=unit,
                mean=[p.quality for p in points],
                low=[p.low for p in points],
                high=[p.high for p in points],
            ),
        )
        for unit, (cost, on_front) in costs.items()
    ]
