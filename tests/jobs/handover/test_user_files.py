"""Files of users and new items: ids do not change, and unusable rows are reported."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.handover.user_files import (
    read_items,
    read_users,
    refused_path,
    write_ranked,
    write_refused,
)
from minirec.errors import CorpusError

KNOWN = {"a", "b", "2023-05-01", "7"}
BIG = 9223372036854775813


def lines(path, *texts):
    path.write_text("".join(text + "\n" for text in texts))
    return path


def jsonl(path, rows):
    return lines(path, *map(json.dumps, rows))


def ranked(users):
    return pa.table({"items": [["b"]] * len(users.histories)})


def through(tmp_path, given, name):
    """The ids that are written for the users of a file."""
    users = read_users(given, KNOWN)
    out = tmp_path / name
    write_ranked(out, users.ids, ranked(users))
    if name.endswith(".parquet"):
        return pq.read_table(out)["user"]
    return [json.loads(line)["user"] for line in out.read_text().splitlines()]


def of_ids(tmp_path, ids):
    return jsonl(tmp_path / "u.jsonl", [{"user": user, "history": ["a"]} for user in ids])


@pytest.mark.parametrize(
    "ids",
    [
        ["2023-05-01", "2023-05-01 00:00:00"],
        [BIG, BIG + 1],
        [2**53, 2**53 + 1],
        ["00101", "101", " 101 ", "1.0", "é"],
        [1, 2],
        [1.5, 2.0],
        [1, "1", 1.5],
    ],
)
def test_ids_of_json_lines_are_written_as_they_were_given(tmp_path, ids):
    found = through(tmp_path, of_ids(tmp_path, ids), "o.jsonl")
    assert found == ids
    assert [type(user) for user in found] == [type(user) for user in ids]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2**53 + 1], pa.array([1, 2**53 + 1], pa.int64())),
        ([BIG, BIG + 1], pa.array([str(BIG), str(BIG + 1)])),
        ([2**53 + 1, 0.5], pa.array([str(2**53 + 1), "0.5"])),
        ([1, "1"], pa.array(["1", "1"])),
        (["2023-05-01"], pa.array(["2023-05-01"])),
    ],
)
def test_ids_of_json_lines_keep_their_digits_in_parquet(tmp_path, ids, expected):
    found = through(tmp_path, of_ids(tmp_path, ids), "o.parquet").combine_chunks()
    if found.type == pa.uint64():  # integers of 64 bits without sign
        found = found.cast(pa.string())
    assert found == expected


@pytest.mark.parametrize(
    ("column", "as_text"),
    [
        (pa.array([3, 2**60 + 1]), [3, 2**60 + 1]),
        (pa.array([2**64 - 1, 1], pa.uint64()), [2**64 - 1, 1]),
        (pa.array([1.0, 2.5]), [1.0, 2.5]),
        (pa.array([datetime.date(2023, 5, 1)] * 2), ["2023-05-01"] * 2),
        (pa.array([decimal.Decimal("1.00"), decimal.Decimal("2.50")]), ["1.00", "2.50"]),
        (pa.array(["ä".encode(), b"u"]), ["ä", "u"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
    ],
)
def test_ids_of_parquet_keep_their_type(tmp_path, column, as_text):
    given = tmp_path / "u.parquet"
    pq.write_table(pa.table({"user": column, "history": [["a"], ["b"]]}), given)
    found = through(tmp_path, given, "o.parquet")
    assert found.type == column.type
    assert found.to_pylist() == column.to_pylist()
    assert through(tmp_path, given, "o.jsonl") == as_text


def test_keys_of_a_history_follow_the_rule_of_the_corpus(tmp_path):
    """Whole floats become whole numbers, spaces around a key are removed, dates stay text."""
    rows = [{"user": 1, "history": [7, 7.0, "7", " 7 ", "2023-05-01"]}]
    assert read_users(jsonl(tmp_path / "u.jsonl", rows), KNOWN).histories == [
        ["7", "7", "7", "7", "2023-05-01"]
    ]
    days = pa.array([[datetime.date(2023, 5, 1)]])
    pq.write_table(pa.table({"user": [1], "history": days}), tmp_path / "u.parquet")
    assert read_users(tmp_path / "u.parquet", KNOWN).histories == [["2023-05-01"]]


def test_ratings_are_optional(tmp_path):
    rows = [
        {"user": 1, "history": ["a", "b"], "ratings": [3, 4.5]},
        {"user": 2, "history": ["a"]},
        {"user": 3, "history": ["a"], "ratings": None},
        {"user": 4, "history": ["a"], "ratings": [1, 2]},
        {"user": 5, "history": ["a"], "ratings": ["good"]},
        {"user": 6, "history": ["a"], "ratings": [True]},
    ]
    users = read_users(jsonl(tmp_path / "u.jsonl", rows), KNOWN)
    assert users.ids == [1, 2, 3] and users.ratings == [[3.0, 4.5], None, None]
    assert [one.reason for one in users.refused] == [
        "ratings is not a list with a number for each item of the history",
        "the rating 'good' is not a number",
        "the rating True is not a number",
    ]
    columns = {"user": ["x", "y"], "history": [["a", "b"], ["b"]], "ratings": [[1.0, 2.0], None]}
    pq.write_table(pa.table(columns), tmp_path / "u.parquet")
    assert read_users(tmp_path / "u.parquet", KNOWN).ratings == [[1.0, 2.0], None]


@pytest.mark.parametrize("name", ["u.jsonl", "u.ndjson", "u.JSONL", "u.jsonl.gz", "u.ndjson.gz"])
def test_json_lines_have_several_endings(tmp_path, name):
    text = '\ufeff{"user": "x", "history": ["a"]}\n\n{"user": "y", "history": ["b"]}'.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    users = read_users(path, KNOWN)
    assert (users.ids, users.histories, users.refused) == (["x", "y"], [["a"], ["b"]], [])
    write_ranked(tmp_path / f"o{name[1:]}", users.ids, ranked(users))
    out = (tmp_path / f"o{name[1:]}").read_bytes()
    out = gzip.decompress(out) if name.endswith(".gz") else out
    assert [json.loads(line)["user"] for line in out.splitlines()] == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            '{"user": null, "history": ["a"]}',
            "missing user: None is not an id; give text or a number",
        ),
        ('{"history": ["a"]}', "missing user: None is not an id"),
        ('{"user": true, "history": ["a"]}', ": True is not an id"),
        ('{"user": NaN, "history": ["a"]}', "missing user: nan is not an id"),
        ('{"user": " ", "history": ["a"]}', "missing user: ' ' is not an id"),
        ('{"user": {"id": 1}, "history": ["a"]}', ": {'id': 1} is not an id"),
        ('{"user": "\\ud800", "history": ["a"]}', r"wrong encoding: '\ud800' is not an id"),
        ('{"user": 1}', "missing history; give a list"),
        ('{"user": 1, "history": []}', "the history is empty"),
        ('{"user": 1, "history": "a"}', "the history is not a list"),
        ('{"user": 1, "history": ["a", null]}', "missing item: None is not an id"),
        ('{"user": 1, "history": ["a", "c"]}', "no item has the key 'c'"),
        ('{"user": 1, "history": [', "broken JSON"),
        ('["a"]', "not a JSON object"),
    ],
)
def test_one_bad_row_does_not_stop_the_file(tmp_path, line, reason):
    good = '{"user": "u", "history": ["a"], "extra": %s}'
    users = read_users(lines(tmp_path / "u.jsonl", good % 1, "", line, good % '"x"'), KNOWN)
    assert users.ids == ["u", "u"] and users.histories == [["a"], ["a"]]
    (refused,) = users.refused
    assert refused.line == 3
    assert reason in refused.reason
    assert refused.raw == line


def test_bytes_that_are_no_text_are_refused(tmp_path):
    column = pa.array([b"\xff", b"u"])
    pq.write_table(pa.table({"user": column, "history": [["a"]] * 2}), tmp_path / "u.parquet")
    users = read_users(tmp_path / "u.parquet", KNOWN)
    assert users.ids.to_pylist() == [b"u"]
    assert [(r.line, r.reason) for r in users.refused] == [(1, "wrong encoding; write UTF-8")]


def test_refused_rows_of_parquet_leave_the_ids_of_the_others(tmp_path):
    table = pa.table({"user": [1, None, 3], "history": [["a"], ["a"], ["b"]]})
    pq.write_table(table, tmp_path / "u.parquet")
    users = read_users(tmp_path / "u.parquet", KNOWN)
    assert users.ids == pa.chunked_array([[1, 3]])
    assert users.histories == [["a"], ["b"]]
    assert [(r.line, r.reason) for r in users.refused] == [
        (2, "missing user: None is not an id; give text or a number")
    ]


def test_refused_rows_are_written_beside_the_output(tmp_path):
    users = read_users(lines(tmp_path / "u.jsonl", '{"user": 1, "history": ["é"]}'), KNOWN)
    for name in ("o.parquet", "o.jsonl", "o.jsonl.gz"):
        assert refused_path(tmp_path / name) == tmp_path / "o-refused.jsonl"
    path = write_refused(tmp_path / "o.parquet", users.refused)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"line": 1, "reason": "no item has the key 'é'", "raw": '{"user": 1, "history": ["é"]}'}
    ]
    assert write_refused(tmp_path / "o.parquet", []) is None
    assert not path.exists()


def test_a_file_that_breaks_off_is_refused_whole(tmp_path):
    whole = gzip.compress(b'{"user": 1, "history": ["a"]}\n' * 50)
    (tmp_path / "u.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(CorpusError, match=r"u\.jsonl\.gz is a truncated \.gz file"):
        read_users(tmp_path / "u.jsonl.gz", KNOWN)


def test_a_file_without_users_is_refused(tmp_path):
    nobody = pa.table({"user": pa.array([], pa.int64()), "history": pa.array([], pa.string())})
    pq.write_table(nobody, tmp_path / "u.parquet")
    for path in (tmp_path / "u.parquet", lines(tmp_path / "u.jsonl")):
        with pytest.raises(CorpusError, match="holds no user"):
            read_users(path, KNOWN)


def test_other_files_are_refused(tmp_path):
    pq.write_table(pa.table({"user": [1]}), tmp_path / "u.parquet")
    pq.write_table(pa.table({"user": [1]}), tmp_path / "u.parquet.gz")
    (tmp_path / "text.parquet").write_text("user,history\n")
    (tmp_path / "parts.parquet").mkdir()
    for name, said in [
        ("u.csv", "does not end with .parquet, .jsonl, .ndjson"),
        ("u.parquet.gz", "does not end with"),
        ("u.jsonl", "is missing"),
        ("parts.parquet", "is a folder; give one file"),
        ("u.parquet", "has no column history"),
        ("text.parquet", "is not Parquet"),
    ]:
        with pytest.raises(CorpusError, match=said):
            read_users(tmp_path / name, KNOWN)


def test_new_items_need_no_text(tmp_path):
    rows = [{"key": 7.0, "title": "Seven"}, {"key": "2023-06-01", "title": "Day", "text": "long"}]
    expected = (("7", "Seven", ""), ("2023-06-01", "Day", "long"))
    assert read_items(jsonl(tmp_path / "i.jsonl", rows), {"a"}) == expected
    table = pa.table({"key": ["7"], "title": ["Seven"]})
    pq.write_table(table, tmp_path / "i.parquet")
    assert read_items(tmp_path / "i.parquet", {"a"}) == expected[:1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"key": 7, "title": "x"}, "line 2: the key '7' is in the file twice; remove one"),
        ({"key": "a", "title": "x"}, "line 2: item 'a' is in the catalogue already"),
        ({"key": None, "title": "x"}, "line 2: missing item; it needs key and title"),
        ({"key": "b", "title": None}, "line 2: missing title"),
        ({"key": "b"}, "line 2: missing title"),
        ({"key": True, "title": "x"}, "line 2: item is true or false"),
    ],
)
def test_a_new_item_that_is_not_usable_stops_the_command(tmp_path, row, said):
    path = jsonl(tmp_path / "i.jsonl", [{"key": "7", "title": "Seven"}, row])
    with pytest.raises(CorpusError, match=said):
        read_items(path, {"a"})
