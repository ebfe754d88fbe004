"""Events without times, ordered by a column or by their place in the files."""

import gzip
from collections import Counter

import pyarrow as pa
import pytest
from helpers.paths import SHARED
from helpers.small_corpora import read

from minirec.corpus.assemble import Assembled
from minirec.errors import CorpusError

DATA = SHARED / "data"


def histories(got: Assembled, **settings) -> list[tuple[str, list[str], str]]:
    """User, titles of the history and title of the target of each sample, by leave-one-out."""
    made = got.samples(split="leave_one_out", **settings)
    titles = got.catalogue["title"].take(pa.array(made.item_codes)).to_pylist()
    return [
        (row["user"], [titles[i] for i in row["history"]], titles[row["target"]])
        for table in made.tables.values()
        for row in table.to_pylist()
    ]


def test_a_column_orders_events_without_times(tmp_path):
    rows = ["user,item,title,place", "u,i1,A,3.0", "u,i2,B,1", "u,i3,C,2", "u,i4,D,10"]
    (tmp_path / "events.csv").write_text("\n".join(rows) + "\nu,i5,E,\nu,i6,F,1.5\n")
    got = read(source="table", path=str(tmp_path), columns={"order": "place"})
    assert got.counts == {"bad order": 2}
    assert histories(got) == [
        ("u", ["B"], "C"),
        ("u", ["B", "C"], "A"),
        ("u", ["B", "C", "A"], "D"),
    ]


def test_the_order_of_the_rows_may_be_that_of_the_events(tmp_path):
    header = "user,item,title"
    (tmp_path / "a.csv").write_text(f"{header}\nu,i1,D\nv,i2,C\nu,i3,B\n")
    (tmp_path / "b.csv").write_text(f"{header}\nu,i4,A\nu,i1,D\n")
    got = read(source="table", path=str(tmp_path), columns={"order": "file"})
    assert len(got.rejected) == 0  # a second purchase is not a duplicate
    assert histories(got) == [
        ("u", ["D"], "B"),
        ("u", ["D", "B"], "A"),
        ("u", ["D", "B", "A"], "D"),
    ]


def test_events_of_one_place_are_of_one_visit(tmp_path):
    rows = ["user,item,title,visit", "u,i1,A,1", "u,i2,B,2", "u,i3,C,2", "u,i4,D,3", "u,i5,E,4"]
    (tmp_path / "events.csv").write_text("\n".join(rows))
    got = read(source="table", path=str(tmp_path), columns={"order": "visit"})
    assert histories(got, ties="key") == [
        ("u", ["A"], "B"),
        ("u", ["A"], "C"),
        ("u", ["A", "B", "C"], "D"),
        ("u", ["A", "B", "C", "D"], "E"),
    ]


def test_part_10_comes_after_part_2(tmp_path):
    for n in (1, 2, 10):
        (tmp_path / f"log-{n}.csv").write_text(f"user,item,title\nu,i{n},T{n}\n")
    (tmp_path / "log-11.csv").write_text("user,item,title\nu,i11,T11\n")
    got = read(source="table", path=str(tmp_path), columns={"order": "file"})
    assert [found[2] for found in histories(got)] == ["T2", "T10", "T11"]


@pytest.mark.parametrize(
    ("text", "order"),
    [("9007199254740993", 9007199254740993), ("-3", -3), ("7.0", 7), (" 8 ", 8)],
)
def test_orders_that_are_whole_numbers(tmp_path, text, order):
    (tmp_path / "events.csv").write_text(f"user,item,title,n\nu,i,T,{text}\nu,j,T,0\n")
    got = read(source="table", path=str(tmp_path), columns={"order": "n"})
    assert sorted(got.events.time.tolist()) == sorted([order, 0])


@pytest.mark.parametrize(
    "text", ["", "1.5", "x", "2024-01-01", "1e30", "nan", "9223372036854775808"]
)
def test_orders_that_are_none(tmp_path, text):
    (tmp_path / "events.csv").write_text(f"user,item,title,n\nu,i,T,{text}\nu,j,T,0\n")
    got = read(source="table", path=str(tmp_path), columns={"order": "n"})
    assert got.counts == {"bad order": 1}


def test_a_text_with_line_breaks_beside_an_order(tmp_path):
    rows = ["user,item,title,n", 'u,i1,"Good,', "but 1,000,x,y", 'end",3', "u,i2,Lamp,4"]
    (tmp_path / "events.csv").write_text("\n".join(rows) + "\n")
    got = read(source="table", path=str(tmp_path), columns={"order": "n"})
    assert got.counts == {}
    assert got.catalogue["title"].to_pylist() == ["Good, but 1,000,x,y end", "Lamp"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": {"order": "n", "time": "t"}}, "corpus.columns.time has no effect"),
        ({"columns": {"order": "n"}, "start": "2020-01-01"}, "corpus.start has no effect"),
        ({"columns": {"order": "m"}}, "no column 'm'"),
        ({}, "no column 'time'.*where events have no times, set corpus.columns.order"),
    ],
)
def test_what_an_order_cannot_be(tmp_path, settings, words):
    (tmp_path / "events.csv").write_text("user,item,title,n\nu,i,A,1\n")
    with pytest.raises(CorpusError, match=words):
        read(source="table", path=str(tmp_path), **settings)


@pytest.mark.slow
def test_a_public_leave_one_out_corpus():
    path = DATA / "amazon2014_beauty"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    columns = {"order": "position", "title": "item"}
    got = read(source="table", path=str(path), columns=columns)
    made = got.samples(split="leave_one_out", history=50)
    sizes = [len(made.tables[name]) for name in ("train", "valid", "test")]
    assert sizes == [198_502 - 3 * 22_363, 22_363, 22_363]
    lengths = made.tables["test"]["history"].combine_chunks().value_lengths()
    with gzip.open(path / "events.csv.gz", "rt") as file:
        rows = [line.split(",") for line in file.read().splitlines()[1:]]
    events = Counter(user for user, *_ in rows)
    users = made.tables["test"]["user"].to_pylist()
    assert lengths.to_pylist() == [min(50, events[user] - 1) for user in users]
