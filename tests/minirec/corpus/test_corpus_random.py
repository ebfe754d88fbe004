"""Random files against an independent reader of the standard library."""

import csv
import gzip
import json
import math
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.plain_reader import NOTHING, expected
from helpers.small_corpora import read
from hypothesis import given, settings
from hypothesis import strategies as st

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
KINDS = st.sampled_from(["view", "buy", "cart", " buy  ", "wish", "", "nan"])
USES = {"view": st.just("drop"), "buy": st.just("keep"), "cart": st.sampled_from(["drop", 2.5])}
RATINGS = st.sampled_from(["1", "4.5", "5.0"] * 10 + ["", "9", "-1", "good", "inf"])
BROKEN = {
    "csv": [b"only", b"a,b,c,d,e,f", b"\xff,1,3,1600000000", b"\xe9,x,y"],
    "tsv": [b"only", b"a\tb\tc\td\te", b"\xff\t1\t3\t1600000000"],
    "jsonl": [b"{", b'{"user": "\xff"}'],
    "parquet": [],
    "arrow": [],
}
BROKEN["recbole"] = BROKEN["tsv"]


@st.composite
def shops(draw) -> dict:
    source = draw(st.sampled_from(["table", "table", *NAMES]))
    formats = {
        "table": ["csv", "tsv", "jsonl", "parquet", "arrow"],
        "amazon": ["csv"],
        "movielens": ["csv"],
        "recbole": ["recbole"],
    }[source]
    users, items = (IDS[draw(st.sampled_from(sorted(IDS)))] for _ in range(2))
    times = TIMES[draw(st.sampled_from(sorted(TIMES)))]
    uses = draw(st.none() | st.fixed_dictionaries(USES)) if source == "table" else None
    event = st.tuples(users, items, RATINGS, times, *([KINDS] if uses else []))
    item = st.tuples(items, TITLES, TEXTS)
    return {
        "source": source,
        "uses": uses,
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
    if format in ("parquet", "arrow"):
        columns = zip(*rows, strict=True) if rows else [[]] * len(header)
        table = pa.table([pa.array(c, pa.string()) for c in columns], names=list(header))
        if format == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_stream(str(path), table.schema) as out:
                out.write_table(table, max_chunksize=3)
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
        given = {"source": shop["source"], "path": name}
        if uses := shop["uses"]:
            names = ((*names[0], "kind"), names[1])
            given |= {"columns": {"event": "kind"}, "events": uses}
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
        good, titles, rejected, total = expected(events, items, names, uses)
        if not good:
            with pytest.raises(CorpusError) as error:
                read(**given)
            # A file without rows has a different message.
            if f"none of {total:,} rows is usable: " in str(error.value):
                listed = str(error.value).split(": ")[1].split("; ")[0].split(", ")
                assert sorted(listed) == sorted(f"{n:,} {why}" for why, n in rejected.items())
            else:
                assert re.search("has a header but no rows|drops all events", str(error.value))
            return
        got = read(**given)
        assert sorted(got.named_events) == good
        assert {c["key"]: c["title"] for c in got.catalogue.to_pylist()} == {
            key: title for key, title in titles.items() if key in {row[1] for row in good}
        }
        assert got.counts == rejected
        assert got.rows == total


@pytest.mark.slow
@given(shop=shops())
@settings(max_examples=250)
def test_random_files(shop):
    check(shop)


@pytest.mark.slow
@given(shop=shops())
@settings(max_examples=1500)
def test_many_random_files(shop):
    check(shop)
