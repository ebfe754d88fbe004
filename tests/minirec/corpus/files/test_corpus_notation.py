"""Semicolons, decimal commas, dates in other formats, and columns inside structs."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_corpora import read
from pydantic import ValidationError

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files.arrow import column_names, content, record_batches
from minirec.corpus.files.parse import parse_rows
from minirec.corpus.files.rows import read_rows
from minirec.corpus.files.sources import locate
from minirec.corpus.notation import Notation
from minirec.corpus.weights import read_number
from minirec.errors import CorpusError

GERMAN = {
    "columns": {"user": "Kunde", "item": "Artikel", "time": "Datum", "title": "Name"},
    "separator": ";",
    "decimal_comma": True,
    "dates": "%d.%m.%Y %H:%M",
    "rating_range": (0, 2000),
}
NESTED = {"user": "who.id", "item": "what.key.sku", "time": "at.ms", "title": "what.name"}


def test_a_german_export(tmp_path):
    (tmp_path / "shop.csv").write_text(
        "Kunde;Artikel;Datum;Name;Note;Preis\n"
        'K1;A1;31.12.2024 14:05;"Lampe; rot";1.234,56;12,99 €\n'
        "K1;A2;01.02.2024 00:00;Vase;4,5;1.000\n"
        "K2;A1;12/31/2024;Lampe;4;12,99\n"
    )
    columns = GERMAN["columns"] | {"rating": "Note"}
    got = read(
        source="table", path=str(tmp_path), weight="Preis", **(GERMAN | {"columns": columns})
    )
    assert got.named_events == [
        ("K1", "A1", pytest.approx(1234.56), 1_735_653_900_000),
        ("K1", "A2", 4.5, 1_706_745_600_000),
    ]
    assert got.counts == {"bad date": 1}
    titles = {row["key"]: row["title"] for row in got.catalogue.to_pylist()}
    assert titles["A1"] in ("Lampe; rot", "Lampe")
    weights = dict(zip(got.keys, got.catalogue["weight"].to_pylist(), strict=True))
    assert weights == {"A1": 12.99, "A2": 1000.0}


def test_a_format_takes_numbers_too_and_iso_dates_stay_dates(tmp_path):
    (tmp_path / "a.csv").write_text(
        "user,item,time,title\nu,a,31122024,A\nu,b,2024-12-31T00:00:01,B\nu,c,1735603202,C\n"
    )
    got = read(source="table", path=str(tmp_path), dates="%d%m%Y")
    assert [time for *_, time in got.named_events] == [
        1_735_603_200_000,
        1_735_603_201_000,
        1_735_603_202_000,
    ]


def nested_rows() -> list[dict]:
    return [
        {
            "who": {"id": f"u{n % 2}"} if n != 3 else None,
            "what": {"key": {"sku": n % 3}, "name": f"Lamp {n % 3}"},
            "at": {"ms": 1_700_000_000_000 + n},
        }
        for n in range(6)
    ]


@pytest.mark.parametrize("format", ["parquet", "arrow", "jsonl"])
def test_columns_inside_structs(tmp_path, format):
    rows, path = nested_rows(), tmp_path / f"log.{format}"
    table = pa.Table.from_pylist(rows)
    if format == "parquet":
        pq.write_table(table, path, row_group_size=2)
    elif format == "arrow":
        with pa.ipc.new_stream(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=2)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": "table", "path": str(tmp_path), "columns": NESTED}
    got = read(**settings)
    assert got.named_events == [
        (f"u{n % 2}", str(n % 3), 5.0, 1_700_000_000_000 + n) for n in range(6) if n != 3
    ]
    assert got.counts == {"missing user": 1}
    (spec,) = locate(CorpusConfig(**settings)).events
    parsed = parse_rows(read_rows(spec), spec)
    assert parsed["reason"].to_pylist() == [None] * 3 + ["missing user"] + [None] * 2
    with pytest.raises(CorpusError, match=r"no column 'who.no'; found 'who', 'who.id', 'what'"):
        read(**settings | {"columns": NESTED | {"user": "who.no"}})


def test_a_name_with_a_dot_is_a_column_of_its_own(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a.b": [1, 2], "a": [{"c": 3}, None]}), path)
    assert column_names(path, "parquet") == ("a.b", "a", "a.c")
    (batch,) = record_batches(path, "parquet", columns={"a.b", "a.c"}, rows=10)
    assert batch.to_pylist() == [{"a.b": 1, "a.c": 3}, {"a.b": 2, "a.c": None}]
    rows, size = content(path, "parquet", {"a.c"})
    assert rows == 2 and 0 < size < content(path, "parquet", {"a.b", "a.c"})[1]


def test_numbers_with_commas():
    comma = Notation(decimal_comma=True)
    texts = ["1.234,56", "1.234", "1.5", "12,99 €", "1,2,3"]
    assert [read_number(text, comma) for text in texts] == [1234.56, 1234.0, 1.5, 12.99, None]
    assert read_number("12,99") is None
    assert comma.number(3) == 3


@pytest.mark.parametrize("separator", ["", ";;", "a", '"', "\n", "ü"])
def test_bad_separators(separator):
    with pytest.raises(ValidationError, match="cannot separate fields"):
        CorpusConfig(separator=separator)


@pytest.mark.parametrize("dates", ["%d.%m.", "DD.MM.YYYY", "%Q", "%H:%M"])
def test_bad_formats(dates):
    with pytest.raises(ValidationError, match="is not a format with year, month and day"):
        CorpusConfig(dates=dates, source="table", path="x")


@pytest.mark.parametrize("given", [{"separator": ";"}, {"dates": "%d.%m.%Y"}])
def test_sources_with_fixed_columns_refuse_it(tmp_path, given):
    with pytest.raises(CorpusError, match="has no effect with corpus.source=movielens"):
        locate(CorpusConfig(source="movielens", path=str(tmp_path), **given))
