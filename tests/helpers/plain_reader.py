"""An independent reader of a corpus.

It knows nothing of blocks, of joined lines or of Arrow: `csv` and `json` read the whole file, and
each rule of docs/corpus.md is one line of plain Python.
"""

import csv
import gzip
import json
import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NOTHING = ("", "nan", "NaN", "None", "null", "NULL", "<NA>")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rejected(Exception):
    pass


def rows_of(path: Path) -> list[dict | str]:
    """Rows of a file as dicts of its header, or the reason why a row is none."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        return pq.read_table(path).to_pylist()
    if kind == "arrow":
        return pa.ipc.open_stream(raw).read_all().to_pylist()
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
    return [_row(header, values) for values in parsed[1:]]


def _json_row(line: str) -> dict | str:
    if not _is_utf8(line):
        return "wrong encoding"
    try:
        return json.loads(line)
    except ValueError:
        return "broken JSON"


def _row(header: list[str], values: list[str]) -> dict | str:
    if not all(map(_is_utf8, values)):
        return "wrong encoding"
    if len(values) != len(header):
        return "wrong number of fields"
    return dict(zip(header, values, strict=True))


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


class Dropped(Exception):
    pass


def as_rating(value, use="keep") -> float:
    if use != "keep":
        return use
    try:
        rating = float(value)
    except (TypeError, ValueError):
        raise Rejected("bad number") from None
    if not math.isfinite(rating):
        raise Rejected("bad number")
    if not 0 <= rating <= 5:
        raise Rejected("rating outside its range")
    return rating


def as_use(value, uses) -> str | float:
    """What becomes of an event of this type."""
    kind = as_id(value, "event")
    if kind not in uses:
        raise Rejected("event type not in corpus.events")
    if uses[kind] == "drop":
        raise Dropped
    return uses[kind]


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


def expected(event_files: list[Path], item_files: list[Path], names, uses=None) -> tuple:
    """Good events, titles by key, rejected rows by reason, and the number of rows.

    With `uses`, the last column of the events is their type.
    """
    (user, item, rating, time, *kind), (key, title, _) = [
        [name.split(":")[0] for name in part] for part in names
    ]
    rejected: Counter[str] = Counter()
    dropped: list[dict] = []

    def gathered(files, one) -> list[list]:
        rows = [row for path in sorted(files) for row in rows_of(path)]
        usable = []
        for row in rows:
            try:
                if isinstance(row, str):
                    raise Rejected(row)
                usable.append(one(row))
            except Dropped:
                dropped.append(row)
            except Rejected as reason:
                rejected[str(reason)] += 1
        return [len(rows), usable]

    def one_event(row) -> list:
        use = as_use(row[kind[0]], uses) if kind else "keep"
        who, what = as_id(row[user], "user"), as_id(row[item], "item")
        return [who, what, as_rating(row[rating], use), *as_time(row[time])]

    event_rows, events = gathered(event_files, one_event)
    item_rows, catalogue = gathered(
        item_files, lambda row: (as_id(row[key], "item"), as_text(row[title]))
    )
    _one_spelling(events, catalogue)
    titles, untitled = {}, set()
    for name, text in catalogue:
        if not text:
            untitled.add(name)
            rejected["missing title"] += 1
        elif name in titles:
            rejected["duplicate item"] += 1
        else:
            titles[name] = text
    _settle_times(events)
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
    return sorted(good.values()), titles, dict(rejected), event_rows + item_rows - len(dropped)


def _settle_times(events: list[list]) -> None:
    small = [event for event in events if event[4] is not None and event[4] < 1e8]
    days = [as_day(event[4]) for event in small]
    if 2 * sum(day is not None for day in days) > len(small):
        for event, day in zip(small, days, strict=True):
            event[3] = day if day is not None and day >= 0 else "bad date"
    elif small and all(25569 <= event[4] < 73051 for event in small):
        for event in small:
            event[3] = round((event[4] - 25569) * 86_400_000)


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
