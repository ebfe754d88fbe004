"""Files of users in, files of items out; bad files are one sentence."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.recommend_files import read_items, read_users
from minirec.artifacts import read_table
from minirec.errors import CorpusError

KNOWN = {"a", "b"}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_users_of_both_formats_are_read_alike(tmp_path):
    rows = [{"user": 1, "history": ["a", "b"]}, {"user": 2, "history": ["b"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "u.parquet")
    for path in (tmp_path / "u.parquet", jsonl(tmp_path / "u.jsonl", rows)):
        assert read_users(path, KNOWN).to_pydict() == {
            "user": ["1", "2"],
            "history": [["a", "b"], ["b"]],
        }


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"user": 1}], "has no column history"),
        ([{"user": 1, "history": []}], "row 1, user 1: the history is empty"),
        ([{"user": 1, "history": ["a"]}, {"user": 2, "history": None}], "row 2, user 2"),
        ([{"user": 1, "history": ["c"]}], "no item has the key 'c'"),
        ([], "cannot be read"),
    ],
)
def test_what_is_wrong_with_users_is_said_with_its_row(tmp_path, rows, said):
    with pytest.raises(CorpusError, match=said):
        read_users(jsonl(tmp_path / "u.jsonl", rows), KNOWN)


def test_a_file_without_users_is_refused(tmp_path):
    nobody = pa.table({"user": pa.array([], pa.int64()), "history": pa.array([], pa.string())})
    pq.write_table(nobody, tmp_path / "u.parquet")
    with pytest.raises(CorpusError, match="holds no user"):
        read_users(tmp_path / "u.parquet", KNOWN)


def test_other_files_are_refused(tmp_path):
    for name, said in (("u.csv", "neither .parquet nor .jsonl"), ("u.jsonl", "is missing")):
        with pytest.raises(CorpusError, match=said):
            read_users(tmp_path / name, KNOWN)


def test_new_items_need_no_text_and_are_unique(tmp_path):
    path = jsonl(tmp_path / "i.jsonl", [{"key": 7, "title": "Seven"}])
    assert read_items(path) == (("7", "Seven", ""),)
    with pytest.raises(CorpusError, match="the key '7' stands there twice"):
        read_items(jsonl(path, [{"key": 7, "title": "x"}, {"key": 7, "title": "y"}]))


@pytest.mark.parametrize(
    "words",
    [
        ["--users", "u.jsonl"],
        ["--history", "x", "--items", "i.jsonl"],
        ["--history", "x", "--out", "o"],
    ],
)
def test_options_that_miss_their_partner_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(["recommend", "--run", "r", *words])
    assert "--users" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_a_new_item_that_is_in_the_catalogue(undisturbed, tmp_path, capsys):
    key = read_table(undisturbed / "corpus" / "items.parquet")["key"][0].as_py()
    users = jsonl(tmp_path / "u.jsonl", [{"user": "u", "history": [key]}])
    items = jsonl(tmp_path / "i.jsonl", [{"key": key, "title": "Again"}])
    words = ["recommend", "--run", str(undisturbed), "--users", str(users), "--items", str(items)]
    assert main([*words, "--out", str(tmp_path / "out.jsonl")]) == 1
    assert "is in the catalogue already; leave it out" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_users_and_new_items_through_the_command(undisturbed, tmp_path):
    table = read_table(undisturbed / "corpus" / "items.parquet").to_pydict()
    keys, titles = table["key"], table["title"]
    users = [{"user": f"u{i}", "history": [keys[i % 50], keys[i % 50 + 1]]} for i in range(300)]
    users.append({"user": "new", "history": [keys[3], "twin"]})
    # An item of the same words as item 5 must stand beside it in every ranking.
    items = [{"key": "twin", "title": titles[5], "text": table["text"][5]}]
    out = tmp_path / "out.jsonl"
    words = ["recommend", "--run", str(undisturbed), "--top", "60", "--out", str(out)]
    words += ["--users", str(jsonl(tmp_path / "u.jsonl", users))]
    words += ["--items", str(jsonl(tmp_path / "i.jsonl", items))]
    assert main(words) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["user"] for row in found] == [user["user"] for user in users]
    for row, user in zip(found, users, strict=True):
        assert len(row["items"]) == len(keys) + 1 - 2
        assert not set(row["items"]) & set(user["history"])
        assert row["cosines"] == sorted(row["cosines"], reverse=True)
        if keys[5] not in user["history"] and "twin" not in user["history"]:
            cosine = dict(zip(row["items"], row["cosines"], strict=True))
            assert cosine["twin"] == pytest.approx(cosine[keys[5]], abs=1e-4)
    one = tmp_path / "out.parquet"
    words[words.index(str(out))] = str(one)
    assert main([*words, "--no-analysis"]) == 0
    assert pq.read_table(one)["analysis"].to_pylist() == [""] * len(users)
