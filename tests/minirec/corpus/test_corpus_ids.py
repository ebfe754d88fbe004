"""Ids of several files: decimals that are whole numbers, and keys that nearly match."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from minirec.corpus import ids
from minirec.corpus.ids import known_key


def spelled(*columns):
    tables = [pa.chunked_array([pa.array(column, pa.string())]) for column in columns]
    dotted = pa.chunked_array([ids.dotted(table) for table in tables]).unique()
    there = pa.chunked_array([chunk for table in tables for chunk in table.chunks])
    whole, notes = ids.decimals("user", dotted, lambda asked: pc.is_in(asked, there.unique()))
    got = [ids.without_decimals(table) if whole else table for table in tables]
    return [column.to_pylist() for column in got], notes


def test_decimals_in_one_file_and_whole_numbers_in_another():
    got, notes = spelled(["1.0", "2.00", None, "7"], ["1", "2", "a"])
    assert got == [["1", "2", None, "7"], ["1", "2", "a"]]
    assert notes == ["2 user ids are decimals such as 1.0; read as whole numbers"]


@pytest.mark.parametrize("other", ["1.5", "1.10", "1.0.2", "0.1"])
def test_decimals_that_mean_something_stay(other):
    got, notes = spelled(["1.0", "2.0"], [other, "1"])
    assert got == [["1.0", "2.0"], [other, "1"]]
    assert notes == [
        "1 user ids are written in two ways, such as 1 and 1.0; they count as different ids, "
        f"since decimals such as {other} occur too"
    ]
    assert spelled(["1.0", other]) == ([["1.0", other]], [])


@pytest.mark.parametrize("value", ["007", "007.0", "1.10", "v1.0", "1.", ".0", "1.0.0", "a.b"])
def test_other_ids_stay(value):
    assert spelled([value, "7"]) == ([[value, "7"]], [])


def test_large_and_negative_numbers():
    got, _ = spelled(["9223372036854775813.0", "-1.0", "0.0"])
    assert got == [["9223372036854775813", "-1", "0"]]


def test_keys_that_nearly_match():
    catalogue = pa.array(["101", "B0x"])
    assert ids.nearest(pa.array(["7", "00101"]), catalogue) == ("00101", "101")
    assert ids.nearest(pa.array(["b0X"]), catalogue) == ("b0X", "B0x")
    assert ids.nearest(pa.array(["7"]), catalogue) is None


def test_a_key_may_be_written_with_the_decimals_that_the_corpus_dropped():
    assert known_key("1.0", {"1", "2"}) == "1"
    assert known_key("1.0", {"1", "1.0"}) == "1.0"
    assert known_key("3.0", {"1"}) == "3.0"
    assert known_key("1.5", {"1"}) == "1.5"
