"""Appending events to a prepared corpus, against preparing all events at once."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jobs.append import append_files, held
from jobs.corpus import from_files
from minirec.config.corpus import CorpusConfig
from minirec.corpus.files.sources import locate
from minirec.corpus.reading import LocalReader, Reader
from minirec.corpus.schema import TAILS
from minirec.errors import CorpusError
from minirec.prior.prior import Prior
from minirec.prior.refresh import NewEvents, refreshed
from minirec.store.files import read_json
from minirec.store.tables import table_writer

SPLITS = ("train", "valid", "test")
START = 1_600_000_000  # 2020-09-13 12:26:40 UTC
STEP = 43_200  # half a day


def write_events(path: Path, rows) -> Path:
    """Rows (user, item, rating, time in half days)."""
    lines = [f"{user},{item},{rating},{START + STEP * time}" for user, item, rating, time in rows]
    path.write_text("\n".join(["user,item,rating,time", *lines]) + "\n")
    return path


def write_items(path: Path, keys) -> Path:
    path.write_text("item,title\n" + "".join(f"{key},Title {key}\n" for key in keys))
    return path


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=300_000_000)
    yield
    if started:
        ray.shutdown()


def config(folder: Path, **given) -> CorpusConfig:
    given = {"ratings": "base.csv", "max_rejected": 1.0} | given
    return CorpusConfig(source="table", path=str(folder), **given)


def prepared(
    out: Path, corpus: CorpusConfig, *, weight: str | None = None, reader: Reader | None = None
) -> Path:
    """The corpus without the appended files."""
    beside = out.with_name(f"{out.name}-rejected.parquet")
    from_files(locate(corpus, weight=weight), corpus, out, beside, weight, reader or LocalReader())
    return out


def added(
    out: Path, corpus: CorpusConfig, *, weight: str | None = None, reader: Reader | None = None
) -> Path:
    """Append the files of the settings."""
    for file, one in zip(corpus.appended, corpus.additions, strict=True):
        located = locate(one, weight=weight)
        own = one.metadata != corpus.metadata
        beside = out.with_name(f"{out.name}-rejected.parquet")
        append_files(located, one, out, beside, [file], weight, own, out, reader or LocalReader())
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def by_key(corpus: Path) -> dict:
    """What a corpus says without the numbers of items, which depend on the order of appending."""
    items = pq.read_table(corpus / "items.parquet").to_pylist()
    key = {row["item_id"]: row["key"] for row in items}
    found: dict = {"titles": {row["key"]: (row["title"], row["text"]) for row in items}}
    for name in (*SPLITS, "tails"):
        rows = pq.read_table(corpus / f"{name}.parquet").to_pylist()
        for row in rows:
            for column in {"history", "target", "same_time"} & row.keys():
                ids = row[column]
                row[column] = [key[i] for i in ids] if isinstance(ids, list) else key[ids]
        found[name] = rows
    summary = read_json(corpus / "corpus.json")
    for name in ("shortcuts", "appended", "source", "category"):
        summary.pop(name, None)
    return found | {"summary": summary}


ROW = st.tuples(
    st.sampled_from(["u1", "u2", "u10", "v", "w", "x", "y", "z"]),
    st.sampled_from(["b", "a", "f", "c", "e", "d", "none"]),
    st.integers(1, 5),
    st.integers(0, 12),
)
CUTS = st.tuples(st.integers(6, 12), st.integers(6, 12))
CHOICES = st.fixed_dictionaries(
    {
        "same_time": st.sampled_from(["exclude", "keep"]),
        "ties": st.sampled_from(["hash", "key", "file"]),
        "history": st.integers(1, 3),
        "min_history": st.sampled_from([1, 1, 2, 4]),
        "min_rating": st.sampled_from([None, None, 2]),
        "start": st.sampled_from([None, None, "2020-09-14"]),
        "end": st.sampled_from([None, None, "2020-09-18"]),
        "split": st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25)]),
    }
)


def in_small_groups(corpus: Path) -> Path:
    """Rewrite the tables of a corpus with two rows in a row group, as if it were large."""
    for path in corpus.glob("*.parquet"):
        table = pq.read_table(path)
        with table_writer(path, table.schema) as writer:
            writer.write_table(table, row_group_size=2)
    return corpus


def check(rows, cuts, choices) -> None:
    first, second = sorted(cuts)
    parts = {
        "base.csv": [row for row in rows if row[3] < first],
        "day1.csv": [row for row in rows if first <= row[3] < second],
        "day2.csv": [row for row in rows if row[3] >= second],
    }
    parts = {name: part for name, part in parts.items() if any(row[1] != "none" for row in part)}
    assume("base.csv" in parts and len(parts) > 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_items(folder / "items.csv", "abcdef")
        for file, part in parts.items():
            write_events(folder / file, part)
        write_events(folder / "all.csv", [row for part in parts.values() for row in part])
        corpus = config(folder, **choices, appended=[name for name in parts if name != "base.csv"])
        try:
            grown = prepared(folder / "grown", corpus)
        except CorpusError:
            assume(False)
        old = pq.read_table(in_small_groups(grown) / "items.parquet")
        added(grown, corpus)
        whole = prepared(folder / "whole", config(folder, **choices, ratings="all.csv"))
        assert by_key(grown) == by_key(whole)
        assert pq.read_table(grown / "items.parquet").slice(0, len(old)) == old


@given(rows=st.lists(ROW, min_size=30, max_size=80), cuts=CUTS, choices=CHOICES)
@settings(max_examples=40)
def test_appending_equals_preparing_all_at_once(rows, cuts, choices):
    check(rows, cuts, choices)


@pytest.mark.long
@given(rows=st.lists(ROW, min_size=30, max_size=80), cuts=CUTS, choices=CHOICES)
@settings(max_examples=800)
def test_appending_equals_preparing_all_at_once_in_many_cases(rows, cuts, choices):
    check(rows, cuts, choices)


BASE = [(f"u{n % 3}", "abc"[n * 2 % 3], 4, n) for n in range(12)]
DAY = [("u1", "d", 5, 20), ("u2", "a", 3, 20), ("new", "b", 4, 21), ("new", "a", 4, 22)]


@pytest.fixture
def shop(tmp_path) -> Path:
    """A folder with base.csv, day1.csv and items.csv."""
    write_items(tmp_path / "items.csv", "abcd")
    write_events(tmp_path / "base.csv", BASE)
    write_events(tmp_path / "day1.csv", DAY)
    return tmp_path


def test_by_hand(shop):
    corpus = config(shop, appended=["day1.csv"], history=2)
    grown = added(prepared(shop / "corpus", corpus), corpus)
    tables = [pq.read_table(grown / f"{name}.parquet") for name in SPLITS]
    rows = [row for table in tables for row in table.to_pylist()]
    # 9 samples of the base; u1 and u2 go on, and the second event of the new user is a sample.
    assert [row["sample_id"] for row in rows] == list(range(12))
    assert [(row["user"], row["target"]) for row in rows[9:]] == [("u1", 3), ("u2", 0), ("new", 0)]
    # u1 had the events 1, 4, 7, 10 of the base: items c, c, c, c.
    assert rows[9]["history"] == [2, 2] and rows[11]["history"] == [1]
    # 80% are 10 rows, but the rows 9 and 10 have one time.
    assert [len(table) for table in tables] == [9, 2, 1]
    tails = pq.read_table(grown / "tails.parquet")
    assert tails.schema == TAILS
    assert [(row["user"], row["events"], row["history"]) for row in tails.to_pylist()] == [
        ("new", 2, [1, 0]),
        ("u0", 4, [0, 0]),
        ("u1", 5, [2, 3]),
        ("u2", 5, [1, 0]),
    ]
    summary = read_json(grown / "corpus.json")
    assert summary["appended"] == [
        {"files": ["day1.csv"], "rows": 4, "events": 4, "users": 1, "items": 1, "samples": 3}
    ]
    assert [summary[name] for name in ("rows", "events", "users", "items")] == [20, 16, 4, 4]


def test_the_first_visit_of_a_new_user_has_no_target(shop):
    """Of its two events one would be a target if a history could hold the other."""
    write_events(shop / "day1.csv", [("new", "a", 4, 20), ("new", "b", 4, 20), ("u0", "c", 4, 20)])
    corpus = config(shop, appended=["day1.csv"])
    grown = added(prepared(shop / "corpus", corpus), corpus)
    assert read_json(grown / "corpus.json")["same_time"]["left_out"] == 1
    assert read_json(grown / "corpus.json")["appended"][0]["samples"] == 1


@pytest.mark.parametrize("time", [11, 3])
def test_events_that_are_not_later_are_refused(shop, time):
    write_events(shop / "day1.csv", [*DAY, ("u0", "a", 4, time)])
    corpus = config(shop, appended=["day1.csv"])
    out = prepared(shop / "corpus", corpus)
    before = contents(out)
    day = "2020-09-19 00:26:40" if time == 11 else "2020-09-15 00:26:40"
    wanted = f"the first new event is at {day} UTC, and the corpus has events up to 2020-09-19 00"
    with pytest.raises(CorpusError, match=wanted):
        added(out, corpus)
    assert contents(out) == before


def test_too_many_rejected_rows_leave_the_corpus(shop):
    write_events(shop / "day1.csv", [*DAY, ("u0", "a", 9, 30)])
    corpus = config(shop, appended=["day1.csv"], max_rejected=0.1)
    out = prepared(shop / "corpus", corpus)
    before = contents(out)
    with pytest.raises(CorpusError, match="1 of 5 rows are malformed"):
        added(out, corpus)
    assert contents(out) == before
    assert len(pq.read_table(shop / "corpus-rejected.parquet")) == 1


def test_titles_from_a_catalogue_of_its_own(shop):
    """It need not hold the known items, and those keep their titles."""
    write_events(shop / "day1.csv", [*DAY, ("u1", "z", 5, 23), ("u1", "y", 5, 24)])
    (shop / "new.csv").write_text("item,title,cost\nz,Z,1\na,Other,1\nd,D,1\n")
    corpus = config(shop, appended=["day1.csv"], appended_metadata=["new.csv"])
    grown = added(prepared(shop / "corpus", corpus), corpus)
    items = pq.read_table(grown / "items.parquet")
    assert items["title"].to_pylist() == ["Title a", "Title b", "Title c", "D", "Z"]
    summary = read_json(grown / "corpus.json")
    assert summary["rejected"] == {"unknown item": 1}
    assert summary["rows"] == 12 + 4 + 6 + 3


def test_titles_of_the_interactions(tmp_path):
    def write(name, rows):
        lines = (f"{u},{i},{START + STEP * t},{i.upper()} {t}" for u, i, _, t in rows)
        (tmp_path / name).write_text("\n".join(["user,item,time,title", *lines]) + "\n")

    write("base.csv", BASE)
    write("day1.csv", DAY)
    corpus = config(tmp_path, appended=["day1.csv"])
    out = prepared(tmp_path / "corpus", corpus)
    titles = pq.read_table(out / "items.parquet")["title"].to_pylist()
    added(out, corpus)
    assert pq.read_table(out / "items.parquet")["title"].to_pylist() == [*titles, "D 20"]
    assert read_json(out / "corpus.json")["rows"] == 16


def test_ids_with_decimals_are_those_of_the_corpus(tmp_path):
    rows = [(1 + n % 2, 1 + n % 3, 4, n) for n in range(12)]
    write_items(tmp_path / "items.csv", "123")
    write_events(tmp_path / "base.csv", rows)
    write_events(tmp_path / "day1.csv", [(f"{u}.0", f"{i}.0", r, t + 20) for u, i, r, t in rows])
    corpus = config(tmp_path, appended=["day1.csv"])
    grown = added(prepared(tmp_path / "corpus", corpus), corpus)
    assert pq.read_table(grown / "tails.parquet")["user"].to_pylist() == ["1", "2"]
    assert pq.read_table(grown / "items.parquet")["key"].to_pylist() == ["1", "2", "3"]


def test_weights_grow(shop):
    """Costs 0, 1, 2 of a, b, c, and nothing readable for d, which gets their median."""
    (shop / "items.csv").write_text("item,title,cost\na,A,0\nb,B,1\nc,C,2\nd,D,soon\n")
    corpus = config(shop, appended=["day1.csv"])
    grown = added(prepared(shop / "corpus", corpus, weight="cost"), corpus, weight="cost")
    assert pq.read_table(grown / "items.parquet")["cost"].to_pylist() == [0, 1, 2, 1]
    facts = read_json(grown / "corpus.json")["item_weight"]
    cost = np.array([0, 1, 2, 1])
    mean = cost[pq.read_table(grown / "train.parquet")["target"].to_numpy()].mean()
    assert facts == {
        "column": "cost",
        "known": 3,
        "missing": 1,
        "negative": 0,
        "median": 1,
        "mean": mean,
    }


def test_the_counts_of_the_prior_grow(shop):
    """They equal those of a preparation from nothing, up to the numbers of items."""
    # Item aa gets the last id when it is appended, and the second one otherwise.
    write_items(shop / "items.csv", ["a", "aa", "b", "c", "d"])
    write_events(shop / "day1.csv", [*DAY, ("u0", "aa", 4, 23), ("u1", "aa", 4, 24)])
    write_events(shop / "all.csv", [*BASE, *DAY, ("u0", "aa", 4, 23), ("u1", "aa", 4, 24)])
    corpus = config(shop, appended=["day1.csv"])
    grown = added(prepared(shop / "grown", corpus), corpus)
    whole = prepared(shop / "whole", config(shop, ratings="all.csv"))
    keys, others = (
        pq.read_table(out / "items.parquet")["key"].to_pylist() for out in (grown, whole)
    )
    assert keys != others
    place = [keys.index(key) for key in others]
    none = NewEvents(pa.chunked_array([], pa.string()), np.empty(0, np.int64), None)

    def found(out):
        train = Prior.of(out).known
        every, _ = refreshed(out, none, same_time="exclude", min_history=1)
        return train, every

    for got, wanted in zip(found(grown), found(whole), strict=True):
        assert got.users[place].tolist() == wanted.users.tolist()
        moves = got.transitions.toarray()[np.ix_(place, place)]
        np.testing.assert_allclose(moves, wanted.transitions.toarray(), rtol=1e-12)
        likeness, other = ((c.likeness[0] @ c.likeness[1]).toarray() for c in (got, wanted))
        np.testing.assert_allclose(likeness[np.ix_(place, place)], other, rtol=1e-12)


def test_what_a_corpus_holds(shop):
    corpus = config(shop, appended=["day1.csv"])
    out = prepared(shop / "corpus", corpus)
    assert held(out, [["day1.csv"]]) == 0
    added(out, corpus)
    assert held(out, [["day1.csv"], ["day2.csv"]]) == 1
    assert held(out, [["day2.csv"], ["day1.csv"]]) is None
    assert held(out, []) is None
    (out / "valid.parquet").write_bytes(b"damaged")
    assert held(out, [["day1.csv"]]) is None


@pytest.mark.parametrize(
    "settings",
    [{"k_core": 2}, {"split": "leave_one_out"}, {"columns": {"order": "file"}}],
)
def test_a_corpus_that_cannot_grow_has_no_tails(shop, settings):
    with pytest.raises(ValueError, match=r"corpus\.appended cannot be used with corpus\."):
        config(shop, appended=["day1.csv"], **settings)
    write_events(shop / "base.csv", BASE * 2)
    out = prepared(shop / "corpus", config(shop, **settings))
    assert not (out / "tails.parquet").exists()
    assert held(out, [["day1.csv"]]) is None


def test_an_appended_file_in_the_folder_is_not_part_of_the_corpus_before(shop):
    corpus = config(shop, ratings=None, appended=["day1.csv"])
    assert [Path(spec.path).name for spec in locate(corpus).events] == ["base.csv"]


@pytest.mark.ray
def test_a_cluster_makes_the_same_bytes(cluster, shop):
    from actors.corpus.shuffle import RayReader

    corpus = config(shop, appended=["day1.csv"])
    for reader in (None, RayReader(part_bytes=100)):
        name = "here" if reader is None else "there"
        added(prepared(shop / name, corpus, reader=reader), corpus, reader=reader)
    assert contents(shop / "here") == contents(shop / "there")
