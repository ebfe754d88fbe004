"""Every source and every kind of bad input, without Ray."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from helpers.paths import SHARED
from helpers.small_corpora import RATINGS, amazon, read, shown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.rows import read_rows
from minirec.corpus.files.sources import locate
from minirec.corpus.files.spec import FileSpec
from minirec.errors import CorpusError

DATA = SHARED / "data"


# ---- sources


def test_amazon(tmp_path):
    amazon(tmp_path, "u1,i1,5.0,1522540800000\nu2,i0,4,1522540800001\n")
    got = read(source="amazon", path=str(tmp_path))
    assert got.users == ["u1", "u2"]
    assert got.keys == ["i0", "i1"]
    assert got.events.item.tolist() == [1, 0]
    assert got.events.time.tolist() == [1522540800000, 1522540800001]
    assert shown(got)[1] == {"key": "i1", "title": "Title 1", "text": ""}
    assert (got.rows, len(got.rejected), got.category) == (7, 0, None)


def test_amazon_gz_equals_plain(tmp_path):
    amazon(tmp_path, "u1,i1,5.0,1522540800000\nu2,i0,4,1522540800001\n")
    plain = read(source="amazon", path=str(tmp_path))
    for name in ("ratings.csv", "meta.jsonl"):
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(raw))
    packed = read(source="amazon", path=str(tmp_path))
    assert packed.users == plain.users
    assert packed.catalogue.equals(plain.catalogue)


def test_category_is_asked_in_this_order(tmp_path):
    items = [{"parent_asin": "i1", "title": "T", "main_category": "All Beauty"}]
    amazon(tmp_path, "u1,i1,5.0,1522540800000\n", items)
    (tmp_path / "ratings.csv").rename(tmp_path / "Pet_Supplies.csv")
    assert read(source="amazon", path=str(tmp_path)).category == "All Beauty"
    assert locate(CorpusConfig(source="amazon", path=str(tmp_path))).fallback == "Pet Supplies"
    chosen = CorpusConfig(source="amazon", path=str(tmp_path), category="Video_Games")
    assert locate(chosen).category == "Video Games"


def test_movielens(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n31,"Dangerous, Minds (1995)",Drama|Crime\n'
    )
    got = read(source="movielens", path=str(tmp_path))
    assert got.events.time.tolist() == [1260759144000]
    assert shown(got) == [{"key": "31", "title": "Dangerous, Minds (1995)", "text": "Drama, Crime"}]


def test_recbole(tmp_path):
    (tmp_path / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t7\t4\t1260759144.0\n"
    )
    (tmp_path / "ml.item").write_text(
        'item_id:token\tmovie_title:token_seq\trelease_year:token\n7\tA "great" film\t1995\n'
    )
    got = read(source="recbole", path=str(tmp_path))
    assert got.events.time.tolist() == [1260759144000]
    assert shown(got) == [{"key": "7", "title": 'A "great" film', "text": "1995"}]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_table_with_titles_inside(tmp_path, format):
    table = pa.table(
        {
            "who": ["u", "v", "u"],
            "what": [1, 2, 1],
            "name": ["One", 'Two, "2"\nlines', "One"],
            "day": ["2020-01-01", "2020-01-02", "2020-01-03"],
        }
    )
    path = tmp_path / f"mine.{format}"
    if format == "parquet":
        pq.write_table(table, path)
    elif format == "csv":
        pacsv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in table.to_pylist()))
    columns = {"user": "who", "item": "what", "time": "day", "title": "name"}
    got = read(source="table", path=str(tmp_path), columns=columns)
    assert got.events.time.tolist() == [1577836800000, 1577923200000, 1578009600000]
    assert got.events.rating.tolist() == [5, 5, 5]
    assert got.catalogue["title"].to_pylist() == ["One", 'Two, "2" lines']
    assert (got.rows, len(got.rejected)) == (3, 0)


def test_table_with_a_catalogue_and_parquet_times(tmp_path):
    times = pa.array([1577836800000, 1577836860000], pa.timestamp("ms"))
    table = pa.table({"user": ["u", "u"], "item": ["a", "b"], "rating": [1.0, 2.0], "time": times})
    pq.write_table(table, tmp_path / "interactions.parquet")
    (tmp_path / "items.csv").write_text("item,title,text\na,A,about a\nb,B,\n")
    got = read(source="table", path=str(tmp_path))
    assert got.events.time.tolist() == [1577836800000, 1577836860000]
    assert got.catalogue["text"].to_pylist() == ["about a", ""]


@pytest.mark.parametrize("bad", [[1], [1, 3], [4], [0, 1, 2]])
def test_an_unclosed_quote_costs_one_row(tmp_path, bad):
    rows = [
        f"{quote}u{n},i,3,150000000{n}"
        for n, quote in enumerate(['"' * (n in bad) for n in range(5)])
    ]
    path = tmp_path / "mine.csv"
    path.write_text("user,item,rating,time\n" + "\n".join(rows) + "\n")
    spec = FileSpec(str(path), "events", "csv", ("user", "item", "rating", "time"), {})
    assert [line for line, _ in read_rows(spec)] == [2, 3, 4, 5, 6]


CELLS = st.sampled_from(["a", '"', '"b', 'c"', ",", "", " ", '""', ","])


@given(lines=st.lists(st.lists(CELLS, max_size=5).map("".join), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_joining_quoted_lines_loses_none(tmp_path, lines):
    path = tmp_path / "any.csv"
    path.write_text("\n".join(["user,item", *lines]))
    spec = FileSpec(str(path), "events", "csv", ("user", "item"), {})
    raws = [raw for _, raw in read_rows(spec)]
    assert b"\n".join(raws).decode() == "\n".join(line for line in lines if line.strip())


def test_quoted_fields_of_a_tab_separated_table(tmp_path):
    (tmp_path / "events.tsv").write_text('"user"\t"item"\t"time"\n"u1"\t"i ""1"""\t"1600000000"\n')
    (tmp_path / "items.csv").write_text('item,title\n"i ""1""",One\n')
    got = read(source="table", path=str(tmp_path))
    assert got.keys == ['i "1"']
    assert len(got.rejected) == 0


def test_binary_columns_of_parquet_are_text(tmp_path):
    users = pa.array([b"u1", b"\xff\xfe", "ü2".encode()], pa.binary())
    titles = pa.array([b"Blue Kettle"] * 3, pa.binary())
    columns = {"user": users, "item": ["i1"] * 3, "time": [1_600_000_000] * 3, "title": titles}
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    got = read(source="table", path=str(tmp_path))
    assert got.users == ["u1", "ü2"]
    assert got.catalogue["title"].to_pylist() == ["Blue Kettle"]
    assert got.counts == {"wrong encoding": 1}


def test_amazon_ratings_in_another_format(tmp_path):
    amazon(tmp_path, "")
    rows = {"user_id": ["u1"], "parent_asin": ["i1"], "rating": [4.0], "timestamp": [1600000000000]}
    pq.write_table(pa.table(rows), tmp_path / "r.parquet")
    got = read(source="amazon", path=str(tmp_path), ratings="r.parquet")
    assert got.users == ["u1"]


def test_blocks_are_bounded(tmp_path):
    amazon(tmp_path, "".join(f"u,i{n},3,15000000000{n:02d}\n\n" for n in range(10)))
    spec = locate(CorpusConfig(source="amazon", path=str(tmp_path))).events[0]
    blocks = pa.concat_tables(read_blocks(spec, block_bytes=69))
    assert pc.subtract(blocks["stop"], blocks["start"]).to_pylist() == [66, 66, 66, 22]
    assert blocks["line"].to_pylist() == [2, 8, 14, 20]  # blank lines count, but are not rows


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    amazon(tmp_path, ("\ufeff" + RATINGS + "u1,i1,5.0,1522540800000\r\n").encode())
    assert read(source="amazon", path=str(tmp_path)).users == ["u1"]


# ---- rows that need other rows


def test_reasons_that_need_more_than_one_row(tmp_path):
    items = [
        {"parent_asin": "i1", "title": "One"},
        {"parent_asin": "i2", "title": None},
        {"parent_asin": "i1", "title": "One again"},
    ]
    amazon(
        tmp_path,
        "u,i1,5,1500000000000\n"
        "u,i1,4,1500000000000\n"
        "u,i1,5,1500000000001\n"
        "u,i2,5,1500000000000\n"
        "u,i9,5,1500000000000\n"
        "u,i1,9,1500000000000\n",
        items,
    )
    got = read(source="amazon", path=str(tmp_path))
    assert got.counts == {
        "missing title": 2,
        "duplicate event": 1,
        "duplicate item": 1,
        "rating outside its range": 1,
        "unknown item": 1,
    }
    where = {(r["reason"], Path(r["file"]).name, r["line"]) for r in got.rejected.to_pylist()}
    assert where == {
        ("duplicate event", "ratings.csv", 3),
        ("missing title", "ratings.csv", 5),
        ("unknown item", "ratings.csv", 6),
        ("rating outside its range", "ratings.csv", 7),
        ("missing title", "meta.jsonl", 2),
        ("duplicate item", "meta.jsonl", 3),
    }
    assert got.catalogue["title"].to_pylist() == ["One"]
    assert len(got.events) == 2
    assert got.rows == 9 == len(got.events) + len(got.rejected) + 1


# ---- files that cannot become a corpus


def fails(*words, **corpus):
    with pytest.raises(CorpusError) as error:
        read(**corpus)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_column(tmp_path):
    amazon(tmp_path, b"user,asin,rating,timestamp\nu,i1,5,1\n")
    fails("no column 'user_id'", "'asin'", source="amazon", path=str(tmp_path))
    (tmp_path / "mine.csv").write_text("who,item,time\nu,i,1\n")
    wrong = {"source": "table", "ratings": str(tmp_path / "mine.csv")}
    fails("no column 'user'", "found 'who', 'item', 'time'", "corpus.columns", **wrong)
    fails("no column 'stars'", **wrong, columns={"user": "who", "rating": "stars"})
    fails("unknown role 'usr'", "user, item", **wrong, columns={"usr": "who"})


def test_columns_that_would_have_no_effect(tmp_path):
    amazon(tmp_path, "u1,i1,5.0,1522540800000\n")
    where = {"path": str(tmp_path)}
    fails("corpus.columns has no effect", source="amazon", columns={"user": "u"}, **where)
    fails("unknown role 'usr'", source="recbole", columns={"usr": "u"}, **where)


def test_titles_nowhere(tmp_path):
    (tmp_path / "mine.csv").write_text("user,item,time\nu,i,1\n")
    fails("no column 'title'", source="table", path=str(tmp_path))


@pytest.mark.parametrize("raw", [b"", b"\n", gzip.compress(b"", mtime=0)])
def test_empty_file(tmp_path, raw):
    amazon(tmp_path, "")
    (tmp_path / "ratings.csv").unlink()
    (tmp_path / ("Empty.csv.gz" if raw[:2] == b"\x1f\x8b" else "Empty.csv")).write_bytes(raw)
    fails("Empty.csv", "is empty", source="amazon", path=str(tmp_path))


def test_only_a_header(tmp_path):
    fails("no rows", source="amazon", path=str(amazon(tmp_path, "")))


@pytest.mark.parametrize("keep", [5, 0.5, -4])
def test_truncated_gz(tmp_path, keep):
    amazon(tmp_path, "")
    rows = "".join(f"u{n * 7919},i{n % 5},5,15000{n:08d}\n" for n in range(100_000))
    raw = gzip.compress((RATINGS + rows).encode())
    cut = int(len(raw) * keep) if isinstance(keep, float) else keep
    (tmp_path / "ratings.csv").unlink()
    (tmp_path / "ratings.csv.gz").write_bytes(raw[:cut])
    fails("ratings.csv.gz is a truncated .gz file", source="amazon", path=str(tmp_path))


def test_damaged_gz_and_parquet(tmp_path):
    amazon(tmp_path, "")
    (tmp_path / "ratings.csv").unlink()
    (tmp_path / "ratings.csv.gz").write_bytes(b"this is not gzip")
    fails("is a damaged .gz file", source="amazon", path=str(tmp_path))
    (tmp_path / "mine.parquet").write_bytes(b"PAR1 this is not Parquet")
    fails("is not Parquet", source="table", ratings=str(tmp_path / "mine.parquet"))


@pytest.mark.parametrize("source", ["amazon", "movielens", "recbole", "table"])
def test_missing_files(tmp_path, source):
    (tmp_path / "notes.txt").write_text("x")
    fails("lacks", "notes.txt", "corpus.path", source=source, path=str(tmp_path))
    fails("is not a folder", source=source, path=str(tmp_path / "absent"))
    fails("absent.csv is missing", source=source, ratings=str(tmp_path / "absent.csv"))


def test_wrong_encoding_of_a_header(tmp_path):
    amazon(tmp_path, RATINGS.encode("utf-16"))
    fails("line 1: not UTF-8", source="amazon", path=str(tmp_path))


def test_nothing_usable(tmp_path):
    amazon(tmp_path, "u,i9,5,1500000000000\n")
    fails("none of 6 rows is usable", "1 unknown item", source="amazon", path=str(tmp_path))


def test_broken_json_at_the_start_is_one_row(tmp_path):
    amazon(tmp_path, "u,i1,5,1500000000000\n")
    meta = tmp_path / "meta.jsonl"
    meta.write_text('{"parent_asin": \n' + meta.read_text())
    got = read(source="amazon", path=str(tmp_path))
    assert got.counts == {"broken JSON": 1}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"user": 1}, {"user": 2}]', "holds a JSON array"),
        ('\ufeff[\n  {"user": 1},\n  {"user": 2}\n]\n', "holds a JSON array"),
        ('{\n  "user": 1,\n  "item": 2\n}\n', "JSON objects over several lines"),
        ("{'asin': 'B1'}\n{'asin': 'B2'}\n", "line 1: not a JSON object"),
    ],
)
def test_json_that_is_not_one_object_a_line(tmp_path, text, what):
    (tmp_path / "events.json").write_text(text)
    fails(what, "write one object per line", source="table", path=str(tmp_path))


def test_json_lines_after_a_blank_one(tmp_path):
    row = {"user": "u", "item": "i", "time": 1_600_000_000, "title": "T"}
    (tmp_path / "events.jsonl").write_text("\n" + json.dumps(row) + "\n")
    assert read(source="table", path=str(tmp_path)).users == ["u"]


def test_titles_of_the_interactions_are_read_from_the_same_rows(tmp_path):
    """The middle line has a key and a title but no time, so it is a text."""
    rows = ["user,item,title,text,time", 'u1,B1,Lamp,"Nice.', "Great,B2,Junk,really,x"]
    rows += ['Bye",1600000000', "u2,B2,Kettle,ok,1600000001", "u3,B1,Lamp,,1600000002"]
    (tmp_path / "interactions.csv").write_text("\n".join(rows) + "\n")
    got = read(source="table", path=str(tmp_path))
    assert got.counts == {}
    texts = zip(
        *(got.catalogue[name].to_pylist() for name in ("key", "title", "text")), strict=True
    )
    assert [*texts] == [("B1", "Lamp", "Nice. Great,B2,Junk,really,x Bye"), ("B2", "Kettle", "ok")]


def test_interactions_without_ratings(tmp_path):
    (tmp_path / "events.csv").write_text("user,item,title,stars,time\nu,i,T,1,1600000000\n")
    located = locate(CorpusConfig(source="table", path=str(tmp_path)))
    assert located.notes == ["there is no rating column: each event counts as 5"]
    fails("corpus.min_rating=4 needs ratings", source="table", path=str(tmp_path), min_rating=4)
    fails("corpus.choices=3 compares ratings", source="table", path=str(tmp_path), choices=3)
    named = CorpusConfig(source="table", path=str(tmp_path), columns={"rating": "stars"})
    assert locate(named).notes == []
    assert locate(named.model_copy(update={"choices": 3})).notes == []


# ---- real data


@pytest.mark.parametrize(
    ("folder", "source", "samples", "strict"),
    [
        ("amazon2018_office", "amazon", 18_059, 13_437),
        ("amazon2023_all_beauty", "amazon", 2_282, 2_282),
        ("movielens_small", "movielens", 99_333, 98_681),
    ],
)
def test_real_data(folder, source, samples, strict):
    path = DATA / folder
    if not path.exists():
        pytest.skip(f"{path} is absent")
    got = read(source=source, path=str(path))
    assert len(got.rejected) == 0
    made = got.samples(same_time="keep", ties="key")
    assert len(made.order) == samples == len(got.events) - len(got.events.users)
    # All events except those of each user's first time.
    table = pa.table({"user": got.events.user, "time": got.events.time})
    first = table.group_by("user").aggregate([("time", "min")])
    at_first = table.join(first, "user").filter(pc.field("time") == pc.field("time_min"))
    made = got.samples()
    assert len(made.order) == strict == len(got.events) - len(at_first)
