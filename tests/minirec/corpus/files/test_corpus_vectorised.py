"""Parsing by blocks and columns gives what the row parser gives for the whole file."""

import datetime
import decimal
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.parse import CATALOGUE, EVENTS, parse_rows
from minirec.corpus.files.rows import read_rows
from minirec.corpus.files.spec import FileSpec
from minirec.corpus.files.vectorised import parse

pytestmark = pytest.mark.slow

EVENT = {"user": "u", "item": "i", "rating": "r", "time": "t"}
ORDERED = {"user": "u", "item": "i", "order": "t"}
BARE = {"user": "u", "item": "i"}
ITEM = {"item": "u", "title": "i", "text": "genres", "category": "r", "weight": "t"}
PLAIN_ITEM = {"item": "u", "title": "i"}
HEADER = ("u", "i", "r", "t", "genres", "more")
MANY = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def same(spec: FileSpec, **limits) -> list[dict]:
    """The rows of a file, which both parsers read alike."""
    few = limits.pop("few_lines", 64)
    expected = parse_rows(read_rows(spec), spec).to_pylist()
    schema = EVENTS if spec.kind == "events" else CATALOGUE
    tables = [parse(b, {spec.path: spec}, few_lines=few) for b in read_blocks(spec, **limits)]
    for table in tables:
        assert table.schema == schema
        table.validate(full=True)
    assert [row for table in tables for row in table.to_pylist()] == expected
    return expected


# ---- lines of text

IDS = st.sampled_from(
    ["u1", "B00X", "1.0", "7", " u2 ", "u 3", "", " ", "nan", "NULL", "None", "<NA>", "null", "é"]
    + ["日本", "a\u2028b", "x\x00y", "\u00a0", "12345678901234567890", "-0", "\ufeffz", "\x7f"]
)
NUMBERS = st.sampled_from(
    ["5", "4.5", "3.0", "0", "-1", "6", "", "nan", "inf", "-inf", "1e400", "1_0", " 4 ", "+3"]
    + ["good", "1e-3", "٣", "9" * 400]
)
TIMES = st.sampled_from(
    ["1600000000", "1600000000123", "1600000000123456", "1600000000123456789", "964982703.5"]
    + ["0", "1", "20230115", "20230115103000", "20230231000000", "19650101000000", "45000.0007"]
    + ["1600000000.0005", "0.0005", "0.0015", "0.0025", "100000000000", "99999999999.9999"]
    + ["100000000000000", "99999999999999", "4102444800", "4102444799999", "4102444800000"]
    + ["4102444799999.5", "100000000000000000", "123456789012345678", "007", "-5", "+5", "1e9"]
    + ["1_600_000_000", " 1600000000 ", "nan", "inf", "", "soon", "2020-01-01", "3.0", "2.5"]
    + ["2020-01-01 10:00:00 UTC", "2020-01-01T01:00:00+01:00", "2020-13-01", "9" * 19, "9" * 31]
    + ["0.1", "1600000000.", ".5", "1600000000123500", "1600000000124500", "\u0661\u0662"]
)
TEXTS = st.sampled_from(
    ["Red", "Red kettle", " Two  spaces ", "<b>x</b> &amp; y", "", "nan", "a|b", "\u200b", "12.5"]
    + ["(no genres listed)", "5\u20ac", "$12.99", "é, ü", "1984", "x\ty", "\x1f", "a\u00a0b"]
)
DIRT = st.sampled_from(
    [b'"', b'""', b"\r", b"\n", b"\xff", b"\x00", b"\xef\xbb\xbf", b",", b"\t", b" ", b'\n"', b'",']
    + [b"\xed\xa0\x80", b"\r\r", b'"\n', b"\x0b", b"\n\n", b"\xc3"]
)
ENDS = st.sampled_from(
    [b"\n"] * 8 + [b"\r\n"] * 4 + [b"\r\r\n", b"\n\n", b"\n \n", b"\n\t\n", b"\r"]
)
ROW = st.tuples(IDS, IDS | TEXTS, NUMBERS | TEXTS, TIMES, TEXTS, TEXTS | IDS)
GOOD = st.builds(
    lambda n, rating, time: (f"U{n}", f"B{n % 7}", rating, str(time), "Red", "Kettle, blue"),
    st.integers(0, 10**6),
    st.sampled_from(["1", "4.5", "5.0"]),
    st.integers(1_600_000_000, 1_600_000_009).map(lambda s: s * 1000),
)


def quote(field: str, style: str, separator: str) -> str:
    needed = style == "all" or (style == "minimal" and any(c in field for c in f'\n\r"{separator}'))
    return '"' + field.replace('"', '""') + '"' if needed else field


@st.composite
def lines(draw, separator: str) -> bytes:
    """Rows with quotes of all kinds, some with damage at one place."""
    style = draw(st.sampled_from(["none", "all", "minimal"]))
    end = draw(ENDS)
    parts = [draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])), separator.join(HEADER).encode()]
    for row in draw(st.lists(st.one_of(GOOD, GOOD, ROW), max_size=12)):
        parts.append(draw(st.one_of(st.just(end), st.just(end), ENDS)))
        one = separator.join(quote(field, style, separator) for field in row).encode()
        if draw(st.integers(0, 3)) == 0:
            place = draw(st.integers(0, len(one)))
            one = one[:place] + draw(DIRT) + one[place:]
        parts += [(one + end) * draw(st.sampled_from([0] * 9 + [40, 110])), one]
    return b"".join(parts) + draw(st.sampled_from([b"", end, b"\n\n", b"\r"]))


def spec_of(path: Path, columns: dict[str, str], **more) -> FileSpec:
    kind = "events" if "user" in columns else "items"
    extra = ("more",) if columns is ITEM else ()
    return FileSpec(str(path), kind, columns=columns, extra=extra, **more)


@pytest.mark.parametrize("columns", [EVENT, ORDERED, BARE, ITEM, PLAIN_ITEM])
@pytest.mark.parametrize("format", ["csv", "tsv", "unquoted"])
@given(data=st.data(), block_bytes=st.sampled_from([1, 30, 200, 1500, 1 << 20]))
@MANY
def test_separated_values(tmp_path, columns, format, data, block_bytes):
    raw = data.draw(lines("," if format == "csv" else "\t"))
    packed = data.draw(st.booleans())
    path = tmp_path / ("rows.txt.gz" if packed else "rows.txt")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    spec = spec_of(
        path,
        columns,
        format="csv" if format == "csv" else "tsv",
        header=HEADER,
        quoted=format != "unquoted",
    )
    same(spec, block_bytes=block_bytes)


OBJECTS = st.sampled_from(
    ['{"u": "a", "i": "b", "r": 5, "t": 1600000000}{"u": "a"}', "{}", "[]", "{", "}", "1", "", " "]
    + ['{"u": "a", "u": "b", "i": "c", "r": 5, "t": 1600000000}', '{"u": NaN}', "\ufeff{}"]
    + ['{"u": "a", "i": "b", "r": 5, "t": 1600000000, "x": {"y": [1, {"z": null}]}}']
    + ['{"u": "a", "i": "b", "r": 5, "t": 1600000000, "x": 1, "x": 2}', '{"u": "a"', '"i": "b"}']
    + ['{"u": "a", "i": "b", "r": 5, "t": 1600000000, "x": ' + "[" * 1500 + "]" * 1500 + "}"]
    + ['{"u": "a", "i": "b", "r": 5, "t": 1600000000, "x": ' + "9" * 4301 + "}"]
    + ['{"u": "a", "i": "b", "r": 5, "t": 1600000000, "x": NaN}', '{"x": {', "}}", '{"x": {}']
    + ['{"u": "\\ud800", "i": "b"}', '{"\\u0075": "a", "i": "b", "r": 5, "t": 1600000000}']
    + ['{"u": "a", "i": "b", "r": 05, "t": 1}', '{"u": "a\x01", "i": "b", "r": 5, "t": 1600000000}']
    + ['{"u":"a","i":"b","r":-0,"t":1600000000} ', ' {"u":"a","i":"b","r":1.,"t":1600000000}']
    + ['{"u":"a","i":"b","r":5,"t":1600000000,}', '{"u":"a","i":"b","r":5,"t":1600000000}\x0c']
)
JSON_IDS = st.one_of(
    st.sampled_from(
        ["a", "b", "é", " a", "nan", "", "1.0", "日", "x\x00", "\ud800", "q\"'", "\x7f"]
    ),
    st.sampled_from([7, -0, 2**63, 2**64, -(2**63), 1.0, 1.5, -0.0, float("nan"), 1e300, 1e16]),
    st.sampled_from([None, True, [1], {"a": 1}]),
)
JSON_NUMBERS = st.one_of(
    NUMBERS.filter(lambda n: len(n) < 100),
    st.sampled_from([5, 4.5, 0, 6, -1, 2**70, None, True, [], float("inf"), 0.1, 10**400]),
)
JSON_TIMES = st.one_of(
    TIMES,
    st.sampled_from(
        [1_600_000_000, 1_600_000_000_123, 1.6e9, 20230115103000, 2**53 + 1, 10**18 + 1]
    )
    | st.sampled_from([0.0005, 1600000000123456789, -1, None, {}, False, 3, 2.5, 10**30]),
)
RECORDS = st.fixed_dictionaries(
    {}, optional={"u": JSON_IDS, "i": JSON_IDS, "r": JSON_NUMBERS, "t": JSON_TIMES, "x": JSON_IDS}
)


@st.composite
def good_records(draw) -> list[str]:
    """Rows whose values have one type a column, as a program writes them."""
    user = draw(
        st.sampled_from([st.integers(-5, 5), st.sampled_from(["a", "b c", "é"]), st.floats()])
    )
    rating = draw(st.sampled_from([st.integers(0, 6), st.floats(0, 6), NUMBERS]))
    time = draw(st.sampled_from([TIMES, st.integers(0, 2**62), st.floats(0, 1e19)]))
    rows = draw(st.lists(st.tuples(user, st.sampled_from(["i", "j"]), rating, time), max_size=8))
    dense = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return [
        json.dumps(dict(zip("uirt", row, strict=True)), ensure_ascii=False, separators=dense)
        for row in rows
    ]


@pytest.mark.parametrize("columns", [EVENT, ORDERED, BARE, {"item": "u", "title": "i"}])
@given(
    records=st.lists(
        good_records()
        | RECORDS.map(lambda r: [json.dumps(r)])
        | RECORDS.map(lambda r: [json.dumps(r, ensure_ascii=False)])
        | OBJECTS.map(lambda o: [o]),
        max_size=5,
    ),
    end=ENDS,
    bom=st.booleans(),
    block_bytes=st.sampled_from([1, 100, 700, 1 << 20]),
    few_lines=st.sampled_from([0, 0, 1, 3]),
)
@example(
    records=[['{"u":"a","i":"b"}{"u":"a","i":"b"}', '{"u": "a", "x": {}', '{"i": "b"}']],
    end=b"\n",
    bom=False,
    block_bytes=1 << 20,
    few_lines=1,
)
@MANY
def test_json_lines(tmp_path, columns, records, end, bom, block_bytes, few_lines):
    raws = [one.encode("utf-8", "surrogatepass") for several in records for one in several]
    path = tmp_path / "rows.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + b"".join(raw + end for raw in raws))
    spec = spec_of(path, columns, format="jsonl", header=())
    same(spec, block_bytes=block_bytes, few_lines=few_lines)


# ---- Parquet

INSTANTS = st.sampled_from(
    [
        datetime.datetime(2020, 1, 1, 10, 0, 0, 123456),
        datetime.datetime(2020, 1, 1, 10, 0, 0, 500),
        datetime.datetime(2020, 1, 1),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 999999),
        datetime.datetime(1970, 1, 1),
        datetime.datetime(2099, 12, 31, 23, 59, 59, 999700),
        datetime.datetime(2100, 1, 1),
    ]
)
DECIMALS = st.decimals(-10, 10**10, places=2, allow_nan=False) | st.integers(0, 9).map(
    decimal.Decimal
)
TYPES = [
    (pa.string(), IDS | TIMES | TEXTS),
    (pa.large_string(), IDS | TIMES | NUMBERS),
    (pa.string_view(), IDS),
    (pa.dictionary(pa.int32(), pa.string()), IDS | NUMBERS),
    (pa.binary(), IDS.map(str.encode) | st.sampled_from([b"\xff", b"a"])),
    (pa.large_binary(), TIMES.map(str.encode)),
    (pa.binary(2), st.sampled_from([b"ab", b"\xc3\xa9", b"\xff\xfe"])),
    (pa.int8(), st.integers(-2, 9)),
    (pa.int32(), st.integers(0, 2**31 - 1)),
    (pa.int64(), st.integers(-1, 2**63 - 1) | st.just(1_600_000_000_123)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float16(), st.sampled_from([0.0, 4.5, 5.0])),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats() | st.sampled_from([1.0, 4.5, 1.6e9, 1600000000123.0])),
    (pa.bool_(), st.booleans()),
    (pa.decimal128(20, 2), DECIMALS),
    (pa.timestamp("s"), INSTANTS.map(lambda d: d.replace(microsecond=0))),
    (pa.timestamp("ms"), INSTANTS.map(lambda d: d.replace(microsecond=123000))),
    (pa.timestamp("us"), INSTANTS),
    (pa.timestamp("ns"), INSTANTS),
    (pa.timestamp("us", "Europe/Paris"), INSTANTS),
    (pa.date32(), INSTANTS.map(datetime.datetime.date)),
    (pa.date64(), INSTANTS.map(datetime.datetime.date)),
    (pa.time64("us"), INSTANTS.map(datetime.datetime.time)),
    (pa.list_(pa.string()), st.lists(TEXTS, max_size=2)),
    (pa.null(), st.none()),
]


@st.composite
def tables(draw) -> pa.Table:
    n = draw(st.integers(0, 7))
    columns = []
    for name in HEADER:
        usual = {"t": [9, 18, 20, 0], "r": [13, 7, 12]}.get(name, [0, 3, 9])
        type, values = TYPES[draw(st.sampled_from(usual) | st.integers(0, len(TYPES) - 1))]
        gaps = st.none() if draw(st.booleans()) else values
        columns.append(pa.array(draw(st.lists(values | gaps, min_size=n, max_size=n)), type))
    return pa.table(columns, names=list(HEADER))


@pytest.mark.parametrize("columns", [EVENT, ORDERED, BARE, ITEM, PLAIN_ITEM])
@given(
    table=tables(),
    group=st.integers(1, 4),
    block_rows=st.integers(1, 8),
    block_bytes=st.sampled_from([1, 1 << 20]),
)
@MANY
def test_parquet(tmp_path, columns, table, group, block_rows, block_bytes):
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=group)
    spec = spec_of(tmp_path / "rows.parquet", columns, format="parquet", header=HEADER)
    same(spec, block_rows=block_rows, block_bytes=block_bytes)
