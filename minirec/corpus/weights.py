"""Weights of items, such as a price or a margin: read, completed, and divided by their mean.

``reward.item_weight`` names a numeric column of the catalogue. `prepare` writes it to
``items.parquet``, and what a reader should know about it to ``corpus.json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.corpus.notation import PLAIN, Notation
from minirec.errors import ArtifactError, CorpusError
from minirec.store.files import read_json
from minirec.store.tables import read_table

Floats = NDArray[np.float64]
FACTS = "item_weight"
"""Key of the `Facts` in ``corpus.json``."""
LARGEST = 1e15
"""A larger number is no price, and sums of such numbers could overflow."""

_NUMBER = re.compile(
    r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_CURRENCY = re.compile(r"^([+-]?)\s*(?:[A-Z]{3}|[^\W\d_]{0,2}\$|[€£¥₹₩])\s*")
_CURRENCY_AFTER = re.compile(r"\s*(?:[A-Z]{3}|[$€£¥₹₩])$")


def read_number(value: Any, notation: Notation = PLAIN) -> float | None:
    """The number that a value of a file says, or None.

    Read are numbers, and texts such as ``12.99``, ``$12.99``, ``-3``, ``1,299.00``, ``1e3``,
    ``EUR 5`` and ``5 €``. A comma separates thousands only, so ``12,99`` is not read, unless the
    notation has decimal commas. None stands for everything else: an empty text, words, a range of
    prices, NaN, infinity, true or false, and a size of `LARGEST` or more.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    try:
        number = _of_text(value, notation) if isinstance(value, str) else float(value)
    except (OverflowError, ValueError):  # a number that float64 cannot hold
        return None
    return number if number is not None and abs(number) < LARGEST else None


def _of_text(text: str, notation: Notation) -> float | None:
    text = _CURRENCY.sub(r"\1", text.strip(), count=1)
    text = _CURRENCY_AFTER.sub("", text, count=1)
    text = notation.number(text)
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


@dataclass(frozen=True)
class Facts:
    """What `prepare` did with the weights of the V items of a corpus.

    column: name in the file and in ``items.parquet``. known: number of items whose own weight is
    used. missing: items without a readable number. negative: items with a negative one. Both count
    as the median of the known weights. mean: over the targets of the train split.
    """

    column: str
    known: int
    missing: int
    negative: int
    median: float
    mean: float

    def sentence(self) -> str:
        """For the terminal."""
        counted = f"{self.known + self.missing + self.negative:,} items"
        counted += f", {self.missing:,} without a readable number" if self.missing else ""
        counted += f", {self.negative:,} with a negative one" if self.negative else ""
        if self.missing or self.negative:
            counted += f", which count as the median, {self.median:.4g}"
        return (
            f"weights of items from the column {self.column}: {counted}; mean over the targets of "
            f"train {self.mean:.4g}"
        )


def complete(column: str, raw: ArrayLike, *, targets: ArrayLike) -> tuple[Floats, Facts]:
    """Weights (V,) float64, finite and 0 or more, and what was done.

    Args:
        raw: (V,) as `read_number` returns them, NaN for None.
        targets: (V,) number of targets of the train split, by item id.

    Raises:
        CorpusError: no weight can be used, or all targets of train have the weight 0.
    """
    found = np.array(raw, dtype=np.float64)
    known = found >= 0
    missing, negative = int(np.isnan(found).sum()), int((found < 0).sum())
    if not known.any():
        raise CorpusError(
            f"reward.item_weight={column} names a column in which no item has a number of 0 or "
            f"more ({missing:,} cannot be read, {negative:,} are negative); name another column, "
            f"or write numbers such as 12.99"
        )
    median = float(np.median(found[known]))
    found[~known] = median
    mean = float(np.average(found, weights=targets))
    if mean <= 0:
        raise CorpusError(
            f"reward.item_weight={column} is 0 for all targets of the train split, so no reward "
            f"would differ from 0; name another column"
        )
    return found, Facts(column, int(known.sum()), missing, negative, median, mean)


def extended(
    facts: Facts, weights: Floats, raw: ArrayLike, *, targets: ArrayLike
) -> tuple[Floats, Facts]:
    """The weights of a corpus with further items, and what was done in all.

    The weights that are there stay. A new item without a usable number counts as the median that
    the corpus has had from the beginning.

    Args:
        facts: of the corpus before.
        weights: (V,) of its items.
        raw: (M,) of the new items, as `read_number` returns them, NaN for None.
        targets: (V + M,) number of targets of the train split, by item id.
    """
    found = np.array(raw, dtype=np.float64)
    known = found >= 0
    missing, negative = int(np.isnan(found).sum()), int((found < 0).sum())
    found[~known] = facts.median
    both = np.concatenate([weights, found])
    return both, replace(
        facts,
        known=facts.known + int(known.sum()),
        missing=facts.missing + missing,
        negative=facts.negative + negative,
        mean=float(np.average(both, weights=targets)),
    )


def load_factors(corpus: Path, column: str | None) -> Floats | None:
    """Factor (V,) float64 of each item of a corpus folder: its weight over the mean.

    The mean is over the targets of the train split, so that a factor of train is 1 on average.
    Returns None if `column` is None: nothing is weighted.

    Raises:
        ArtifactError: the corpus was prepared without this column.
    """
    if column is None:
        return None
    facts = read_json(corpus / "corpus.json").get(FACTS, {})
    if facts.get("column") != column:
        raise ArtifactError(
            f"{corpus / 'items.parquet'} has no weights from the column {column!r}; run "
            f"`minirec prepare` with reward.item_weight={column}"
        )
    weights = read_table(corpus / "items.parquet", [column])[column].to_numpy()
    return weights / facts["mean"]


def target_factors(corpus: Path, split: str, column: str) -> Floats:
    """Factors (N,) of the targets of a split, in the order of its file; as `load_factors`."""
    factors = load_factors(corpus, column)
    assert factors is not None
    return factors[read_table(corpus / f"{split}.parquet", ["target"])["target"].to_numpy()]
