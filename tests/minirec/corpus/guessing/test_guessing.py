"""What `minirec init` makes of files: it writes a config that reads the same events."""

import csv
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.small_corpora import read
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.config.reading import configured
from minirec.config.run import Config
from minirec.corpus.guessing import words
from minirec.corpus.guessing.doubts import doubts
from minirec.corpus.guessing.draft import draft
from minirec.corpus.guessing.notations import formats, has_decimal_commas
from minirec.corpus.guessing.preview import preview
from minirec.corpus.guessing.writing import written
from minirec.errors import CorpusError

NAMES = {
    "plain": ("user", "item", "time", "title", "rating"),
    "german": ("Kundennummer", "Artikelnummer", "Bestelldatum", "Artikelbezeichnung", "Bewertung"),
    "camel": ("customerId", "productId", "createdAt", "productName", "stars"),
    "other": ("visitor_id", "sku", "ts", "name", "score"),
}
DATES = ["%d.%m.%Y %H:%M", "%Y-%m-%d %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", None]
FIRST = 1_700_000_040  # 22:14 on 14 November 2023: no month has this number


@st.composite
def shops(draw) -> dict:
    """Rows (user, item, seconds, title, rating), and how they are written."""
    users, items = draw(st.integers(2, 5)), draw(st.integers(3, 6))
    pairs = draw(
        st.lists(
            st.tuples(st.integers(1, users), st.integers(1, items), st.sampled_from([1, 2.5, 4.5])),
            min_size=8,
            max_size=20,
        )
    )
    return {
        "rows": [
            (f"u{user}", f"k{item}", FIRST + 60 * place, f"Title number {item}", rating)
            for place, (user, item, rating) in enumerate(pairs)
        ],
        "names": NAMES[draw(st.sampled_from(sorted(NAMES)))],
        "format": draw(st.sampled_from(["csv", "tsv", "jsonl", "parquet", "nested"])),
        "separator": draw(st.sampled_from([",", ";", "|"])),
        "comma": draw(st.booleans()),
        "dates": draw(st.sampled_from(DATES)),
    }


def of_text(text: str) -> Config:
    """The config of a YAML text."""
    return configured(yaml.safe_load(text), {})


def write(folder: Path, shop: dict) -> Path:
    """The file of a shop."""

    def cells(user, item, seconds, title, rating) -> list:
        when = datetime.fromtimestamp(seconds, tz=UTC)
        time = when.strftime(shop["dates"]) if shop["dates"] else seconds
        value = str(rating).replace(".", ",") if shop["comma"] else rating
        return [user, item, time, title, value]

    rows = [cells(*row) for row in shop["rows"]]
    names = shop["names"]
    if shop["format"] in ("csv", "tsv"):
        path = folder / f"shop.{shop['format']}"
        with open(path, "w", newline="", encoding="utf-8") as file:
            separator = shop["separator"] if shop["format"] == "csv" else "\t"
            csv.writer(file, delimiter=separator).writerows([names, *rows])
        return path
    records = [dict(zip(names, row, strict=True)) for row in rows]
    if shop["format"] == "jsonl":
        path = folder / "shop.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path
    if shop["format"] == "nested":
        records = [{"inner": {"deep": record}, "source": "web"} for record in records]
    path = folder / "shop.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def config_of(path: Path) -> str:
    return written(draft(str(path)), run_dir="runs/x", name=path.name)


@pytest.mark.slow
@given(shop=shops())
@settings(max_examples=150, deadline=None)
def test_the_written_config_reads_the_same_events(shop):
    with tempfile.TemporaryDirectory() as name:
        corpus = of_text(config_of(write(Path(name), shop))).corpus
        got = read(**corpus.model_dump())
    unique = {(user, item, seconds): rating for user, item, seconds, _, rating in shop["rows"]}
    wanted = [(u, i, float(rating), s * 1000) for (u, i, s), rating in unique.items()]
    assert sorted(got.named_events) == sorted(wanted)
    assert {row["title"] for row in got.catalogue.to_pylist()} == {r[3] for r in shop["rows"]}


def test_events_of_a_log_get_their_uses(tmp_path):
    path = tmp_path / "log.csv"
    rows = [
        f"v{user},{kind},{item},Lamp {item},{1_700_000_000 + 100 * user + item}"
        for user in range(5)
        for item in range(4)
        for kind in (("view", "purchase") if item else ("view", "cart", "refund"))
    ]
    path.write_text("visitor,event_type,product_id,product_name,ts\n" + "\n".join(rows) + "\n")
    found = draft(str(path))
    assert found.guess.columns == {
        "user": "visitor",
        "item": "product_id",
        "title": "product_name",
        "time": "ts",
        "event": "event_type",
    }
    assert found.guess.uses == {"view": "drop", "purchase": "keep", "cart": 3.0, "refund": "drop"}
    corpus = of_text(config_of(path)).corpus
    assert len(read(**corpus.model_dump()).named_events) == 20


def test_views_are_kept_where_little_else_is_left(tmp_path):
    path = tmp_path / "log.csv"
    rows = [f"v{u},view,{i},{1_700_000_000 + 10 * u + i}" for u in range(5) for i in range(4)]
    path.write_text("user,event,item,time\n" + "\n".join([*rows, "v1,purchase,1,1700009000"]))
    assert draft(str(path)).guess.uses == {"view": 1.0, "purchase": "keep"}


def test_titles_beside_a_file_are_named_but_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(
        "user,item,time\n" + "".join(f"u{n % 3},{n % 4},{1_700_000_000 + n}\n" for n in range(12))
    )
    (tmp_path / "goods.csv").write_text(
        "id,label\n" + "".join(f"{n},Red lamp {n}\n" for n in range(4))
    )
    text = config_of(Path("log.csv"))
    corpus = of_text(text).corpus
    assert corpus.metadata is None and corpus.columns["title"] == "item"
    assert "# metadata: goods.csv" in text
    (line,) = [line for line in text.splitlines() if "# columns:" in line]
    start = text.index("  columns:\n")
    rest = text[text.index("  # goods.csv") :]
    used = text[:start] + rest.replace("# metadata", "metadata").replace("# columns", "columns")
    got = read(**of_text(used).corpus.model_dump())
    assert "catalogue_item: id" in line
    assert {row["title"] for row in got.catalogue.to_pylist()} == {
        f"Red lamp {n}" for n in range(4)
    }


def test_a_folder_with_a_catalogue(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user,item,time\n" + "".join(f"u{n % 3},{n % 4},{1_700_000_000 + n}\n" for n in range(12))
    )
    (tmp_path / "goods.csv").write_text("id,label\n" + "".join(f"{n},Lamp {n}\n" for n in range(4)))
    (tmp_path / "broken.json").write_text("[]")  # other files do not matter
    corpus = of_text(config_of(tmp_path)).corpus
    assert (corpus.ratings, corpus.metadata) == ("events.csv", "goods.csv")
    assert len(read(**corpus.model_dump()).named_events) == 12


def test_doubts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "user;item;time;title;rating\n"
        "1.0;a;01.02.2023;Red lamp;4,5\n1.0;a;01.02.2023;Blue lamp;4,5\n2.0;b;03.04.2023;Cup;1,5\n"
    )
    found = draft(str(path))
    said = "\n".join(doubts(found, preview(of_text(config_of(path)).corpus)))
    for part in (
        "have no zone and are read as UTC",
        "decimal commas",
        "1.0 is read as 1",
        "1 rows repeat",
        "1 of 2 items have several values of title",
        "1 of 2 users have one event",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("value", "first", "several"),
    [
        ("31.12.2024 14:05", "%d.%m.%Y %H:%M", False),
        ("12/31/2024", "%m/%d/%Y", False),
        ("01/02/2024", "%d/%m/%Y", True),
        ("2024/12/31 14:05:09", "%Y/%m/%d %H:%M:%S", False),
    ],
)
def test_formats_of_dates(value, first, several):
    found = formats([value])
    assert found[0] == first
    assert (len(found) > 1) == several


def test_decimal_commas():
    assert has_decimal_commas(["1.234,56", "3,5", "12"])
    assert has_decimal_commas(["1.234,56 €"])
    assert not has_decimal_commas(["1,234.56", "3"])
    assert not has_decimal_commas(["a,5", "b,5"])
    assert not has_decimal_commas(["1,234", "5"])


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Kundennummer", "user"),
        ("customer.id", "user"),
        ("reviewerID", "user"),
        ("Artikelnr", "item"),
        ("parent_asin", "item"),
        ("product.name", "title"),
        ("Bestelldatum", "time"),
        ("event_time", "time"),
        ("event_type", "event"),
        ("stars", "rating"),
    ],
)
def test_names_of_columns(name, role):
    roles = ("user", "item", "title", "time", "event", "rating")
    assert max(roles, key=lambda other: words.named(name, other)) == role


@pytest.mark.parametrize("name", ["price", "customer.name", "birth_date", "category", "Menge"])
def test_columns_without_a_role(name):
    assert not any(
        words.named(name, role) for role in ("user", "item", "title", "time", "event", "rating")
    )


def test_a_table_without_interactions_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("price,weight\n1.5,2.25\n2.5,3.25\n")
    with pytest.raises(CorpusError, match="no column that looks like the user or the item"):
        draft(str(path))


def test_missing_and_empty(tmp_path):
    with pytest.raises(CorpusError, match="is missing; give a file"):
        draft(str(tmp_path / "no.csv"))
    with pytest.raises(CorpusError, match="holds no table"):
        draft(str(tmp_path))
    (tmp_path / "a.csv").write_text("user,item\n")
    with pytest.raises(CorpusError, match="no row that can be read"):
        draft(str(tmp_path / "a.csv"))


def test_files_of_a_pattern_must_be_one_table(tmp_path):
    (tmp_path / "a1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "a2.csv").write_text("user,item,time\nu,1,1700000000\n")
    with pytest.raises(CorpusError, match=r"a1.csv has no column 'item', which another file"):
        draft(str(tmp_path / "a*.csv"))


def test_a_folder_without_a_readable_table_says_why(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(CorpusError, match="holds a JSON array"):
        draft(str(tmp_path))


def test_one_word_may_name_a_user():
    assert words.named("username", "user") > words.named("device", "user") == 0


@pytest.mark.parametrize("event", ["unpaid", "not_purchased", "unsubscribe", "order_cancelled"])
def test_events_that_did_not_happen_are_undone(event):
    assert any(words.among(word, words.UNDONE) for word in words.words(event))


def test_a_file_in_another_encoding_is_named_with_the_way_out(tmp_path):
    file = tmp_path / "shop.csv"
    rows = [f"K{i};A{i};01.02.2024;Tür {i}" for i in range(5)]
    file.write_bytes("\n".join(["Kunde;Artikel;Datum;Titel", *rows]).encode("latin-1"))
    with pytest.raises(CorpusError, match="wrong encoding; convert it to UTF-8, e.g. `iconv"):
        draft(str(file))
