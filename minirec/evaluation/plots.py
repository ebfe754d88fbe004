"""Plots of the pages as inline SVG in the page's light or dark colours."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minirec.evaluation.pages import compact

# Matplotlib draws in these colours. The page's CSS variables replace them.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--grid)",
    "#030303": "var(--corpus)",
    "#040404": "var(--kept)",
}
INK, GRID, CORPUS, KEPT = COLOURS
Numbers = Sequence[float] | np.ndarray


def draw(
    name: str,
    label: str,
    paint: Callable[..., None],
    *,
    size: tuple[float, float] = (3.6, 2.6),
    **options: Any,
) -> Markup:
    """One plot as an ``<svg>`` element.

    `name` is a prefix of the ids, unique in the page, `label` the text for screen readers. `paint`
    gets the axes and the options. `size` is in inches.
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.subplots()
    _style(ax)
    paint(ax, **options)
    ax.title.set(color=INK, fontsize=10)
    for legend in filter(None, [*figure.legends, ax.get_legend()]):
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(buffer.getvalue(), name, label))


MOST_TIPS = 300  # of a curve; each is an element of the page
TIP = "tip:"
"""Prefix of the id of an element whose text a browser shows on hover."""


def tips(ax: Axes, x: Numbers, y: Numbers, texts: Iterable[str]) -> None:
    """Nearly invisible dots on the points of a plot, each with a text to show on hover."""
    for a, b, text in zip(x, y, texts, strict=True):
        ax.plot([a], [b], "o", color=INK, markersize=8, alpha=0.01, gid=TIP + text)


def histogram(
    ax: Axes,
    corpus: Numbers,
    kept: Numbers,
    *,
    title: str,
    xlabel: str,
    names: tuple[str, str] = ("corpus", "selection"),
    marks: Sequence[float] = (),
    bins: int = 24,
) -> None:
    """Shares of the corpus (filled) and of the selection (line) over the same bins.

    `names` are those of the two in the legend; dotted lines are drawn at `marks`.
    """
    cuts = np.histogram_bin_edges(np.concatenate([corpus, kept]), bins=bins).tolist()
    shares = [np.full(len(values), 100 / max(1, len(values))) for values in (corpus, kept)]
    filled: Any = {"color": CORPUS, "alpha": 0.55, "label": names[0]}
    line: Any = {"color": KEPT, "histtype": "step", "linewidth": 1.8, "label": names[1]}
    drawn: Any = ax.hist(corpus, bins=cuts, weights=shares[0], **filled)
    outline: Any = ax.hist(kept, bins=cuts, weights=shares[1], **line)
    for patch, low, high, a, b in zip(drawn[2], cuts, cuts[1:], drawn[0], outline[0], strict=False):
        patch.set_gid(
            f"{TIP}{low:.3g} to {high:.3g}: {a:.1f}% of {names[0]}, {b:.1f}% of {names[1]}"
        )
    for mark in marks:
        ax.axvline(mark, color=INK, linewidth=0.8, linestyle=":")
    ax.set(title=title, xlabel=xlabel, ylabel="% of samples")
    ax.legend(fontsize=8)


def curriculum(ax: Axes, rank: Numbers, reward: Numbers, group: Numbers) -> None:
    """Mean reward in training order; lines separate the groups."""
    ax.plot(rank, reward, ".", color=KEPT, markersize=4)
    group = np.asarray(group)
    for start in np.flatnonzero(np.diff(group)) + 1:
        ax.axvline(start - 0.5, color=INK, linewidth=0.8, linestyle=":")
    ax.set(title="Order of training", xlabel="position in training", ylabel="mean reward")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def curve(ax: Axes, steps: Numbers, values: Numbers, *, title: str) -> None:
    """A value per optimizer step, with its running mean."""
    values = np.asarray(values, dtype=np.float64)
    ax.plot(steps, values, color=KEPT, linewidth=0.9, alpha=0.45)
    width = max(1, len(values) // 10)
    padded = np.concatenate([np.full(width - 1, values[0]), values])
    mean = np.convolve(padded, np.ones(width) / width, mode="valid")
    ax.plot(steps, mean, color=KEPT, linewidth=1.8)
    shown = np.unique(np.linspace(0, len(values) - 1, MOST_TIPS).round().astype(int))
    x, y = np.asarray(steps)[shown], values[shown]
    tips(ax, x, y, [f"step {s}: {v:.4f}" for s, v in zip(x, y, strict=True)])
    ax.set(title=title, xlabel="optimizer step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def intervals(
    ax: Axes, names: Sequence[str], mean: Numbers, low: Numbers, high: Numbers, *, title: str
) -> None:
    """A dot with its interval per row, first name on top."""
    mean, low, high = (np.asarray(x, dtype=np.float64) for x in (mean, low, high))
    place = np.arange(len(names))[::-1]
    error = np.maximum([mean - low, high - mean], 0)
    ax.errorbar(mean, place, xerr=error, fmt="o", color=KEPT, capsize=3)
    rows = zip(names, mean, low, high, strict=True)
    tips(ax, mean, place, [f"{n}: {m:.4f} ({a:.4f} to {b:.4f})" for n, m, a, b in rows])
    ax.set_yticks(place, names)
    ax.set(title=title, ylim=(-0.6, len(names) - 0.4))
    ax.set_xlim(left=0)


def bars(ax: Axes, names: Sequence[str], values: Numbers, *, title: str, xlabel: str) -> None:
    """Horizontal bars, first name on top."""
    place = np.arange(len(names))[::-1]
    drawn = ax.barh(place, values, color=CORPUS, height=0.6)
    for patch, name, value in zip(drawn, names, values, strict=True):
        patch.set_gid(f"{TIP}{name}: {value:,.1f} {xlabel}")
    ax.set_yticks(place, names)
    ax.set(title=title, xlabel=xlabel)


def front(
    ax: Axes,
    cost: Numbers,
    mean: Numbers,
    low: Numbers,
    high: Numbers,
    on_front: Sequence[bool],
    *,
    title: str,
    xlabel: str,
) -> None:
    """Cost and quality with intervals; a stepped line connects the Pareto front."""
    cost, mean, low, high = (np.asarray(x, dtype=np.float64) for x in (cost, mean, low, high))
    best = np.asarray(on_front, dtype=bool)
    error = np.maximum([mean - low, high - mean], 0)
    style: Any = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 0.9}
    for rows, colour, label in ((~best, CORPUS, "other settings"), (best, KEPT, "Pareto front")):
        if rows.any():
            ax.errorbar(
                cost[rows], mean[rows], yerr=error[:, rows], color=colour, label=label, **style
            )
    order = np.flatnonzero(best)[np.argsort(cost[best], kind="stable")]
    ax.step(cost[order], mean[order], where="post", color=KEPT, linewidth=1.2)
    found = zip(cost, mean, low, high, strict=True)
    tips(
        ax, cost, mean, [f"{c:,.0f} {xlabel}: {m:.4f} ({a:.4f} to {b:.4f})" for c, m, a, b in found]
    )
    ax.set(title=title, xlabel=xlabel, ylabel="validation NDCG@10")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.legend(fontsize=8)


MARKERS = "os^vDPX*<>hp"


def lines(
    ax: Axes,
    series: Mapping[str, tuple[Numbers, Numbers]],
    shown: Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """A line with its own marker for each name; the names `shown` have strong colours."""
    for marker, (name, (x, y)) in zip(itertools.cycle(MARKERS), series.items(), strict=False):
        first = bool(shown) and name == shown[0]
        ax.plot(
            x,
            y,
            color=KEPT if first else INK if name in shown else CORPUS,
            linewidth=1.8 if first else 1.0,
            marker=marker,
            markersize=3.5,
            label=name,
        )
        tips(ax, x, y, [f"{name}, {a:,.0f}: {b:.4f}" for a, b in zip(x, y, strict=True)])
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if ax.lines:
        ax.figure.legend(fontsize=6, ncols=4, loc="outside lower center")


TONES = ("#3b82c4", "#d2691e", "#2e9e6b", "#b45fb5", "#b8860b", "#d14b5a", "#20a0a8", "#7f8c8d")
"""Colours of lines that are readable on light and dark pages."""
STROKES = ("-", "--", ":")


def by_cost(
    ax: Axes,
    series: Mapping[str, tuple[Numbers, Numbers]],
    levels: Mapping[str, float],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """A line of quality over cost for each name, labelled at its end, and a horizontal line for
    each of `levels`. The first name has the strongest line.
    """
    ends: list[tuple[str, float, float, str]] = []
    for number, (name, (x, y)) in enumerate(series.items()):
        colour, stroke = TONES[number % len(TONES)], STROKES[number // len(TONES) % len(STROKES)]
        width = 1.2 if number else 2.4
        ax.plot(x, y, stroke, color=colour, linewidth=width, marker="o", markersize=3)
        tips(ax, x, y, [f"{name}, {a:,.0f}: {b:.4f}" for a, b in zip(x, y, strict=True)])
        if len(x):
            ends.append((name, float(x[-1]), float(y[-1]), colour))
    for value in levels.values():
        ax.axhline(value, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    ax.xaxis.set_major_formatter(lambda x, _: compact(x))
    low, high = ax.get_ylim()
    places = _apart([y for _, _, y, _ in ends], gap=(high - low) / 22, low=low, high=high)
    for (name, end, quality, colour), place in zip(ends, places, strict=True):
        ax.annotate(
            name,
            (end, quality),
            xytext=(1.03, (place - low) / (high - low)),
            textcoords="axes fraction",
            color=colour,
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "relpos": (0, 0.5)},
        )
    heights = _apart([*levels.values()], gap=(high - low) / 26, low=low, high=high)
    for name, place in zip(levels, heights, strict=True):
        above = place + (high - low) / 150
        ax.text(0.01, above, name, transform=ax.get_yaxis_transform(), fontsize=6.5, color=INK)
    ax.set_ylim(low, high)


def _apart(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """The values, in order, moved so that neighbours are `gap` apart, inside the limits if they
    fit.
    """
    rising = sorted(range(len(values)), key=values.__getitem__)
    places = dict(enumerate(values))
    for one, above in itertools.pairwise(rising):
        places[above] = max(places[above], places[one] + gap)
    ceiling = high
    for number in reversed(rising):
        places[number] = max(low, min(places[number], ceiling))
        ceiling = places[number] - gap
    return [places[number] for number in range(len(values))]


def _style(ax: Axes) -> None:
    ax.set_facecolor("none")
    ax.spines[["top", "right"]].set_visible(False)
    for spine in ax.spines.values():
        spine.set_color(GRID)
    ax.tick_params(colors=INK, labelsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=INK, fontsize=9)
    ax.grid(True, color=GRID, linewidth=0.5)
    ax.set_axisbelow(True)


def _inline(svg: str, name: str, label: str) -> str:
    """The element without XML header, metadata and namespaces, with unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    head = f'<svg role="img" aria-label="{escape(label)}" style="max-width:{width * 1.8:.0f}px"'
    return svg.replace("<svg", head, 1)
