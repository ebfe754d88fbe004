"""Reads times of interactions.

A single number may be a time in seconds, a day such as 20230115 or a serial number of Excel. So
`read` takes small numbers as seconds, and `settle` corrects this after all times have been `Seen`.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from minirec.corpus.notation import PLAIN, Notation

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


def read(value: str | float, notation: Notation = PLAIN) -> tuple[int, float | None]:
    """Ms since 1970 UTC, and the number as written (None for a date).

    Args:
        notation: how numbers and dates are written; other dates are ISO 8601.

    Raises:
        ValueError: not a time, or before 1970 or after 2099.
    """
    if date := notation.date(value):
        return _in_range(_ms(date)), None
    value = notation.number(value)
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


def moment(ms: int) -> str:
    """A time in ms since 1970 as ``YYYY-MM-DD HH:MM:SS`` in UTC, with ms if it has any."""
    text = datetime.fromtimestamp(ms // 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{ms % 1000:03d} UTC" if ms % 1000 else f"{text} UTC"


@dataclass(frozen=True)
class Settled:
    """Times after one reading of their numbers.

    Attributes:
        ms: (N,) int64, ms since 1970 UTC.
        bad: (N,) bool, True if it is not a time.
    """

    ms: np.ndarray
    bad: np.ndarray


@dataclass(frozen=True)
class Numbers:
    """What is known of a set of numbers that stand for times.

    Attributes:
        count: how many.
        first: ms and number of the earliest, both infinite if there is none.
        early: how many mean a day before 1990.
        units: how many are s, ms, us and ns.
    """

    count: int
    first: tuple[float, float]
    early: int
    units: tuple[int, ...]

    @classmethod
    def of(cls, ms: np.ndarray, number: np.ndarray) -> Numbers:
        """Of (N,) ms and the numbers as written."""
        unit = np.searchsorted([limit for _, limit in UNITS], number, side="right")
        units = np.bincount(unit, minlength=len(UNITS)).tolist()
        return cls(len(ms), _least(ms, number), int(np.sum(ms < EARLY_MS)), tuple(units))

    def __add__(self, other: Numbers) -> Numbers:
        units = tuple(map(sum, zip(self.units, other.units, strict=True)))
        first = min(self.first, other.first)
        return Numbers(self.count + other.count, first, self.early + other.early, units)

    def notes(self) -> list[str]:
        """Sentences on days before 1990, and on several units."""
        found = []
        if self.early:
            found.append(
                f"{self.early:,} times are numbers that mean a day before 1990, the first "
                f"{self.first[1]:.15g} is {day(self.first[0])}: numbers are s, ms, us or ns since "
                f"1970, depending on their size; check the column"
            )
        if np.count_nonzero(self.units) > 1:
            each = zip(self.units, UNITS, strict=True)
            counts = ", ".join(f"{count:,} {name}" for count, (name, _) in each if count)
            found.append(f"times are numbers of several units, recognised by their size: {counts}")
        return found


@dataclass(frozen=True)
class Seen:
    """What decides how the numbers of all interactions are read. Parts can be added.

    Attributes:
        small: numbers below `SMALL`, and `large`: the others; both as `read` takes them.
        days: small numbers that are days, and those of them from 1970 to 2099.
        first_day: the smallest of the latter, infinite if there is none.
        excel: whether all small numbers can be days as Excel counts them.
    """

    small: Numbers
    large: Numbers
    days: tuple[int, int]
    first_day: float
    excel: bool

    @classmethod
    def of(cls, ms: np.ndarray, number: np.ndarray) -> Seen:
        """Of (N,) int64 ms, and (N,) float64 numbers as written, NaN for a date."""
        small = number < SMALL
        large = number >= SMALL
        found = number[small]
        days = _as_days(found)
        valid = (days >= 0) & (days < LAST_MS)
        return cls(
            small=Numbers.of(ms[small], found),
            large=Numbers.of(ms[large], number[large]),
            days=(int(np.sum(~np.isnan(days))), int(np.sum(valid))),
            first_day=float(found[valid].min(initial=np.inf)),
            excel=bool(np.all((found >= EXCEL_1970) & (found < EXCEL_2100))),
        )

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            small=self.small + other.small,
            large=self.large + other.large,
            days=(self.days[0] + other.days[0], self.days[1] + other.days[1]),
            first_day=min(self.first_day, other.first_day),
            excel=self.excel and other.excel,
        )

    @property
    def reading(self) -> Literal["since 1970", "days", "excel"]:
        """How small numbers are read."""
        # At most one in 50 arbitrary numbers of eight digits is a day: if most are days, all should
        # be.
        if 2 * self.days[0] > self.small.count:
            return "days"
        return "excel" if self.small.count and self.excel else "since 1970"

    def notes(self) -> list[str]:
        """Sentences on how the numbers were read."""
        if self.reading == "since 1970":
            return (self.small + self.large).notes()
        taken, first, what = self.days[1], self.first_day, "days"
        if self.reading == "excel":
            taken, first = self.small.count, self.small.first[1]
            what = "days since 1900, as Excel counts them"
        if not taken:
            return self.large.notes()
        number = np.array([first])
        example = f"{first:.15g} is {day(settle(self.reading, number, number).ms[0])}"
        note = f"{taken:,} times are numbers that were read as {what}: {example}"
        return [note, *self.large.notes()]


def settle(reading: str, ms: np.ndarray, number: np.ndarray) -> Settled:
    """Convert small numbers that are days or Excel serial numbers.

    Args:
        reading: `Seen.reading` of all interactions.
        ms: (N,), as `read` gives it.
        number: (N,) float64, the number as written, NaN for a date.
    """
    ms, bad = ms.astype(np.int64), np.zeros(len(ms), dtype=bool)
    small = np.flatnonzero(number < SMALL)
    if reading == "days":
        days = _as_days(number[small])
        bad[small] = outside = ~((days >= 0) & (days < LAST_MS))
        ms[small] = np.where(outside, ms[small], days)
    elif reading == "excel":
        ms[small] = np.round((number[small] - EXCEL_1970) * DAY_MS)
    return Settled(ms, bad)


def _least(ms: np.ndarray, number: np.ndarray) -> tuple[float, float]:
    """The smallest pair."""
    if not len(ms):
        return np.inf, np.inf
    earliest = ms.min()
    return float(earliest), float(number[ms == earliest].min())


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
