"""Parsing rows: nothing raises, no row is lost, reasons are right."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.corpus.files.parse import CATALOGUE, EVENTS, parse_rows
from minirec.corpus.files.spec import FileSpec

COLUMNS = {"user": "u", "item": "i", "rating": "r", "time": "t"}
CSV = FileSpec("a.csv", "events", "csv", ("u", "i", "r", "t"), COLUMNS)
TSV = FileSpec("a.inter", "events", "tsv", ("u", "i", "r", "t"), COLUMNS)
JSONL = FileSpec("a.jsonl", "events", "jsonl", (), COLUMNS)
ITEMS = FileSpec(
    "m.jsonl",
    "items",
    "jsonl",
    (),
    {"item": "i", "title": "title", "text": "text", "category": "c"},
    extra=("more",),
)
CSV_ITEMS = FileSpec("m.csv", "items", "csv", ("i", "title", "g"), {"item": "i", "title": "title"})


def rows(spec: FileSpec, *raws: bytes) -> list[dict]:
    table = parse_rows(enumerate(raws, start=2), spec)
    assert table.schema == (EVENTS if spec.kind == "events" else CATALOGUE)
    return table.to_pylist()


def test_an_event_in_csv_and_json():
    expected = {"user": "u1", "item": "i1", "rating": 4.5, "time": 1_500_000_000_123}
    for spec, raw in (
        (CSV, b"u1,i1,4.5,1500000000123"),
        (CSV, b'u1,"i1",4.5,1500000000123'),
        (JSONL, b'{"u": "u1", "i": "i1", "r": 4.5, "t": 1500000000123}'),
    ):
        (row,) = rows(spec, raw)
        assert {k: row[k] for k in expected} == expected
        assert (row["file"], row["line"], row["reason"]) == (spec.path, 2, None)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1260759144", 1_260_759_144_000),
        ("964982703.5", 964_982_703_500),
        ("1547589356557", 1_547_589_356_557),
        ("2020-01-01", 1_577_836_800_000),
        ("2020-01-01T01:00:00+01:00", 1_577_836_800_000),
        ("2020-01-01 00:00:00", 1_577_836_800_000),
    ],
)
def test_times(text, ms):
    assert rows(CSV, f"u,i,3,{text}".encode())[0]["time"] == ms


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"u,i,good,1500000000", "bad number"),
        (b"u,i,,1500000000", "bad number"),
        (b"u,i,nan,1500000000", "bad number"),
        (b"u,i,3,yesterday", "bad date"),
        (b"u,i,3,", "bad date"),
        (b"u,i,3,-5", "bad date"),
        (b"u,i,3,1e300", "bad date"),
        (b"u,i,3,2020-13-01", "bad date"),
        (b"u,i,5.5,1500000000", "rating outside its range"),
        (b"u,i,-1,1500000000", "rating outside its range"),
        (b",i,3,1500000000", "missing user"),
        (b"u, ,3,1500000000", "missing item"),
        (b"u,i,3", "wrong number of fields"),
        (b"u,i,3,1500000000,7", "wrong number of fields"),
        (b'u,"i,3,1500000000', "unclosed quote"),
        (b'u,"i"x,3,1500000000', "bad quotes"),
        (b'u,"i,3",1500000000', "wrong number of fields"),
        (b"nan,i,3,1500000000", "missing user"),
        (b"u,NULL,3,1500000000", "missing item"),
        (b"u\xff,i,3,1500000000", "wrong encoding"),
    ],
)
def test_malformed_csv(raw, reason):
    (row,) = rows(CSV, raw)
    assert row["reason"] == reason
    assert row["user"] is None
    assert row["raw"] == raw.decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"u": "a", ', "broken JSON"),
        (b"[1, 2]", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"u": "\\ud800", "i": "i", "r": 3, "t": 1500000000}', "wrong encoding"),
        (b'{"u": "a", "i": "i", "r": [3], "t": 1500000000}', "bad number"),
        (b'{"u": "a", "i": "i", "r": 1' + b"0" * 400 + b', "t": 1500000000}', "bad number"),
        (b'{"u": {"$oid": "5f"}, "i": "i", "r": 3, "t": 1500000000}', "user is an object"),
        (b'{"u": "a", "i": {}, "r": 3, "t": 1500000000}', "item is an object"),
        (b'{"u": "a", "i": ["i"], "r": 3, "t": 1500000000}', "item is a list"),
        (b'{"u": true, "i": "i", "r": 3, "t": 1500000000}', "user is true or false"),
        (b'{"u": "a", "i": "i", "r": 3, "t": {"$date": 1500000000}}', "time is an object"),
        (b'{"u": "a", "i": null, "r": 3, "t": 1500000000}', "missing item"),
        (b'{"u": NaN, "i": "i", "r": 3, "t": 1500000000}', "missing user"),
        (b'{"u": "a", "i": "i", "r": 3}', "bad date"),
    ],
)
def test_malformed_json(raw, reason):
    assert rows(JSONL, raw)[0]["reason"] == reason


def test_ratings_are_optional():
    spec = FileSpec(
        "a.csv", "events", "csv", ("u", "i", "t"), {"user": "u", "item": "i", "time": "t"}
    )
    assert rows(spec, b"u,i,1500000000")[0]["rating"] == 5.0


def test_ids_that_pandas_turned_into_floats():
    (row,) = rows(JSONL, b'{"u": 7.0, "i": 12, "r": 3, "t": 1500000000}')
    assert (row["user"], row["item"]) == ("7", "12")


def test_an_item_needs_only_a_key_and_a_title():
    full = {
        "i": "k",
        "title": " A \n title ",
        "text": ["One.", "Two."],
        "c": "All Beauty",
        "more": "x|y",
        "price": None,
    }
    bare = {"i": "k2", "title": "Bare", "text": None, "price": None}
    first, second = rows(ITEMS, json.dumps(full).encode(), json.dumps(bare).encode())
    assert first["title"] == "A title"
    assert first["text"] == "One. Two. x|y"
    assert first["category"] == "All Beauty"
    assert (second["title"], second["text"], second["category"]) == ("Bare", "", None)


def test_an_item_without_a_title_keeps_its_key():
    row, nameless = rows(ITEMS, b'{"i": "k", "title": ""}', b'{"title": "x"}')
    assert (row["key"], row["reason"]) == ("k", "missing title")
    assert (nameless["key"], nameless["reason"]) == (None, "missing item")


def test_a_title_that_is_an_object_keeps_its_key():
    (row,) = rows(ITEMS, b'{"i": "k", "title": {"en": "Kettle"}}')
    assert (row["key"], row["reason"]) == ("k", "title is an object")


@pytest.mark.parametrize("title", ["\u200b", "\ufeff \u00ad", "\x00", "nan", "NaN", "None", "<NA>"])
def test_titles_that_show_nothing(title):
    (row,) = rows(ITEMS, json.dumps({"i": "k", "title": title}).encode())
    assert (row["key"], row["reason"]) == ("k", "missing title")


@pytest.mark.parametrize(
    ("value", "title"),
    [
        (1984.0, "1984"),
        (1984.5, "1984.5"),
        (1984, "1984"),
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("8.5&rdquo; x 11&#39;&#x27;&nbsp;", "8.5\u201d x 11''"),
        ("AT&T, Q&A; R&D", "AT&T, Q&A; R&D"),
        ("x&copy=1 &unknown;", "x&copy=1 &unknown;"),
        ("<b>Bold</b> one<br/>line", "Bold one line"),
        ('1 <sup class="x">st</sup>', "1 st"),
        ("a < b > c, <3, <Title>", "a < b > c, <3, <Title>"),
        ("&lt;b&gt;", "<b>"),
        ("Nantes", "Nantes"),
    ],
)
def test_a_title_as_it_is_read(value, title):
    (row,) = rows(ITEMS, json.dumps({"i": "k", "title": value}).encode())
    assert (row["title"], row["reason"]) == (title, None)


def test_ids_keep_their_entities():
    (row,) = rows(ITEMS, b'{"i": "a&amp;<b>b", "title": "T"}')
    assert row["key"] == "a&amp;<b>b"


def test_a_rating_outside_its_range_is_kept_for_the_message():
    (row,) = rows(CSV, b"u,i,9.5,1500000000")
    assert (row["rating"], row["user"], row["time"]) == (9.5, None, None)


def test_the_number_of_a_time_is_kept():
    one, two = rows(CSV, b"u,i,3,45000.01", b"u,i,3,2020-01-01")
    assert (one["number"], two["number"]) == (45000.01, None)


def test_quoted_titles_with_commas():
    (row,) = rows(CSV_ITEMS, b'11,"American President, The (1995)",Comedy')
    assert row["title"] == "American President, The (1995)"


def test_only_line_breaks_end_a_csv_row():
    (row,) = rows(CSV_ITEMS, 'k,"A, B",x\u2028y\x0cz'.encode())
    assert (row["reason"], row["title"]) == (None, "A, B")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(["u", "i", "r", "t", "title", "text", "c", "more"])
RAWS = (
    st.binary(max_size=60)
    | st.text(max_size=40).map(lambda s: s.encode("utf-8", "surrogatepass"))
    | st.lists(
        st.sampled_from(["u1", '"', "3", "1e9", "", "a,b", '"q"', "inf", "\r"]), max_size=6
    ).map(lambda parts: ",".join(parts).encode())
    | st.dictionaries(FIELDS, JSON_VALUES, max_size=6).map(lambda d: json.dumps(d).encode())
)


@pytest.mark.parametrize("spec", [CSV, TSV, JSONL, ITEMS, CSV_ITEMS], ids=lambda s: s.path)
@given(raws=st.lists(RAWS, max_size=8))
def test_any_row_is_either_good_or_rejected(spec, raws):
    table = rows(spec, *raws)
    assert [row["line"] for row in table] == list(range(2, 2 + len(raws)))
    for row in table:
        if row["reason"] is not None:
            assert row["raw"] is not None
        elif spec.kind == "events":
            assert row["user"] and row["item"]
            assert 0 <= row["rating"] <= 5
            assert 0 <= row["time"] < 4_102_444_800_000
        else:
            assert row["key"] and row["title"] and row["text"] is not None
