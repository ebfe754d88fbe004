"""`minirec recommend --users` from the command line."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from minirec.store.tables import read_table


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["--users", "u.jsonl"],
        ["--history", "x", "--items", "i.jsonl"],
        ["--history", "x", "--out", "o"],
    ],
)
def test_options_without_their_partner_are_refused(words, capsys):
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
def test_invalid_users_are_reported_and_the_others_ranked(undisturbed, tmp_path, capsys):
    keys = read_table(undisturbed / "corpus" / "items.parquet")["key"].to_pylist()
    rows = [
        {"user": "2023-05-01", "history": keys[:1]},
        {"user": None, "history": keys[:1]},
        {"user": 9223372036854775813, "history": keys[:3]},
        {"user": 9223372036854775814, "history": ["nothing"]},
        {"user": "all", "history": keys},
        {"user": "but one", "history": keys[:7] + keys[8:]},
    ]
    out = tmp_path / "out.jsonl"
    words = ["recommend", "--run", str(undisturbed), "--out", str(out), "--no-analysis", "--users"]
    assert main([*words, str(jsonl(tmp_path / "u.jsonl", rows))]) == 0
    assert "2 rows refused" in capsys.readouterr().out
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["user"] for row in found] == [rows[i]["user"] for i in (0, 2, 4, 5)]
    assert [len(row["items"]) for row in found] == [10, 10, 0, 1]
    assert found[3]["items"] == [keys[7]]
    refused = (tmp_path / "out-refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in refused] == [2, 4]


@pytest.mark.ray
@pytest.mark.slow
def test_a_file_without_a_usable_user(undisturbed, tmp_path, capsys):
    users = jsonl(tmp_path / "u.jsonl", [{"user": 1, "history": ["1"]}] * 3)
    words = ["recommend", "--run", str(undisturbed), "--users", str(users), "--out"]
    assert main([*words, str(tmp_path / "out.parquet")]) == 1
    first = "the first is row 1 of the file: no item has the key '1'"
    assert f"none of 3 rows can be ranked; {first}" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
    assert len((tmp_path / "out-refused.jsonl").read_text().splitlines()) == 3


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["o.jsonl", "o-refused.jsonl"])
@pytest.mark.parametrize("option", ["--users", "--items"])
def test_no_input_is_replaced(undisturbed, tmp_path, capsys, name, option):
    files = {"--users": tmp_path / "u.jsonl", "--items": tmp_path / "i.jsonl"}
    files[option] = tmp_path / name
    jsonl(files["--users"], [{"user": 1, "history": ["item00001"]}])
    jsonl(files["--items"], [{"key": "new", "title": "New"}])
    words = [word for pair in files.items() for word in map(str, pair)]
    out = str(tmp_path / "o.jsonl")
    assert main(["recommend", "--run", str(undisturbed), *words, "--out", out]) == 1
    assert f"{tmp_path / name}, an input; give another name" in capsys.readouterr().err
    assert (tmp_path / name).exists()


@pytest.mark.ray
@pytest.mark.slow
def test_users_and_new_items_through_the_command(undisturbed, tmp_path):
    table = read_table(undisturbed / "corpus" / "items.parquet").to_pydict()
    keys, titles = table["key"], table["title"]
    users = [{"user": f"u{i}", "history": [keys[i % 50], keys[i % 50 + 1]]} for i in range(300)]
    users.append({"user": "new", "history": [keys[3], "twin"]})
    # A new item with the text of item 5 must have the cosine of item 5.
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
