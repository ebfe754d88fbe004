"""Which files become the tables of a corpus, and the errors for other files."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.sources import locate
from minirec.corpus.files.vectorised import parse
from minirec.errors import CorpusError

EVENTS = {"user": ["u1", "u2"], "item": ["a", "b"], "time": [1_600_000_000, 1_600_000_001]}
ITEMS = "item,title\na,Apple\nb,Pear\n"


def events_csv(first: int = 0) -> str:
    rows = zip(*EVENTS.values(), strict=True)
    lines = [f"{user}{first},{item},{time + first}\n" for user, item, time in rows]
    return "user,item,time\n" + "".join(lines)


def table(path, **corpus):
    return locate(CorpusConfig(source="table", path=str(path), **corpus))


def names(specs, below):
    return [spec.path.removeprefix(f"{below}/") for spec in specs]


def users(located):
    parsed = [parse(block, {s.path: s}) for s in located.events for block in read_blocks(s)]
    return pa.concat_tables(parsed)["user"].to_pylist()


def refusal(path, **corpus):
    with pytest.raises(CorpusError) as error:
        table(path, **corpus)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- folders of part files


def spark(folder, *, parts=2):
    """Write `folder` as Spark does: parts, their checksums, and `_SUCCESS`."""
    folder.mkdir(parents=True)
    for n in range(parts):
        rows = EVENTS | {"user": [f"u{2 * n}", f"u{2 * n + 1}"]}
        pq.write_table(pa.table(rows), folder / f"part-{n:05d}-c000.snappy.parquet")
        (folder / f".part-{n:05d}-c000.snappy.parquet.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("shop", {}),
        ("shop", {"ratings": "interactions.parquet"}),
        ("shop/interactions.parquet", {"metadata": "../items.csv"}),
    ],
)
def test_a_folder_of_parquet_parts_is_one_table(tmp_path, path, given):
    spark(tmp_path / "shop" / "interactions.parquet")
    (tmp_path / "shop" / "items.csv").write_text(ITEMS)
    found = table(tmp_path / path, **given)
    assert users(found) == ["u0", "u1", "u2", "u3"]
    assert (len(found.items), found.inline) == (1, False)
    assert found.fallback == "shop", "neither a part nor `interactions` names a domain"


def test_a_folder_of_parts_without_an_ending(tmp_path):
    spark(tmp_path / "interactions", parts=1)
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "part-00000.csv").write_text(ITEMS)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "part-1.jpg").write_bytes(b"")
    found = table(tmp_path)
    assert users(found) == ["u0", "u1"]
    assert names(found.items, tmp_path) == ["items/part-00000.csv"]


def test_parts_without_rows_are_passed_over(tmp_path):
    folder = tmp_path / "events.csv"
    folder.mkdir()
    (folder / "part-00000.csv").write_bytes(b"")
    (folder / "part-00001.csv.gz").write_bytes(gzip.compress(b""))
    (folder / "part-00002.csv.gz").write_bytes(gzip.compress(events_csv().encode()))
    (folder / "part-00003.csv").write_text(events_csv(1))
    (tmp_path / "items.csv").write_text(ITEMS)
    for path, given in ((tmp_path, {}), (folder, {"metadata": str(tmp_path / "items.csv")})):
        assert users(table(path, **given)) == ["u10", "u20", "u11", "u21"]


def test_partitions_are_read(tmp_path):
    for day in (1, 2):
        spark(tmp_path / "events.parquet" / f"day=2020-01-0{day}", parts=1)
    (tmp_path / "items.csv").write_text(ITEMS)
    metadata = {"metadata": str(tmp_path / "items.csv")}
    for path, given in ((tmp_path, {}), (tmp_path / "events.parquet", metadata)):
        assert users(table(path, **given)) == ["u0", "u1"] * 2
        words = refusal(path, columns={"time": "hour"}, **given)
        assert "no column 'hour'; found 'user', 'item', 'time', 'day'" in words


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("_delta_log/0.json", "is a table of Delta Lake, whose files also hold deleted rows"),
        (".hoodie/x", "is a table of Hudi"),
        ("data/part-0.parquet", "holds the folder data, which is not a partition"),
        (
            "notes.txt",
            "notes.txt has the ending .txt, which is not supported; name it .csv or .tsv",
        ),
        ("part-00000", "part-00000 has no ending, which is not supported"),
        (".part.crc", "is a folder without a file to read"),
    ],
)
def test_folders_that_are_no_plain_parts(tmp_path, inside, words):
    file = tmp_path / "events.parquet" / inside
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert words in refusal(tmp_path)
    assert words in refusal(tmp_path, ratings="events.parquet")


def test_ratings_of_some_parts_are_those_of_all(tmp_path):
    """If the first lines of a part have no rating, its events must not count as the highest."""
    folder = tmp_path / "events.jsonl"
    folder.mkdir()
    rows = [{"user": "u", "item": "a", "time": 1_600_000_000}] * 2
    for part, keys in enumerate(({"rating": 3}, {})):
        (folder / f"part-{part}.jsonl").write_text("".join(json.dumps(r | keys) for r in rows[:1]))
    (tmp_path / "items.csv").write_text(ITEMS)
    assert "part-1.jsonl has no column 'rating'" in refusal(tmp_path)


def test_amazon_and_recbole_in_parts(tmp_path):
    (tmp_path / "ratings.csv").mkdir()
    (tmp_path / "meta.jsonl").mkdir()
    csv = "user_id,parent_asin,rating,timestamp\nu,a,5,1600000000000\n"
    (tmp_path / "ratings.csv" / "part-0.csv").write_text(csv)
    (tmp_path / "meta.jsonl" / "part-0.jsonl").write_text('{"parent_asin": "a", "title": "A"}\n')
    found = locate(CorpusConfig(source="amazon", path=str(tmp_path)))
    assert names(found.events, tmp_path) == ["ratings.csv/part-0.csv"]
    assert names(found.items, tmp_path) == ["meta.jsonl/part-0.jsonl"]
    assert found.fallback == "Amazon products"


# ---- other files of a folder


def test_what_is_no_table_is_passed_over(tmp_path):
    (tmp_path / "shop.csv").write_text(events_csv())
    (tmp_path / "ITEMS.CSV").write_text(ITEMS)
    for name in ("._shop.csv", ".hidden.csv", "_backup.csv", "dataset_infos.json", "state.json"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    found = table(tmp_path)
    assert names(found.events, tmp_path) == ["shop.csv"]
    assert (names(found.items, tmp_path), found.inline) == (["ITEMS.CSV"], False)


def test_other_tables_are_named_with_the_settings_that_choose(tmp_path):
    (tmp_path / "clicks.csv").write_text(events_csv())
    (tmp_path / "people.csv").write_text("user,age\nu1,30\n")
    words = refusal(tmp_path)
    assert "people.csv has no column 'item'" in words
    assert "holds 2 tables (clicks.csv, people.csv)" in words
    assert "corpus.ratings and the catalogue in corpus.metadata" in words
    (tmp_path / "products.csv").write_text(ITEMS)
    found = table(tmp_path, ratings="clicks.csv", metadata="products.csv")
    assert names([*found.events, *found.items], tmp_path) == ["clicks.csv", "products.csv"]


def test_a_missing_file_is_named_where_it_was_looked_for(tmp_path):
    words = refusal(tmp_path, ratings="clicks.csv")
    assert f"{tmp_path / 'clicks.csv'} is missing" in words


@pytest.mark.parametrize(
    ("name", "content", "domain"),
    [
        ("books.csv", events_csv(), "books"),
        ("interactions.csv", events_csv(), "the shop"),
        ("part-00000.snappy.csv", events_csv(), "the shop"),
        ("BOOKS.CSV.GZ", gzip.compress(events_csv().encode(), mtime=0), "BOOKS"),
    ],
)
def test_the_domain_is_named_by_the_file_or_its_folder(tmp_path, name, content, domain):
    folder = tmp_path / "the_shop"
    folder.mkdir()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "items.csv").write_text(ITEMS)
    assert table(folder).fallback == domain


# ---- endings


@pytest.mark.parametrize("name", ["e.ndjson", "e.JSONL", "E.NDJSON.GZ", "e.jsonl.gz", "e.json"])
def test_endings_of_json_lines(tmp_path, name):
    rows = [dict(zip(EVENTS, row, strict=True)) for row in zip(*EVENTS.values(), strict=True)]
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.lower().endswith("gz") else raw)
    (tmp_path / "Items.CSV.GZ").write_bytes(gzip.compress(ITEMS.encode()))
    assert users(table(tmp_path)) == ["u1", "u2"]
    assert users(table(tmp_path / name, metadata=str(tmp_path / "Items.CSV.GZ"))) == ["u1", "u2"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shop.zip", "unpack it"),
        ("shop.csv.bz2", "unpack it"),
        ("shop.csv.xz", "unpack it"),
        ("shop.tar.gz", "unpack it"),
        ("shop.XLSX", "save its sheet as CSV"),
        ("shop.orc", "write it as Parquet or CSV"),
        ("ratings.dat", "name it .csv or .tsv, with a header line"),
    ],
)
def test_files_that_are_not_read(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    said = refusal(tmp_path)
    assert "lacks an interactions file" in said and f"{name} is not supported: {words}" in said
    assert f"it is a file, {name}; {name} is not supported: {words}" in refusal(tmp_path / name)
    said = refusal(tmp_path, ratings=name)
    assert "which is not supported" in said and words in said
    assert "(supported are .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .inter, .item" in said


@pytest.mark.parametrize(("ending", "name"), [("parquet", "Parquet"), ("arrow", "Arrow")])
def test_packed_binary_files(tmp_path, ending, name):
    (tmp_path / f"events.{ending}.gz").write_bytes(gzip.compress(b"PAR1"))
    assert f"is a compressed {name} file, which is not supported; unpack it" in refusal(tmp_path)


# ---- columns


def test_the_item_column_of_the_catalogue_may_have_another_name(tmp_path):
    (tmp_path / "interactions.csv").write_text(events_csv())
    (tmp_path / "items.csv").write_text(ITEMS.replace("item", "id"))
    words = refusal(tmp_path)
    assert "items.csv has no column 'item'; found 'id', 'title'" in words
    assert "catalogue_item: of the catalogue, if it differs" in words
    words = refusal(tmp_path, columns={"item": "id"})
    assert "interactions.csv has no column 'id'" in words and "catalogue_item" in words
    found = table(tmp_path, columns={"catalogue_item": "id"})
    assert found.items[0].columns["item"] == "id"
    assert found.events[0].columns["item"] == "item"
    (tmp_path / "items.csv").unlink()
    assert "has no effect without a catalogue" in refusal(tmp_path, columns={"catalogue_item": "i"})


def test_a_text_column_that_is_named_must_be_there(tmp_path):
    (tmp_path / "interactions.csv").write_text(events_csv())
    (tmp_path / "items.csv").write_text(ITEMS)
    assert "no column 'blurb'" in refusal(tmp_path, columns={"text": "blurb"})


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("e.csv", "user;item;time", "separated by ';'; set corpus.separator"),
        ("e.csv", "user\titem\ttime", r"separated by '\t'; set corpus.separator to it"),
        ("e.tsv", "user,item,time", r"separated by ','; save it with '\t', the separator of .tsv"),
        ("e.csv", "u1,a,1600000000", "its first line seems to hold values; add a line"),
    ],
)
def test_headers_that_are_none(tmp_path, name, header, words):
    (tmp_path / name).write_text(header + "\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    said = refusal(tmp_path)
    assert words in said


def test_a_comma_separated_file_of_recbole(tmp_path):
    header = "user_id:token,item_id:token,timestamp:float"
    (tmp_path / "a.inter").write_text(f"{header}\nu,i,1600000000\n")
    (tmp_path / "a.item").write_text("item_id:token\ttitle:token\ni\tI\n")
    with pytest.raises(CorpusError) as error:
        locate(CorpusConfig(source="recbole", path=str(tmp_path)))
    assert f"found {header!r}; its fields seem to be separated by ','" in str(error.value)
