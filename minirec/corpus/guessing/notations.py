"""Guesses how dates and numbers of a table are written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import datetime

from minirec.corpus.files import times
from minirec.corpus.notation import Notation
from minirec.corpus.weights import read_number

NUMBERS = ["%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"]
NUMBERS += ["%Y/%m/%d", "%Y.%m.%d", "%d/%m/%y", "%m/%d/%y"]
DAYS = [*NUMBERS, "%d %b %Y", "%d. %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%Y"]
CLOCKS = ["", " %H:%M", " %H:%M:%S", ", %H:%M", ", %H:%M:%S", " %I:%M %p", " %I:%M:%S %p"]
CLOCKS += ["T%H:%M:%S", " %H:%M:%S.%f", " %H:%M Uhr"]
FORMATS = tuple("".join(pair) for pair in itertools.product(DAYS, CLOCKS))
MOST = 0.99
"""Share of values that must fit; the reader stops where more are malformed."""
_COMMA = re.compile(r"[0-9],[0-9]{1,2}$|[0-9],[0-9]{4,}$|[0-9]\.[0-9]{3},[0-9]")
_POINT = re.compile(r"[0-9]\.[0-9]{1,2}$|[0-9]\.[0-9]{4,}$|[0-9],[0-9]{3}\.[0-9]")
_LETTERS = re.compile(r"[^\W\d_]{4,}")


def share_of_times(values: Sequence[str], notation: Notation) -> float:
    """The share of texts that the reader takes as times."""
    return sum(_is_time(value, notation) for value in values) / max(1, len(values))


def _is_time(value: str, notation: Notation) -> bool:
    try:
        times.read(value, notation)
    except ValueError:
        return False
    return True


def formats(values: Sequence[str]) -> list[str]:
    """The formats that fit these texts, the likeliest first; empty if none does."""
    found = [(fit, fmt) for fmt in FORMATS if (fit := _fit(values, fmt)) >= MOST]
    best = max((fit for fit, _ in found), default=0)
    return [fmt for fit, fmt in found if fit == best]


def _fit(values: Sequence[str], fmt: str) -> float:
    def fits(value: str) -> bool:
        try:
            return 1970 <= datetime.strptime(value, fmt).year < 2100
        except ValueError:
            return False

    if not values or not any(map(fits, values[:20])):
        return 0
    return sum(map(fits, values)) / len(values)


def has_decimal_commas(values: Sequence[str]) -> bool:
    """Whether these texts are numbers that are written with a comma, such as 1.234,56 €."""
    commas = Notation(decimal_comma=True)
    written = [value for value in values if _COMMA.search(value.rstrip(" €$£%"))]
    if not written or any(_POINT.search(value.rstrip(" €$£%")) for value in values):
        return False
    numbers = sum(read_number(value, commas) is not None for value in values)
    return numbers >= MOST * len(values)


def is_text(values: Sequence[str]) -> bool:
    """Whether most values have words, as titles have."""
    return 2 * sum(bool(_LETTERS.search(value)) for value in values) >= len(values) > 0
