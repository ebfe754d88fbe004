"""Quotes of CSV and TSV: a multi-line field is one row, an unmatched quote costs no other row."""

import csv
import gzip

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minirec.corpus.files import quoting
from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.spec import FileSpec, read_header
from minirec.corpus.files.vectorised import parse
from minirec.errors import CorpusError

EVENTS = {"user": "user", "item": "item", "time": "time"}
ITEMS = {"item": "item", "title": "title", "text": "text"}


def read(path, columns, **limits) -> list[dict]:
    """The rows of a file as the parser sees them, good and rejected."""
    format = "tsv" if ".tsv" in path.name else "csv"
    header = read_header(path, format=format)
    kind = "events" if "user" in columns else "items"
    columns = {role: name for role, name in columns.items() if name in header}
    spec = FileSpec(str(path), kind, format, header, columns)
    blocks = [parse(block, {spec.path: spec}) for block in read_blocks(spec, **limits)]
    return [row for block in blocks for row in block.to_pylist()]


# ---- fields of one row


@pytest.mark.parametrize(
    ("delimiter", "text", "fields"),
    [
        (",", 'a,"b, c",d', ["a", "b, c", "d"]),
        (",", 'a,"b ""c""",d', ["a", 'b "c"', "d"]),
        (",", 'a,12" disc,d', ["a", '12" disc', "d"]),
        (",", 'a, "b",d', ["a", ' "b"', "d"]),
        (",", 'a,"b\nc",d', ["a", "b\nc", "d"]),
        (",", 'a,"b\rc",d', ["a", "b c", "d"]),
        ("\t", 'a\tSingle 12"\td', ["a", 'Single 12"', "d"]),
        ("\t", 'a\t"Heroes\td', ["a", '"Heroes', "d"]),
        ("\t", 'a\t"Heroes\t12"', ["a", '"Heroes', '12"']),
        ("\t", '"a"\t"b ""c"""\t""', ["a", 'b "c"', ""]),
        ("\t", 'a\t"b" and "c"\td', ["a", '"b" and "c"', "d"]),
        ("\t", 'a\t"b\tc"\td', ["a", "b\tc", "d"]),
        ("\t", 'a\t"\td', ["a", '"', "d"]),
    ],
)
def test_fields(delimiter, text, fields):
    assert quoting.split(text, delimiter, 3) == fields


@pytest.mark.parametrize(
    ("delimiter", "text", "reason"),
    [
        (",", 'a,"b,c', "unclosed quote"),
        (",", 'a,"b"x,c', "bad quotes"),
        (",", 'a,"b"', "wrong number of fields"),
        ("\t", 'a\t"b', "unclosed quote"),
        ("\t", "a\tb", "wrong number of fields"),
        (",", 'a,"b",c\nd,e,f', "bad quotes"),
    ],
)
def test_rows_without_the_right_fields(delimiter, text, reason):
    with pytest.raises(quoting.BadRow, match=reason):
        quoting.split(text, delimiter, 3)


def test_a_long_field():
    assert quoting.split(f'a,"{"x, " * 100_000}"', ",", 2)[1] == "x, " * 100_000


# ---- an unmatched quote


def lines_of(separator: str, *, quotes: dict[int, str]) -> list[str]:
    """40 interactions, some of them with another title."""
    header = separator.join(("user", "item", "title", "time"))
    titles = [quotes.get(n, f"Item {n}") for n in range(40)]
    rows = [
        (f"u{n}", str(100 + n), title, str(1_600_000_000 + n)) for n, title in enumerate(titles)
    ]
    return [header, *(separator.join(row) for row in rows)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "tsv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "quotes",
    [
        {3: '"Heroes', 30: 'Single 12"'},
        {3: '"Heroes', 4: 'Single 12"'},
        {3: '"Heroes', 20: '"Singles', 30: 'Single 12"'},
        {3: '"Heroes'},
        {39: '"Heroes'},
    ],
    ids=["pair", "adjacent", "two and one", "never closed", "last line"],
)
@pytest.mark.parametrize("block_bytes", [1, 150, 10_000])
def test_an_unmatched_quote_swallows_no_event(tmp_path, suffix, end, quotes, block_bytes):
    raw = end.join(lines_of("\t" if "tsv" in suffix else ",", quotes=quotes)).encode()
    path = tmp_path / f"events.{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    rows = read(path, EVENTS, block_bytes=block_bytes)
    assert [row["line"] for row in rows] == list(range(2, 42))
    opened = {n for n, title in quotes.items() if title.startswith('"')}
    bad = set() if "tsv" in suffix else opened
    for n, row in enumerate(rows):
        assert row["reason"] == ("unclosed quote" if n in bad else None)
        assert row["user"] == (None if n in bad else f"u{n}")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_an_unmatched_quote_swallows_no_item(tmp_path, suffix):
    separator = "\t" if suffix == "tsv" else ","
    titles = {3: '"Heroes', 9: 'Single 12"'}
    rows = [("item", "title"), *((str(n), titles.get(n, f"Item {n}")) for n in range(20))]
    path = tmp_path / f"items.{suffix}"
    path.write_text("\n".join(separator.join(row) for row in rows))
    got = read(path, ITEMS)
    assert len(got) == 20
    assert got[9]["title"] == 'Single 12"' and got[4]["title"] == "Item 4"
    if suffix == "tsv":
        assert got[3]["title"] == '"Heroes'
    else:
        assert (got[3]["reason"], got[3]["raw"]) == ("unclosed quote", '3,"Heroes')


def test_bad_dates_between_two_quotes_are_counted(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(
        "user,item,title,time\n"
        'u1,1,"Heroes,1600000000\n'
        "u2,2,Two,yesterday\n"
        "u3,3,Three,yesterday\n"
        'u4,4,Single 12",1600000001\n'
    )
    assert [row["reason"] for row in read(path, EVENTS)] == [
        "unclosed quote",
        "bad date",
        "bad date",
        None,
    ]


# ---- a field of several lines


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_descriptions_of_several_lines(tmp_path, suffix, end):
    items = [
        ("1", "One", "A first line,\nand a second, with a comma.\n\nA fourth."),
        ("2", "Two\nlines", 'Of 12" size,\nor "larger"'),
        ("3", "Three", "plain"),
        ("4", "\nFour", ""),
    ]
    path = tmp_path / f"items.{suffix}"
    with open(path, "w", newline="") as file:
        separator = "\t" if suffix == "tsv" else ","
        writer = csv.writer(file, delimiter=separator, lineterminator=end)
        writer.writerows([("item", "title", "text"), *items])
    got = read(path, ITEMS)
    assert [(row["key"], row["title"], row["text"]) for row in got] == [
        (key, " ".join(title.split()), " ".join(text.split())) for key, title, text in items
    ]
    assert [row["line"] for row in got] == [2, 6, 9, 10]


def test_a_review_of_several_lines_beside_its_time(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text('user,item,review,time\nu,i,"Good,\nbut 1,000\n2,3,4 times",1600000000\n')
    (row,) = read(path, EVENTS)
    assert (row["user"], row["time"], row["line"]) == ("u", 1_600_000_000_000, 2)


def test_even_quotes_can_leave_a_field_open(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item,title,text\n1,Disc 12" x,"A first\nand a second line"\n2,Two,\n')
    one, two = read(path, ITEMS)
    assert (one["title"], one["text"]) == ('Disc 12" x', "A first and a second line")
    assert two["title"] == "Two"


@pytest.mark.parametrize("more", [100, 101])
def test_the_longest_field(tmp_path, more):
    path = tmp_path / "items.csv"
    text = "\n".join(["word"] * more)
    path.write_text(f'item,title,text\n1,One,"First\n{text}"\n2,Two,\n')
    rows = read(path, ITEMS)
    if more == 100:
        assert [row["reason"] for row in rows] == [None, None]
    else:
        assert rows[0]["reason"] == "unclosed quote"
        assert len(rows) == 1 + more + 1 and rows[-1]["title"] == "Two"


def test_a_header_with_an_unclosed_quote(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text('user,"item,time\nu,i,1600000000\n')
    with pytest.raises(CorpusError, match="line 1: unclosed quote in the header"):
        read_header(path, format="csv")


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ("item,title,text,brand", "Bright,\nand 1,000 of them"),
        ("item,title,text", "Numbers:\n1,000,000 sold\nand no end\nin sight"),
    ],
)
def test_texts_with_commas_without_a_blank(tmp_path, columns, text):
    path = tmp_path / "items.csv"
    brand = ",B" if "brand" in columns else ""
    path.write_text(f'{columns}\n1,One,"{text}"{brand}\n2,Two,{brand}\n')
    one, two = read(path, ITEMS)
    assert (one["text"], two["title"]) == (" ".join(text.split()), "Two")


TITLES = st.sampled_from(['"Heroes', 'Single 12"', '"Low"', '"', '""', 'a "b" c', '"a"b', "Plain"])


@given(
    titles=st.lists(TITLES, max_size=12), kind=st.sampled_from(["csv", "tsv"]), items=st.booleans()
)
@example(titles=['"Heroes', '""', '""', 'Single 12"'], kind="csv", items=True)
def test_each_line_of_plain_quotes_is_one_row(tmp_path_factory, titles, kind, items):
    separator = "\t" if kind == "tsv" else ","
    header = ("item", "title") if items else ("user", "item", "title", "time")
    rows = [
        (f"{n}", title) if items else (f"u{n}", f"{n}", title, f"{1_600_000_000 + n}")
        for n, title in enumerate(titles)
    ]
    lines = [separator.join(row) for row in rows]
    path = tmp_path_factory.getbasetemp() / f"plain.{kind}"
    path.write_text("\n".join([separator.join(header), *lines]))
    got = read(path, ITEMS if items else EVENTS)
    assert [row["line"] for row in got] == list(range(2, 2 + len(lines)))
    for row, line in zip(got, lines, strict=True):
        if kind == "tsv":
            assert row["reason"] == ("missing title" if items and line.endswith('\t""') else None)
            continue
        try:
            (fields,) = csv.reader([line], strict=True)
        except csv.Error:
            assert row["reason"] in ("unclosed quote", "bad quotes")
        else:
            untitled = items and not fields[1]
            assert row["reason"] == ("missing title" if untitled else None)


# ---- against the csv module


FIELDS = st.text(st.sampled_from('ab"\n ,\t'), max_size=6)


@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS, FIELDS).filter(lambda r: r[0].strip()), max_size=5),
    delimiter=st.sampled_from(",\t"),
    quoting_style=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example(rows=[('"', '"', '"')], delimiter="\t", quoting_style=csv.QUOTE_ALL)
def test_what_the_csv_module_writes_is_read(rows, delimiter, quoting_style):
    """If no line of a field can be a row, the result is that of the csv module."""
    text = []
    for row in rows:
        line: list[str] = []
        writer = csv.writer(_Lines(line), delimiter=delimiter, quoting=quoting_style)
        writer.writerow(row)
        text += "".join(line).removesuffix("\r\n").encode().split(b"\n")
    joined = quoting.join(
        iter(list(enumerate(text, 2))), delimiter, 3, like_a_row=lambda fields: False, share=0
    )
    got = [quoting.split(raw.decode(), delimiter, 3) for _, raw in joined]
    assert got == [list(row) for row in rows]


class _Lines:
    def __init__(self, lines: list[str]):
        self.write = lines.append
