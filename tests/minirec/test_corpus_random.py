"""Random files against an independent reader of the standard library.

The reader below knows nothing of blocks, of joined lines or of Arrow: `csv` and `json` read the
whole file, and each rule of docs/corpus.md is one line of plain Python.
"""

import csv
import gzip
import json
import math
import re
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.config import CorpusConfig
from minirec.corpus import files
from minirec.corpus.assemble import Assembled, assemble, counts
from minirec.corpus.files import read_blocks
from minirec.corpus.parse import parse
from minirec.corpus.sources import locate
from minirec.errors import CorpusError

NAMES = {
    "table": (("user", "item", "rating", "time"), ("item", "title", "text")),
    "amazon": (
        ("user_id", "parent_asin", "rating", "timestamp"),
        ("parent_asin", "title", "description"),
    ),
    "movielens": (("userId", "movieId", "rating", "timestamp"), ("movieId", "title", "genres")),
    "recbole": (
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("item_id:token", "title:token_seq", "more:token_seq"),
    ),
}
NOTHING = ("", "nan", "NaN", "None", "null", "NULL", "<NA>")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(corpus: CorpusConfig) -> Assembled:
    """What jobs.prepare does with Ray Data, in this process."""
    located = locate(corpus)
    tables = [
        pa.concat_tables(
            [parse(b, {spec.path: spec}) for spec in specs for b in read_blocks(spec)]
            or [parse(files.LINES.empty_table(), {s.path: s for s in specs})]
        )
        for specs in (located.events, located.items)
    ]
    return assemble(*tables, inline=located.inline)


# ---- the independent reader


class Rejected(Exception):
    pass


def rows_of(path: Path) -> list[dict | str]:
    """Rows of a file as dicts of its header, or the reason why a row is none."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        return pq.read_table(path).to_pylist()
    text = raw.decode("utf-8-sig", errors="surrogateescape")
    if kind == "jsonl":
        return [_json_row(line) for line in text.split("\n") if line.strip()]
    if kind == "csv":
        parsed = list(csv.reader(text.splitlines(keepends=True), strict=True))
        parsed = [row for row in parsed if row]
    elif kind == "tsv":
        parsed = list(csv.reader(text.splitlines(keepends=True), delimiter="\t", strict=True))
    else:  # RecBole quotes nothing
        parsed = [line.split("\t") for line in text.splitlines()]
    header = [name.split(":")[0] for name in parsed[0]]
    rows = [
        dict(zip(header, row, strict=True)) if len(row) == len(header) else "width"
        for row in parsed[1:]
    ]
    return [_encoded(row) for row in rows]


def _json_row(line: str) -> dict | str:
    if not _is_utf8(line):
        return "wrong encoding"
    try:
        return json.loads(line)
    except ValueError:
        return "broken JSON"


def _encoded(row: dict | str) -> dict | str:
    if isinstance(row, dict) and not all(map(_is_utf8, row.values())):
        return "wrong encoding"
    return {"width": "wrong number of fields"}.get(row, row) if isinstance(row, str) else row


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def as_text(value) -> str:
    if isinstance(value, float):
        value = "" if not math.isfinite(value) else int(value) if value == int(value) else value
    text = " ".join("" if value is None else str(value).split())
    return "" if text in NOTHING else text


def as_id(value, role: str) -> str:
    if not as_text(value):
        raise Rejected(f"missing {role}")
    return as_text(value)


def as_rating(value) -> float:
    try:
        rating = float(value)
    except (TypeError, ValueError):
        raise Rejected("bad number") from None
    if not math.isfinite(rating):
        raise Rejected("bad number")
    if not 0 <= rating <= 5:
        raise Rejected("rating outside its range")
    return rating


def as_time(value) -> tuple[int, float | None]:
    if value is None:
        raise Rejected("bad date")
    try:
        number = float(value)
    except ValueError:
        try:
            when = datetime.fromisoformat(str(value).strip().removesuffix(" UTC"))
        except ValueError:
            raise Rejected("bad date") from None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        number, ms = None, (when - EPOCH) // timedelta(milliseconds=1)
    else:
        limits = [(1e11, 1000), (1e14, 1), (1e17, 1 / 1000), (math.inf, 1 / 1_000_000)]
        factor = next(factor for limit, factor in limits if not number >= limit)
        if not 0 <= number * factor < 4_102_444_800_000:
            raise Rejected("bad date")
        ms = round(number * factor)
    if not 0 <= ms < 4_102_444_800_000:
        raise Rejected("bad date")
    return ms, number


def as_day(number: float) -> int | None:
    if not re.fullmatch(r"(19|20)\d{6}", f"{number:.0f}") or number != int(number):
        return None
    try:
        day = datetime.strptime(f"{number:.0f}", "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (day - EPOCH) // timedelta(milliseconds=1)


def expected(event_files: list[Path], item_files: list[Path], names) -> tuple:
    """Good events, titles by key, rejected rows by reason, and the number of rows."""
    (user, item, rating, time), (key, title, _) = [
        [name.split(":")[0] for name in part] for part in names
    ]
    rejected: Counter[str] = Counter()
    events, titles, untitled, rows = [], {}, set(), 0
    for path in sorted(event_files):
        for row in rows_of(path):
            rows += 1
            try:
                if isinstance(row, str):
                    raise Rejected(row)
                ids = as_id(row[user], "user"), as_id(row[item], "item")
                events.append([*ids, as_rating(row[rating]), *as_time(row[time])])
            except Rejected as reason:
                rejected[str(reason)] += 1
    catalogue = []
    for path in sorted(item_files):
        for row in rows_of(path):
            rows += 1
            try:
                if isinstance(row, str):
                    raise Rejected(row)
                catalogue.append((as_id(row[key], "item"), as_text(row[title])))
            except Rejected as reason:
                rejected[str(reason)] += 1
    _one_spelling(events, catalogue)
    for name, text in catalogue:
        if not text:
            untitled.add(name)
            rejected["missing title"] += 1
        elif name in titles:
            rejected["duplicate item"] += 1
        else:
            titles[name] = text
    small = [event for event in events if event[4] is not None and event[4] < 1e8]
    days = [as_day(event[4]) for event in small]
    if 2 * sum(day is not None for day in days) > len(small):
        for event, day in zip(small, days, strict=True):
            event[3] = day if day is not None and day >= 0 else "bad date"
    elif small and all(25569 <= event[4] < 73051 for event in small):
        for event in small:
            event[3] = round((event[4] - 25569) * 86_400_000)
    good: dict[tuple, tuple] = {}
    for who, what, stars, when, _ in events:
        if when == "bad date":
            rejected[when] += 1
        elif (who, what, when) in good:
            rejected["duplicate event"] += 1
        else:
            good[who, what, when] = (who, what, stars, when)
    for who, what, when in list(good):
        if what not in titles:
            rejected["missing title" if what in untitled else "unknown item"] += 1
            del good[who, what, when]
    return sorted(good.values()), titles, dict(rejected), rows


def _one_spelling(events: list[list], catalogue: list[tuple[str, str]]) -> None:
    whole = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
    for column, others in ((0, []), (1, [key for key, _ in catalogue])):
        ids = [event[column] for event in events] + others
        if any(re.fullmatch(r"-?\d+(\.\d+)+", i) and not whole.fullmatch(i) for i in ids):
            continue
        for event in events:
            event[column] = (
                whole.fullmatch(event[column])[1]
                if whole.fullmatch(event[column])
                else event[column]
            )
        if column:
            catalogue[:] = [
                (whole.fullmatch(k)[1] if whole.fullmatch(k) else k, text) for k, text in catalogue
            ]


# ---- random files

PIECES = st.sampled_from(
    ["Red", '12"', '"Heroes"', "caf\u00e9", "\u65e5\u672c", ", and", "\n", "\r\n", "'", "\t", "5"]
)
TEXTS = st.lists(PIECES, max_size=5).map(" ".join)
TITLES = TEXTS | TEXTS.map("Title {}".format) | st.sampled_from([*NOTHING, "  ", "1984"])
WHOLE = st.integers(1, 4)
IDS = {
    "plain": WHOLE.map(str),
    "decimal": st.builds("{}{}".format, WHOLE, st.sampled_from(["", ".0", ".00"])),
    "version": st.sampled_from(["1.0", "1.1", "1.10", "1", "2.0.1"]),
    "text": st.sampled_from(["a", " a ", "\u00e9", "007", "7", "x y"]),
    "gaps": WHOLE.map(str) | st.sampled_from([*NOTHING, " "]),
}
SECONDS = st.integers(1_600_000_000, 1_600_000_003)
TIMES = {
    "s": SECONDS.map(str),
    "ms": SECONDS.map(lambda s: str(s * 1000 + 7)),
    "us": SECONDS.map(lambda s: str(s * 10**6 + 7000)),
    "ns": SECONDS.map(lambda s: str(s * 10**9 + 7_000_000)),
    "mixed": st.builds(lambda s, power: str(s * 10**power), SECONDS, st.sampled_from([0, 3, 6, 9])),
    "dates": st.sampled_from(
        ["2020-09-13", "2020-09-13 12:00:00 UTC", "2020-09-13T12:00:00+02:00", "1969-01-01"]
    ),
    "days": st.sampled_from(["20230115", "20230116", "20230117", "20230231", "19650101", "0"]),
    "excel": st.sampled_from(["45000.5", "45001", "45000.000694444"]),
    "gaps": SECONDS.map(str) | st.sampled_from(["", "soon", "-1", "nan", "1e300"]),
}
RATINGS = st.sampled_from(["1", "4.5", "5.0"] * 10 + ["", "9", "-1", "good", "inf"])
BROKEN = {
    "csv": [b"only", b"a,b,c,d,e,f", b"\xff,1,3,1600000000", b"\xe9,x,y"],
    "tsv": [b"only", b"a\tb\tc\td\te", b"\xff\t1\t3\t1600000000"],
    "jsonl": [b"{", b'{"user": "\xff"}'],
    "parquet": [],
}
BROKEN["recbole"] = BROKEN["tsv"]


@st.composite
def shops(draw) -> dict:
    source = draw(st.sampled_from(["table", "table", *NAMES]))
    formats = {
        "table": ["csv", "tsv", "jsonl", "parquet"],
        "amazon": ["csv"],
        "movielens": ["csv"],
        "recbole": ["recbole"],
    }[source]
    users, items = (IDS[draw(st.sampled_from(sorted(IDS)))] for _ in range(2))
    times = TIMES[draw(st.sampled_from(sorted(TIMES)))]
    event = st.tuples(users, items, RATINGS, times)
    item = st.tuples(items, TITLES, TEXTS)
    return {
        "source": source,
        "events": [
            (
                draw(st.sampled_from(formats)),
                draw(st.booleans()),
                draw(st.lists(event, min_size=draw(st.sampled_from([0, 4])), max_size=8)),
            )
            for _ in range(draw(st.integers(1, 2)))
        ],
        "items": (
            "jsonl" if source == "amazon" else draw(st.sampled_from(formats)),
            draw(st.booleans()),
            draw(st.lists(item, min_size=draw(st.sampled_from([0, 6])), max_size=9)),
        ),
        "broken": draw(st.integers(0, 2)),
        "style": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "bom": draw(st.booleans()),
    }


def write(folder: Path, name: str, header, rows, shop, *, format: str, gz: bool) -> Path:
    suffix = {"recbole": "inter" if name.startswith("events") else "item"}.get(format, format)
    path = folder / f"{name}.{suffix}"
    if format == "parquet":
        columns = zip(*rows, strict=True) if rows else [[]] * len(header)
        arrays = [pa.array(column, pa.string()) for column in columns]
        pq.write_table(pa.table(arrays, names=list(header)), path)
        return path
    if format == "jsonl":
        records = [dict(zip(header, map(_json_value, row), strict=True)) for row in rows]
        lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
        # Its keys are those of the first lines.
        lines = lines or [json.dumps(dict.fromkeys(header)).encode()]
    else:
        path.write_text("")
        with open(path, "w", newline="", encoding="utf-8") as file:
            if format == "recbole":
                clean = [[" ".join(value.split()) for value in row] for row in rows]
                file.writelines("\t".join(row) + shop["end"] for row in [header, *clean])
            else:
                csv.writer(
                    file,
                    delimiter="\t" if format == "tsv" else ",",
                    quoting=shop["style"],
                    lineterminator=shop["end"],
                ).writerows([header, *rows])
        lines = [path.read_bytes().removesuffix(b"\n").removesuffix(b"\r")]
        path.unlink()
    end = shop["end"].encode()
    raw = end.join([*lines, *BROKEN[format][: shop["broken"]]]) + end
    raw = (b"\xef\xbb\xbf" if shop["bom"] else b"") + raw
    path = path.with_name(path.name + ".gz") if gz else path
    path.write_bytes(gzip.compress(raw) if gz else raw)
    return path


def _json_value(value: str):
    """Numbers as numbers, a missing value as null."""
    if value in ("", "nan"):
        return None if value == "" else math.nan
    return float(value) if re.fullmatch(r"[1-9]\d*(\.\d+)?", value) else value


def check(shop: dict) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), NAMES[shop["source"]]
        events = [
            write(folder, f"events{n}", names[0], rows, shop, format=format, gz=gz)
            for n, (format, gz, rows) in enumerate(shop["events"])
        ]
        if shop["source"] == "movielens":
            events[1:] = []
            events = [events[0].rename(folder / events[0].name.replace("events0", "ratings"))]
        base = {"amazon": "meta", "movielens": "movies"}.get(shop["source"], "items")
        format, gz, rows = shop["items"]
        items = [write(folder, base, names[1], rows, shop, format=format, gz=gz)]
        good, titles, rejected, total = expected(events, items, names)
        corpus = CorpusConfig(source=shop["source"], path=name)
        if not good:
            with pytest.raises(CorpusError) as error:
                read(corpus)
            # A file without rows has a message of its own.
            if f"none of {total:,} rows is usable: " in str(error.value):
                listed = str(error.value).split(": ")[1].split("; ")[0].split(", ")
                assert sorted(listed) == sorted(f"{n:,} {why}" for why, n in rejected.items())
            else:
                assert "has a header but no rows" in str(error.value)
            return
        got = read(corpus)
        e = got.events
        found = [
            (e.users[u].as_py(), e.items[i].as_py(), r, t)
            for u, i, r, t in zip(
                e.user.tolist(), e.item.tolist(), e.rating.tolist(), e.time.tolist(), strict=True
            )
        ]
        assert sorted(found) == good
        assert {c["key"]: c["title"] for c in got.catalogue.to_pylist()} == {
            key: title for key, title in titles.items() if key in {row[1] for row in good}
        }
        assert counts(got.rejected) == rejected
        assert got.rows == total


@given(shop=shops())
@settings(max_examples=250)
def test_random_files(shop):
    check(shop)


@pytest.mark.slow
@given(shop=shops())
@settings(max_examples=3000)
def test_many_random_files(shop):
    check(shop)
