"""Tables of several files: patterns, lists, and columns in the names of folders."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_corpora import read
from hypothesis import given
from hypothesis import strategies as st

from minirec.config.corpus import CorpusConfig
from minirec.config.reading import load
from minirec.corpus.files.finding import chosen, natural, partition
from minirec.corpus.files.sources import locate
from minirec.errors import ConfigError, CorpusError

HEADER = "user,item,time\n"
DAYS = ("2024-01-30", "2024-01-31", "2024-02-01")
MS = {"2024-01-30": 1_706_572_800_000, "2024-01-31": 1_706_659_200_000}


def csv(path, *users):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = HEADER + "".join(f"{u},a,160000000{n}\n" for n, u in enumerate(users))
    path.write_bytes(gzip.compress(raw.encode()) if path.suffix == ".gz" else raw.encode())


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "items.csv").write_text("item,title\na,Apple\nb,Pear\n")
    return tmp_path


def files(names, folder):
    return [
        str(file.relative_to(folder))
        for table in chosen(names, str(folder))
        for file in table.files
    ]


def refusal(**corpus):
    with pytest.raises(CorpusError) as error:
        locate(CorpusConfig(source="table", **corpus))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- patterns and lists


def test_a_pattern_is_one_table_in_natural_order(shop):
    for name in ("day-10.csv.gz", "day-9.csv.gz", "day-9.csv", ".day-1.csv", "_day-2.csv"):
        csv(shop / "logs" / name, name)
    (table,) = chosen("logs/*day*.csv*", str(shop))
    assert [file.name for file in table.files] == ["day-9.csv", "day-10.csv.gz"]
    assert table.path == shop / "logs"
    got = read(source="table", path=str(shop), ratings="logs/*.csv*", columns={"order": "file"})
    assert got.users == ["day-10.csv.gz", "day-9.csv"]
    order = got.events.order
    assert order[0] < order[1], "the plain file of day 9 comes first"
    assert got.events.user.tolist() == [1, 0]


@pytest.mark.parametrize("names", ["logs/*/x.csv", "logs/**/*.csv", "logs/[ab]/?.csv"])
def test_patterns_of_folders(shop, names):
    for folder in ("a", "b"):
        csv(shop / "logs" / folder / "x.csv", folder)
    csv(shop / "logs" / "_temporary" / "x.csv", "c")
    assert files(names, shop) == ["logs/a/x.csv", "logs/b/x.csv"]


def test_a_pattern_of_partitions(shop):
    for day in DAYS:
        csv(shop / "logs" / f"day={day}" / "part-0.csv", "u")
        csv(shop / "logs" / f"day={day}" / "hour=3" / "part-0.csv", "u")
        (shop / "logs" / f"day={day}" / "part-1.csv").write_bytes(b"")
    expected = [
        "logs/day=2024-01-30/hour=3/part-0.csv",
        "logs/day=2024-01-30/part-0.csv",
        "logs/day=2024-01-31/hour=3/part-0.csv",
        "logs/day=2024-01-31/part-0.csv",
    ]
    assert files("logs/day=2024-01-*", shop) == expected
    assert files("logs/day=2024-01-*/part-*.csv", shop) == expected[1::2]


def test_a_list_of_files_and_patterns(shop):
    for name in ("b.csv", "a.csv", "c1.csv", "c2.csv"):
        csv(shop / name, name)
    assert files(["b.csv", "a.csv"], shop) == ["b.csv", "a.csv"]
    assert files(["c2.csv", "c*.csv", "c1.csv"], shop) == ["c2.csv", "c1.csv"], "no file twice"
    same = [str(shop / "a.csv"), "./a.csv", f"../{shop.name}/a.csv"]
    assert files(same, shop) == ["a.csv"]
    words = ["corpus.source=table", f"corpus.path={shop}", "corpus.ratings=[a.csv, c*.csv]"]
    found = locate(load(None, words).corpus)
    assert [Path(spec.path).name for spec in found.events] == ["a.csv", "c1.csv", "c2.csv"]
    assert not found.inline, "the catalogue is found beside them"


def test_a_catalogue_of_several_files(shop):
    csv(shop / "clicks.csv", "u")
    for n, item in enumerate("ab"):
        (shop / f"products-{n}.csv").write_text(f"item,title\n{item},Title {item}\n")
    (shop / "items.csv").unlink()
    got = read(source="table", path=str(shop), metadata="products-*.csv")
    assert got.catalogue["title"].to_pylist() == ["Title a"]
    assert got.rows == 3, "one event, and one item in each file of the catalogue"


def test_a_name_that_looks_like_a_pattern(shop):
    csv(shop / "clicks [new].csv", "u")
    assert files("clicks [new].csv", shop) == ["clicks [new].csv"]


def test_a_pattern_below_a_folder_with_brackets(tmp_path):
    csv(tmp_path / "shop [old]" / "a.csv", "u")
    assert files("*.csv", tmp_path / "shop [old]") == ["a.csv"]


def test_a_pattern_is_looked_for_in_the_working_directory_too(tmp_path, monkeypatch):
    csv(tmp_path / "here" / "a.csv", "u")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (table,) = chosen("*.csv", str(tmp_path / "there"))
    assert table.files == (tmp_path / "here" / "a.csv",)


def test_the_domain_of_a_pattern_is_its_folder(shop):
    csv(shop / "video_games" / "logs-1.csv", "u")
    csv(shop / "video_games" / "logs-2.csv", "u")
    where = {"source": "table", "metadata": str(shop / "items.csv")}
    found = locate(CorpusConfig(**where, path=str(shop), ratings="video_games/*.csv"))
    assert found.fallback == "video games"


def test_nothing_matches(shop):
    words = refusal(path=str(shop), ratings="logs/*.csv")
    assert f"no table matches {Path.cwd() / 'logs/*.csv'} or {shop / 'logs/*.csv'}; check" in words
    (shop / "logs").mkdir()
    (shop / "logs" / "notes.txt").write_text("x")
    assert "notes.txt has the ending .txt" in refusal(path=str(shop), ratings="logs/*")
    words = refusal(path=str(shop), ratings=["items.csv", "absent.csv"])
    assert "absent.csv is missing" in words


@pytest.mark.parametrize("pattern", ["*/*.parquet", "lake/*.parquet", "l*", "**/*.parquet"])
def test_a_pattern_inside_a_versioned_table(shop, pattern):
    (shop / "lake" / "_delta_log").mkdir(parents=True)
    pq.write_table(pa.table({"user": ["u"]}), shop / "lake" / "part-0.parquet")
    assert "is a table of Delta Lake" in refusal(path=str(shop), ratings=pattern)


@pytest.mark.parametrize("given", ["[]", "[1]", "{a: b}", "3"])
def test_what_names_no_file(given):
    with pytest.raises(ConfigError, match="names no file; write a file, a pattern or a list"):
        load(None, ["corpus.source=table", "corpus.path=x", f"corpus.ratings={given}"])


# ---- columns in the names of folders


def days(shop, format):
    """Events of one user on each of `DAYS`, in a folder named by its day; no file has a time."""
    for n, day in enumerate(DAYS):
        folder = shop / "log" / f"day={day}"
        folder.mkdir(parents=True)
        rows = {"user": [f"u{n}", "v"], "item": ["a", "b"], "note": ['say "x, y"', "z"]}
        if format == "parquet":
            pq.write_table(pa.table(rows), folder / "part-0.parquet")
        elif format == "jsonl":
            text = "".join(json.dumps(row) + "\n" for row in pa.table(rows).to_pylist())
            (folder / "part-0.jsonl").write_text(text)
        else:
            text = f'user,item,note\nu{n},a,"say ""x,\nso\np,q,r\nit is\nand y"""\nv,b,z\n'
            (folder / "part-0.csv").write_text(text)


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("ratings", ["log", "log/day=2024-0*/*", "log/*"])
def test_the_time_of_a_partition(shop, format, ratings):
    days(shop, format)
    got = read(source="table", path=str(shop), ratings=ratings, columns={"time": "day"})
    events = got.events
    assert events.users.to_pylist() == ["u0", "u1", "u2", "v"]
    first = {events.users[int(u)].as_py(): t for u, t in zip(events.user, events.time, strict=True)}
    assert (first["u0"], first["u1"]) == (MS["2024-01-30"], MS["2024-01-31"])
    assert (len(got.rejected), len(events)) == (0, 6)


def test_a_file_has_its_partition_when_it_is_named(shop):
    days(shop, "csv")
    name = "log/day=2024-01-31/part-0.csv"
    got = read(source="table", path=str(shop), ratings=name, columns={"time": "day"})
    assert set(got.events.time.tolist()) == {MS["2024-01-31"]}


def test_types_of_events_and_ratings_in_the_names_of_folders(shop):
    for kind, stars in (("add%20to%20cart", 2), ("buy", 4), ("__HIVE_DEFAULT_PARTITION__", 1)):
        csv(shop / "log" / f"kind={kind}" / f"rating={stars}" / "part-0.csv", "u", "v")
    got = read(
        source="table",
        path=str(shop),
        ratings="log",
        columns={"event": "kind"},
        events={"add to cart": "drop", "buy": "keep"},
    )
    assert got.events.rating.tolist() == [4.0, 4.0]
    assert got.notes == ["2 add to cart events are dropped (corpus.events)"]
    assert [row["reason"] for row in got.rejected.to_pylist()] == ["missing event"] * 2


def test_titles_and_times_without_a_catalogue(shop):
    (shop / "items.csv").unlink()
    days(shop, "csv")
    got = read(
        source="table",
        path=str(shop / "log"),
        ratings=str(shop / "log"),
        columns={"time": "day", "title": "note"},
    )
    assert sorted(got.catalogue["title"].to_pylist()) == ['say "x, so p,q,r it is and y"', "z"]


def test_a_column_of_the_file_comes_first(shop):
    csv(shop / "log" / "user=folder" / "part-0.csv", "inside")
    got = read(source="table", path=str(shop), ratings="log")
    assert got.users == ["inside"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/d/day=2024-01-31/shop=A%2FB/x.csv", {"shop": "A/B", "day": "2024-01-31"}),
        ("/d/a=1/b/x.csv", {}),
        ("/d/a=1=2/x=1.csv", {"a": "1=2"}),
        ("/d/a=1/a=2/x.csv", {"a": "2"}),
        ("/d/=1/a=/x.csv", {"a": ""}),
        ("/d/a=__HIVE_DEFAULT_PARTITION__/x.csv", {"a": ""}),
        ("/d/na%20me=%C3%A9/x.csv", {"na me": "\u00e9"}),
    ],
)
def test_partitions_of_a_path(path, found):
    assert partition(Path(path)) == found


@given(st.lists(st.integers(0, 200), unique=True))
def test_natural_order_is_that_of_the_numbers(numbers):
    names = [f"/a-1/part-{number}.csv" for number in numbers]
    assert sorted(names, key=natural) == [f"/a-1/part-{n}.csv" for n in sorted(numbers)]


@given(st.lists(st.text(max_size=6)))
def test_any_names_have_an_order(names):
    """Numbers are never compared with texts, which would raise."""
    assert sorted(sorted(names, key=natural)) == sorted(names)
