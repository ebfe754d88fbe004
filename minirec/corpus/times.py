"""Reads times of interactions.

A single number may be a time in seconds, a day such as 20230115 or a serial number of Excel. So
`read` takes small numbers as seconds, and `settle` corrects this after it has seen all times.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

LAST_MS = 4_102_444_800_000  # 2100-01-01: later times are errors
EARLY_MS = 631_152_000_000  # 1990-01-01: earlier times are reported
UNITS = (("seconds", 1e11), ("milliseconds", 1e14), ("microseconds", 1e17), ("nanoseconds", 1e20))
"""Units, each with an upper bound of its numbers (March 1973 in the next unit)."""

DAY_MS = 86_400_000
SMALL = 1e8  # a smaller number may be a day such as 20230115; as seconds this is March 1973
EXCEL_1970 = 25_569  # serial number of 1970-01-01, in days since the end of 1899
EXCEL_2100 = 73_051
_SECOND_OF_DAY = (19_700_101_000_000, 21_000_101_000_000)  # as ms later than 2100
_UTC = re.compile(r"\s*(?:UTC|GMT)$", re.IGNORECASE)
_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$)")


def read(value: str | float) -> tuple[int, float | None]:
    """Ms since 1970 UTC, and the number as written (None for a date).

    Raises:
        ValueError: not a time, or before 1970 or after 2099.
    """
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("not a time") from None
    except ValueError:
        return _in_range(_date_ms(str(value).strip())), None
    if number < UNITS[0][1]:
        # A float holds ms since 1970 exactly.
        ms = number * 1000
    elif _SECOND_OF_DAY[0] <= number < _SECOND_OF_DAY[1]:
        return _in_range(_ms(datetime.strptime(str(int(number)), "%Y%m%d%H%M%S"))), None
    elif number < UNITS[1][1]:
        ms = number
    else:
        ms = number / (1e3 if number < UNITS[2][1] else 1e6)
    return _in_range(ms), number


def read_numbers(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `read` makes of numbers that are no dates of 14 digits.

    Args:
        number: (N,) float64.

    Returns:
        ms: (N,) int64, as `read` gives it.
        ok: (N,) bool, False if `read` has to decide.
    """
    (_, seconds), (_, milliseconds), (_, microseconds), _ = UNITS
    ms = np.where(number < seconds, number * 1000, number)
    ms = np.where(number < milliseconds, ms, number / 1e3)
    ms = np.where(number < microseconds, ms, number / 1e6)
    date = (number >= _SECOND_OF_DAY[0]) & (number < _SECOND_OF_DAY[1])
    ok = (ms >= 0) & (ms < LAST_MS) & ~date  # False for NaN
    return np.rint(np.where(ok, ms, 0)).astype(np.int64), ok


def _in_range(ms: float) -> int:
    if not 0 <= ms < LAST_MS:  # also true for NaN
        raise ValueError("not a time")
    return round(ms)


def _date_ms(text: str) -> float:
    try:
        return _ms(datetime.fromisoformat(text))
    except ValueError:
        # BigQuery and Go write 2023-01-15 10:00:00 UTC and 2023-01-15 10:00:00 +0000 UTC.
        return _ms(datetime.fromisoformat(_OFFSET.sub("", _UTC.sub("", text))))


def _ms(date: datetime) -> float:
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return round(date.timestamp() * 1000)


def day(ms: float) -> str:
    """The UTC day of a time in ms since 1970, as ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True)
class Settled:
    """Times of all interactions after one reading of their numbers.

    Attributes:
        ms: (N,) int64, ms since 1970 UTC.
        bad: (N,) bool, True if it is not a time.
        notes: sentences on how the numbers were read.
    """

    ms: np.ndarray
    bad: np.ndarray
    notes: list[str]


def settle(ms: np.ndarray, number: np.ndarray) -> Settled:
    """Decide whether small numbers are days or Excel serial numbers, and convert these.

    Args:
        ms: (N,) int64, as `read` gives it.
        number: (N,) float64, the number as written, NaN for a date.
    """
    ms, bad = ms.copy(), np.zeros(len(ms), dtype=bool)
    notes = []
    small = np.flatnonzero(number < SMALL)
    days = _as_days(number[small])
    # At most one in 50 arbitrary numbers of eight digits is a day: if most are days, all should be.
    if 2 * np.count_nonzero(~np.isnan(days)) > len(small):
        outside = ~((days >= 0) & (days < LAST_MS))
        ms[small] = np.where(outside, ms[small], days)
        bad[small] = outside
        what = "days"
    elif len(small) and np.all((number[small] >= EXCEL_1970) & (number[small] < EXCEL_2100)):
        ms[small] = np.round((number[small] - EXCEL_1970) * DAY_MS)
        what = "days since 1900, as Excel counts them"
    else:
        small, what = small[:0], ""
    taken = small[~bad[small]]
    if len(taken):
        first = taken[np.argmin(number[taken])]
        example = f"{number[first]:.15g} is {day(ms[first])}"
        notes.append(f"{len(taken):,} times are numbers that were read as {what}: {example}")
    rest = np.setdiff1d(np.flatnonzero(~np.isnan(number)), small, assume_unique=True)
    return Settled(ms, bad, notes + _early(ms[rest], number[rest]) + _units(number[rest]))


def _early(ms: np.ndarray, number: np.ndarray) -> list[str]:
    early = np.count_nonzero(ms < EARLY_MS)
    if not early:
        return []
    first = np.argmin(ms)
    return [
        f"{early:,} times are numbers that mean a day before 1990, the first {number[first]:.15g} "
        f"is {day(ms[first])}: numbers are s, ms, us or ns since 1970, depending on their size; "
        f"check the column"
    ]


def _units(number: np.ndarray) -> list[str]:
    unit = np.searchsorted([limit for _, limit in UNITS], number, side="right")
    counts = np.bincount(unit, minlength=len(UNITS))
    if np.count_nonzero(counts) < 2:
        return []
    each = ", ".join(f"{c:,} {name}" for c, (name, _) in zip(counts, UNITS, strict=True) if c)
    return [f"times are numbers of several units, recognised by their size: {each}"]


def _as_days(number: np.ndarray) -> np.ndarray:
    """Ms since 1970 of days such as 20230115, float64, NaN for other numbers."""
    values, inverse = np.unique(number, return_inverse=True)
    ms = np.full(len(values), np.nan)
    in_range = (values >= 19_000_101) & (values <= 21_001_231) & (values % 1 == 0)
    month, of_month = values // 100 % 100, values % 100
    likely = in_range & (month >= 1) & (month <= 12) & (of_month >= 1) & (of_month <= 31)
    for i in np.flatnonzero(likely):
        with contextlib.suppress(ValueError):  # not a day, such as 20230230
            ms[i] = _ms(datetime.strptime(f"{values[i]:.0f}", "%Y%m%d"))
    return ms[inverse]
