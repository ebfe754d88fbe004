"""Checks over all rows: shares of rejected rows, ids, times and titles."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_corpora import Read, amazon, read, shown

from minirec.errors import CorpusError


def too_many(got: Read, limit: float = 0.01) -> str:
    with pytest.raises(CorpusError) as error:
        got.assembled.check_rejected(limit=limit)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_too_many_rejected_shows_five(tmp_path):
    amazon(tmp_path, "u,i1,5,1500000000000\n" + "".join(f"u,i1,bad{n},1\n" for n in range(7)))
    got = read(source="amazon", path=str(tmp_path))
    message = too_many(got)
    assert "7 of 13 rows are malformed" in message and "7 bad number" in message
    assert f"{tmp_path}/ratings.csv:3: bad number: 'u,i1,bad0,1'" in message
    assert "bad4" in message and "bad5" not in message
    got.assembled.check_rejected(limit=0.6)


def test_rows_of_each_reason_are_shown_and_the_catalogue_first(tmp_path):
    rows = "".join(f"u{n},i9,5,1500000000000\n" for n in range(9))
    items = [{"parent_asin": "i1", "title": "One"}, {"parent_asin": "i9", "title": {"en": "Nine"}}]
    amazon(tmp_path, rows + "u,i1,5,1500000000000\nu,i1,5,soon\n", items)
    (tmp_path / "meta.jsonl").rename(tmp_path / "zz.jsonl")
    corpus = {"ratings": "ratings.csv", "metadata": "zz.jsonl", "path": str(tmp_path)}
    message = too_many(read(source="amazon", **corpus))
    wanted = ["zz.jsonl:2: title is an object", "ratings.csv:2: missing title", ":12: bad date"]
    places = [message.find(text) for text in wanted]
    assert -1 not in places and places == sorted(places)


def test_the_message_says_what_to_do(tmp_path):
    rows = ['{"user": {"$oid": "5f"}, "item": 1, "title": "T", "time": 1600000000}']
    rows += ['{"user": 1, "item": 1, "title": "T", "time": "soon"}']
    rows += ['{"user": 1, "item": 1, "title": "T", "time": 1600000000}']
    (tmp_path / "events.jsonl").write_text("\n".join(rows))
    message = too_many(read(source="table", path=str(tmp_path)))
    assert "user is an object: write its value alone" in message
    assert "bad date: a time is a number since 1970" in message
    (tmp_path / "events.jsonl").unlink()
    (tmp_path / "events.csv").write_text(
        'user,item,time,title\nu,1,1600000000,"T\nu,2,1600000000,T'
    )
    message = too_many(read(source="table", path=str(tmp_path)))
    assert "1 unclosed quote" in message and "at most 100 lines after" in message


def test_a_second_purchase_at_the_same_time_stops_nothing(tmp_path):
    amazon(tmp_path, "u,i1,5,1500000000000\n" * 50 + "u,i2,5,1500000000001\n")
    got = read(source="amazon", path=str(tmp_path))
    assert got.counts == {"duplicate event": 49}
    got.assembled.check_rejected(limit=0)
    amazon(tmp_path, "u,i1,5,1500000000000\n" * 50 + "u,i1,bad,1500000000001\n")
    message = too_many(read(source="amazon", path=str(tmp_path)))
    assert "1 of 56 rows are malformed" in message and "duplicate" not in message


def test_ratings_above_the_range_name_the_setting(tmp_path):
    amazon(tmp_path, "".join(f"u,i1,{n},150000000000{n}\n" for n in range(1, 10)))
    message = too_many(read(source="amazon", path=str(tmp_path)))
    assert "4 ratings lie outside corpus.rating_range" in message
    assert "run from 1 to 9: if they are right, set corpus.rating_range=[0,9]" in message
    wide = read(source="amazon", path=str(tmp_path), rating_range=(0, 9))
    assert len(wide.events) == 9 and wide.notes == []


def test_keys_of_both_sides_are_shown(tmp_path):
    (tmp_path / "events.csv").write_text("user,item,time\nu,00101,1600000000\nu,102,1600000000\n")
    (tmp_path / "items.csv").write_text("item,title\n101,One\n102,Two\n")
    got = read(source="table", path=str(tmp_path))
    note = "1 items of the interactions are not in the catalogue, e.g. '00101' here, '101' there"
    assert got.notes == [note]
    assert note in too_many(got)


# ---- checks over all rows


def test_decimal_ids_of_one_file_and_whole_ones_of_another(tmp_path):
    (tmp_path / "events.csv").write_text("user,item,time\n1.0,101.0,1700000000\n")
    (tmp_path / "ratings.csv").write_text("user,item,time\n1,102,1600000000\n")
    pq.write_table(
        pa.table({"item": pa.array([101, 102]), "title": ["One", "Two"]}),
        tmp_path / "items.parquet",
    )
    got = read(source="table", path=str(tmp_path))
    assert got.users == ["1"]
    assert got.keys == ["101", "102"]
    assert got.notes == [
        "1 user ids are decimals such as 1.0; read as whole numbers",
        "1 item ids are decimals such as 101.0; read as whole numbers",
    ]


def test_versions_are_no_decimals(tmp_path):
    (tmp_path / "events.csv").write_text("user,item,time\nu,1.10,1600000000\nu,1.0,1600000001\n")
    (tmp_path / "items.csv").write_text("item,title\n1.1,A\n1.10,B\n1.0,C\n")
    got = read(source="table", path=str(tmp_path))
    assert got.catalogue["title"].to_pylist() == ["C", "B"]
    assert got.notes == []


def test_decimal_types_of_parquet_are_whole_numbers(tmp_path):
    decimals = pa.array([1, 2], pa.decimal128(10, 2))
    columns = {"user": decimals, "item": decimals, "time": decimals, "title": decimals}
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    got = read(source="table", path=str(tmp_path))
    assert got.users == got.catalogue["title"].to_pylist() == ["1", "2"]
    assert got.events.time.tolist() == [1000, 2000]


REVIEWS = [
    ("B1", "Broke after a week"),
    ("B1", "Love it"),
    ("B2", "Great"),
    ("B1", "Love it"),
    ("B2", "Great"),
]


@pytest.mark.parametrize("turn", [1, -1])
def test_titles_of_reviews_are_said(tmp_path, turn):
    rows = [
        {
            "user": f"u{n}",
            "item": item,
            "title": title,
            "time": 1_600_000_000 + n,
            "text": title[:3],
        }
        for n, (item, title) in enumerate(REVIEWS)
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[::turn]))
    got = read(source="table", path=str(tmp_path))
    # The most frequent title wins, with the text of its row.
    assert shown(got) == [
        {"key": "B1", "title": "Love it", "text": "Lov"},
        {"key": "B2", "title": "Great", "text": "Gre"},
    ]
    assert got.notes[:2] == [
        "1 of 2 items have several texts in the interactions, such as B1 with 'Lov' and 'Bro'",
        "1 of 2 items have several titles in the interactions, such as B1 with 'Love it' and "
        "'Broke after a week'",
    ]
    assert "corpus.metadata" in got.notes[2] and len(got.notes) == 3


def test_texts_of_reviews_beside_titles_of_items_are_said(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user,item,time,title,text\nu,1,1600000000,One,Nice\nv,1,1600000001,One,Bad\n"
    )
    got = read(source="table", path=str(tmp_path))
    assert shown(got) == [{"key": "1", "title": "One", "text": "Nice"}]
    assert got.notes[0] == (
        "1 of 1 items have several texts in the interactions, such as 1 with 'Nice' and 'Bad'"
    )


def test_of_equally_frequent_titles_the_first_is_taken(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user,item,time,title\nu,1,1600000000,Zebra\nu,1,1600000001,Ant\n"
    )
    assert read(source="table", path=str(tmp_path)).catalogue["title"].to_pylist() == ["Zebra"]


def test_days_in_digits_are_days(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user,item,time,title\nu,1,20230115,One\nu,2,20230231,Two\nu,3,20230301,Three\n"
    )
    got = read(source="table", path=str(tmp_path))
    assert got.events.time.tolist() == [1_673_740_800_000, 1_677_628_800_000]
    assert got.counts == {"bad date": 1}
    assert got.rejected["text"].to_pylist() == ["u,2,5.0,20230231.0"]
    assert got.notes == [
        "2 times are numbers that were read as days: 20230115 is 2023-01-15",
    ]


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("source", ["amazon", "movielens", "table", "recbole"])
def test_times_of_any_unit(tmp_path, source, factor):
    header = {
        "amazon": "user_id,parent_asin,rating,timestamp",
        "movielens": "userId,movieId,rating,timestamp",
        "table": "user,item,rating,time",
        "recbole": "user_id:token,item_id:token,rating:float,timestamp:float",
    }[source]
    items = {
        "amazon": ("meta.jsonl", '{"parent_asin": "7", "title": "Seven"}'),
        "movielens": ("movies.csv", "movieId,title,genres\n7,Seven,Drama"),
        "table": ("items.csv", "item,title\n7,Seven"),
        "recbole": ("m.item", "item_id:token,title:token_seq\n7,Seven".replace(",", "\t")),
    }[source]
    events = f"{header}\nu,7,5,{1_577_836_800 * factor}\n"
    if source == "recbole":
        events = events.replace(",", "\t")
    (tmp_path / ("m.inter" if source == "recbole" else "ratings.csv")).write_text(events)
    (tmp_path / items[0]).write_text(items[1])
    got = read(source=source, path=str(tmp_path))
    assert got.events.time.tolist() == [1_577_836_800_000]
    assert got.notes == []


@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet"])
def test_a_catalogue_that_ends_too_early(tmp_path, ending):
    amazon(tmp_path, "u,i1,5,1500000000000\n" * 3)
    if ending == "parquet":
        rows = {"parent_asin": [f"i{n}" for n in range(5000)], "title": ["T"] * 5000}
        pq.write_table(pa.table(rows), tmp_path / "whole", row_group_size=500)
        content = bytearray((tmp_path / "whole").read_bytes())
        content[200:2000] = bytes(1800)
        said = "cannot be read"
    else:
        content = gzip.compress((tmp_path / "meta.jsonl").read_bytes() * 500)[:-50]
        said = "truncated .gz"
    (tmp_path / "meta.jsonl").unlink()
    name = f"meta.{ending}"
    (tmp_path / name).write_bytes(bytes(content))
    with pytest.raises(CorpusError, match=rf"meta\.{ending} .*{said}"):
        read(source="amazon", path=str(tmp_path), metadata=name)
