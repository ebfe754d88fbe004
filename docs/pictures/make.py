"""Draws the pictures of the page about selection from a finished run of the demo.

.venv/bin/minirec run --config configs/demo.yaml
.venv/bin/python docs/pictures/make.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from minirec.selection.learnability import chance_level

KEPT, DROPPED, INK, CURVE = "#1f6f8b", "#c3c9cf", "#333333", "#c4512d"
CUTOFF = 1000
"""m of the reward's NDCG@m, as in the default settings."""


def main(run: Path) -> None:
    """Write the pictures beside this file."""
    features = table(
        sorted(run.glob("features/part-*.parquet")), ["sample_id", "ndcg", "embedding"]
    )
    selection = table([run / "selection.parquet"], ["rank", "sample_id", "group", "mean_reward"])
    ids = column(features, "sample_id")
    kept = np.isin(ids, column(selection, "sample_id"))
    labels = table([run / "corpus/truth.parquet"], ["sample_id", "label"])
    items = pq.read_metadata(run / "corpus/items.parquet").num_rows

    ndcg = np.array([np.mean(values) for values in features["ndcg"].to_pylist()])
    chance = chance_level(items, cutoff=CUTOFF)
    rewards((ndcg - chance) / (1 - chance), kept)
    projection(np.array(features["embedding"].to_pylist(), dtype=np.float64), kept)
    curriculum(selection.sort_by("rank"))
    planted(labels.filter(pc.is_in(labels["sample_id"], features["sample_id"])), ids[kept])


def table(paths: list[Path], columns: list[str]) -> pa.Table:
    """Some columns of Parquet files that belong together, ordered by sample_id."""
    parts = [pq.read_table(path, columns=columns) for path in paths]
    return pa.concat_tables(parts).sort_by("sample_id")


def column(rows: pa.Table, name: str) -> NDArray:
    """One column of a table."""
    return rows[name].to_numpy()


def rewards(lift: NDArray, kept: NDArray) -> None:
    """Histogram of the lift, kept and dropped samples, with the Gaussian of the preset."""
    figure, ax = axes("Lift of a sample (mean of its rollouts; 0 is chance)", "Samples")
    bins = np.arange(-0.075, 1.01, 0.025)  # the least lift is an edge
    ax.hist([lift[kept], lift[~kept]], bins=bins, stacked=True, color=[KEPT, DROPPED])
    ax.legend(["kept", "dropped"], frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9))
    ax.axvline(0.1, color=INK, linewidth=0.8, linestyle="--")
    ax.text(0.11, ax.get_ylim()[1] * 0.95, "least lift, 0.1", color=INK, fontsize=9)
    at = np.linspace(lift.min(), 1, 200)
    right = ax.twinx()
    right.plot(at, np.exp(-((at - 0.5) ** 2) / (2 * 0.3**2)), color=CURVE)
    right.set_ylim(0, 1.1)
    right.set_ylabel("Learnability before scaling (line)", color=CURVE)
    right.spines["top"].set_visible(False)
    save(figure, "rewards")


def projection(embeddings: NDArray, kept: NDArray) -> None:
    """Samples in the plane of the two main directions of their embeddings."""
    centred = embeddings - embeddings.mean(axis=0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    x, y = (centred @ directions[:2].T).T
    share = strength[:2] ** 2 / (strength**2).sum()
    figure, ax = axes(
        *(f"Component {i + 1} ({s:.0%} of the variance)" for i, s in enumerate(share))
    )
    ax.plot(x[~kept], y[~kept], ".", color=DROPPED, markersize=4, label="dropped", rasterized=True)
    ax.plot(x[kept], y[kept], ".", color=KEPT, markersize=4, label="kept", rasterized=True)
    ax.legend(frameon=False, markerscale=2)
    save(figure, "projection")


def curriculum(selection: pa.Table) -> None:
    """Mean reward of the selection in training order."""
    reward, group = column(selection, "mean_reward"), column(selection, "group")
    figure, ax = axes("Place in the training order", "Mean reward (high is easy)")
    ax.plot(reward, ".", color=KEPT, markersize=3, rasterized=True)
    for start in np.flatnonzero(np.diff(group)) + 1:
        ax.axvline(start, color=INK, linewidth=0.8, linestyle="--")
    ax.margins(x=0.01)
    save(figure, "curriculum")


def planted(labels: pa.Table, kept: NDArray) -> None:
    """Share of each planted label in the corpus and in the selection."""
    ids, label = column(labels, "sample_id"), np.array(labels["label"].to_pylist())
    chosen = np.isin(ids, kept)
    names = ["learnable", "noise", "duplicate", "trivial"]
    figure, ax = axes("Share in percent", "")
    for offset, rows, colour, text in (
        (-0.2, ids >= 0, DROPPED, "corpus"),
        (0.2, chosen, KEPT, "selection"),
    ):
        shares = [100 * np.mean(label[rows] == name) for name in names]
        bars = ax.barh(np.arange(len(names)) + offset, shares, 0.38, color=colour, label=text)
        ax.bar_label(bars, fmt="%.0f%%", padding=3, fontsize=9, color=INK)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.legend(frameon=False)
    save(figure, "planted")


def axes(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty plot with the names of its axes."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def save(figure: Figure, name: str) -> None:
    """Write the figure as NAME.svg. The same data give the same bytes."""
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        path = Path(__file__).with_name(f"{name}.svg")
        figure.savefig(path, dpi=200, metadata={"Date": None, "Creator": None})
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
