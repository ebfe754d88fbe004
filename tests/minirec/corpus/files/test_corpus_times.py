"""Times: units by size, dates in digits, serial numbers of Excel."""

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.corpus.files import times

SECOND_2020 = 1_577_836_800  # 2020-01-01


class Got(NamedTuple):
    ms: np.ndarray
    bad: np.ndarray
    notes: list[str]


def settle(*values) -> Got:
    read = [times.read(value) for value in values]
    number = np.array([np.nan if n is None else n for _, n in read])
    ms = np.array([ms for ms, _ in read])
    half = len(ms) // 2
    seen = times.Seen.of(ms[:half], number[:half]) + times.Seen.of(ms[half:], number[half:])
    assert seen == times.Seen.of(ms, number)
    settled = times.settle(seen.reading, ms, number)
    return Got(settled.ms, settled.bad, seen.notes())


def ms(*date) -> int:
    return round(datetime(*date, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SECOND_2020, ms(2020, 1, 1)),
        (str(SECOND_2020) + ".25", ms(2020, 1, 1) + 250),
        (SECOND_2020 * 10**3, ms(2020, 1, 1)),
        (SECOND_2020 * 10**6 + 1000, ms(2020, 1, 1) + 1),
        (str(SECOND_2020 * 10**9 + 10**6), ms(2020, 1, 1) + 1),
        (20200102030405, ms(2020, 1, 2, 3, 4, 5)),
        ("2020-01-02 03:04:05 UTC", ms(2020, 1, 2, 3, 4, 5)),
        ("2020-01-02 03:04:05.250 UTC", ms(2020, 1, 2, 3, 4, 5) + 250),
        ("2020-01-02 03:04:05 GMT", ms(2020, 1, 2, 3, 4, 5)),
        ("2020-01-02 03:04:05 +0100 UTC", ms(2020, 1, 2, 2, 4, 5)),
        ("2020-01-02 03:04:05 +01:00", ms(2020, 1, 2, 2, 4, 5)),
        ("2020-01-02UTC", ms(2020, 1, 2)),
        ("2020-01-02T03:04:05Z", ms(2020, 1, 2, 3, 4, 5)),
        (0, 0),
        (99_999_999_999.0 / 1000, 99_999_999_999 // 1),
    ],
)
def test_one_time(value, expected):
    assert times.read(value)[0] == expected


@pytest.mark.parametrize(
    "value",
    [-1, "-1", "nan", "inf", 1e300, 10**400, 10**19, "UTC", "", "yesterday", "20201301000000",
     "1969-12-31", "2100-01-01", "2020-13-01 UTC"],
)  # fmt: skip
def test_no_time(value):
    with pytest.raises(ValueError):
        times.read(value)


def test_days_in_digits():
    got = settle("20230115", 20230116, 20240229.0)
    assert got.ms.tolist() == [ms(2023, 1, 15), ms(2023, 1, 16), ms(2024, 2, 29)]
    assert not got.bad.any()
    assert got.notes == ["3 times are numbers that were read as days: 20230115 is 2023-01-15"]


def test_what_is_no_day_among_days_is_bad():
    got = settle(20230115, 20230116, 20230117, 20230230, 0, 19650101, "2023-05-01", SECOND_2020)
    assert got.bad.tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert got.ms[6:].tolist() == [ms(2023, 5, 1), ms(2020, 1, 1)]
    assert got.notes[0].startswith("3 times are numbers that were read as days")


def test_relative_seconds_are_no_days():
    values = list(range(19_000_000, 21_000_000, 50_000)) + [20_230_115]
    got = settle(*values)
    assert got.ms.tolist() == [1000 * value for value in values]
    assert not got.bad.any()
    (note,) = got.notes
    assert note.startswith("41 times are numbers that mean a day before 1990")
    assert "the first 19000000 is 1970-08-08" in note


def test_serial_numbers_of_excel():
    got = settle("45000.5", 45001, "45000.000694444")  # one minute is 0.000694444 days
    assert got.ms.tolist() == [ms(2023, 3, 15, 12), ms(2023, 3, 16), ms(2023, 3, 15, 0, 1)]
    assert got.notes == [
        "3 times are numbers that were read as days since 1900, as Excel counts them: "
        "45000.000694444 is 2023-03-15"
    ]


def test_a_counter_is_no_serial_number():
    got = settle(1, 30_000, 60_000)
    assert got.ms.tolist() == [1000, 30_000_000, 60_000_000]
    assert "the first 1 is 1970-01-01" in got.notes[0]


def test_a_zero_among_times_is_said():
    got = settle(SECOND_2020, 0, SECOND_2020 + 1)
    assert "1 times are numbers that mean a day before 1990, the first 0 is 1970-01-01" in str(
        got.notes
    )


def test_several_units_are_said():
    got = settle(SECOND_2020, SECOND_2020 * 1000, SECOND_2020 * 1000, "2020-01-01")
    assert set(got.ms.tolist()) == {ms(2020, 1, 1)}
    assert got.notes == [
        "times are numbers of several units, recognised by their size: 1 seconds, 2 milliseconds"
    ]


def test_usual_times_need_no_note():
    assert settle(SECOND_2020, SECOND_2020 + 1).notes == []
    assert settle("1985-01-01", "2020-01-01").notes == []
    assert settle().notes == []


EDGES = [10.0**power for power in range(9, 21)] + [times.LAST_MS * f for f in (1e-3, 1, 1e3, 1e6)]
NUMBERS = st.floats() | st.builds(
    lambda edge, step: edge + step / 2, st.sampled_from([0.0, *EDGES]), st.integers(-9, 9)
)


@given(numbers=st.lists(NUMBERS | st.integers(0, 2**62).map(float), max_size=5))
def test_numbers_are_read_together_as_they_are_alone(numbers):
    ms, ok = times.read_numbers(np.array(numbers, dtype=np.float64))
    for number, one, known in zip(numbers, ms.tolist(), ok.tolist(), strict=True):
        if known:
            assert times.read(number) == (one, number)
        elif not 1.97e13 <= number < 2.2e13:  # a number of 14 digits may be a date
            with pytest.raises(ValueError):
                times.read(number)
