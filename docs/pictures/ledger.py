"""Draws the picture of the README: what each recipe reaches for the same total cost.

.venv/bin/python docs/pictures/ledger.py

It reads the first table of docs/lab/live.md, whose command makes the figures.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from make import DROPPED, INK, KEPT, axes, save

PAGE = Path(__file__).parents[1] / "lab" / "live.md"


def rows(page: str) -> list[tuple[str, str, float]]:
    """Variant, what it learns from, and test NDCG@10, in the order of the table."""
    found = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| (0\.\d+)", page, re.M)
    seen: dict[str, tuple[str, str, float]] = {}
    for name, source, ndcg in found:
        seen.setdefault(name, (name, source.strip(), float(ndcg)))
    return [*seen.values()]


def main() -> None:
    """Write ``ledger.svg`` beside this file."""
    table = rows(PAGE.read_text())
    figure, ax = axes("NDCG@10 on test, for 703 thousand forward-equivalent tokens each", "")
    figure.set_size_inches(7.5, 4.2)
    plain = [row[0].startswith("none-") for row in table]
    labels = [name.removeprefix("none-") for name, _, _ in table]
    rolls_out = [name.removeprefix("none-") not in LABELS for name, _, _ in table]
    at = np.arange(len(table)) + np.array(plain) * 1.2  # room for a heading
    colours = [KEPT if rolls else DROPPED for rolls in rolls_out]
    bars = ax.barh(at, [ndcg for _, _, ndcg in table], 0.75, color=colours)
    texts = [f"{ndcg:.3f}  {source}" for _, source, ndcg in table]
    ax.bar_label(bars, texts, padding=4, fontsize=8, color=INK)
    ax.set_yticks(at, labels, fontsize=8)
    ax.set_xlim(0, 1)
    ax.invert_yaxis()
    for y, text in ((at[0], "with the collaborative prior"), (at[plain.index(True)], "without it")):
        ax.text(0.01, y - 0.85, text, va="center", fontsize=9, weight="bold")
    ax.set_ylim(top=at[0] - 1.4)
    for colour, text in ((DROPPED, "labels alone"), (KEPT, "rollouts too")):
        ax.barh([np.nan], [0], color=colour, label=text)
    ax.legend(frameon=False, loc="lower right", fontsize=9)
    save(figure, "ledger")


LABELS = ("label", "label-live", "warm-label")

if __name__ == "__main__":
    main()
