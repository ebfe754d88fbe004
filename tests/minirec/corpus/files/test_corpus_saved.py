"""Datasets of the `datasets` library: saved folders, and the hub without a network."""

import json
import shutil

import pytest
from helpers.small_corpora import read

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files import saved
from minirec.corpus.files.sources import locate
from minirec.errors import CorpusError

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

EVENTS = {
    "customer": ["u1", "u2", "u1", "u3"],
    "sku": ["a", "b", "b", "a"],
    "at": [1_600_000_000, 1_600_000_001, 1_600_000_002, 1_600_000_003],
}
ITEMS = {"sku": ["a", "b"], "name": ["Apple", "Pear"]}
COLUMNS = {"user": "customer", "item": "sku", "time": "at", "title": "name"}


def table(values):
    return datasets.Dataset.from_dict(values)


def settings(path, **more):
    return {"source": "datasets", "path": str(path), "columns": COLUMNS} | more


def users(got):
    return sorted(got.events.users[int(code)].as_py() for code in got.events.user)


def refusal(path, **more):
    with pytest.raises(CorpusError) as error:
        locate(CorpusConfig(**settings(path, **more)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_dataset_with_titles(tmp_path):
    rows = EVENTS | {"name": ["Apple", "Pear", "Pear", "Apple"]}
    table(rows).save_to_disk(tmp_path / "shop", num_shards=2)
    (tmp_path / "shop" / "cache-1234.arrow").write_bytes(b"left over by a map")
    got = read(**settings(tmp_path / "shop"))
    assert users(got) == ["u1", "u1", "u2", "u3"]
    assert got.catalogue["title"].to_pylist() == ["Apple", "Pear"]
    assert sorted(got.events.order.tolist()) == got.events.order.tolist()
    assert sorted(got.events.time.tolist()) == [t * 1000 for t in EVENTS["at"]]


def test_only_the_rows_of_a_selection_are_read(tmp_path):
    table(EVENTS).select([3, 1]).save_to_disk(tmp_path / "some")
    table(ITEMS).save_to_disk(tmp_path / "items")
    got = read(**settings(tmp_path / "some", metadata=str(tmp_path / "items")))
    assert users(got) == ["u2", "u3"]


def splits(folder, **more):
    data = {"train": table(EVENTS), "test": table(EVENTS | {"customer": ["u4"] * 4})} | more
    datasets.DatasetDict(data).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(
    ("ratings", "found"),
    [
        (None, ["u1", "u1", "u2", "u3", "u4", "u4", "u4", "u4"]),
        ("train", ["u1", "u1", "u2", "u3"]),
        (["test", "train"], ["u1", "u1", "u2", "u3", "u4", "u4", "u4", "u4"]),
        ("te*", ["u4"] * 4),
    ],
)
def test_the_splits_are_read_together_unless_some_are_named(tmp_path, ratings, found):
    folder = splits(tmp_path / "my_shop", items=table(ITEMS))
    (folder / "old").mkdir()  # no split: dataset_dict.json does not name it
    given = settings(folder, ratings=ratings)
    assert users(read(**given)) == found
    located = locate(CorpusConfig(**given))
    assert (located.fallback, located.inline) == ("my shop", False)


def test_the_source_table_reads_saved_datasets_too(tmp_path):
    splits(tmp_path / "shop" / "events", items=table(ITEMS))
    table(ITEMS).save_to_disk(tmp_path / "shop" / "items")
    given = settings(tmp_path / "shop", source="table", ratings=["events/train"])
    assert users(read(**given)) == ["u1", "u1", "u2", "u3"]
    shutil.rmtree(tmp_path / "shop" / "events" / "items")
    (tmp_path / "shop" / "events" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert users(read(**settings(tmp_path / "shop", source="table"))) == ["u1", "u1", "u2", "u3"]


def test_labels_are_read_by_name(tmp_path):
    kinds = datasets.Features(
        {"customer": datasets.Value("string"), "sku": datasets.Value("string")}
        | {"at": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["view", "buy"])}
    )
    rows = EVENTS | {"kind": ["buy", "view", "buy", None]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "shop")
    table(ITEMS).save_to_disk(tmp_path / "items")
    got = read(
        **settings(tmp_path / "shop", metadata=str(tmp_path / "items"))
        | {"columns": COLUMNS | {"event": "kind"}, "events": {"view": "drop", "buy": 3}}
    )
    assert users(got) == ["u1", "u1"]
    assert got.events.rating.tolist() == [3.0, 3.0]
    assert [row["reason"] for row in got.rejected.to_pylist()] == ["missing event"]


def test_splits_without_rows_are_passed_over(tmp_path):
    empty = table({name: [] for name in EVENTS})
    folder = splits(tmp_path / "shop", test=empty, items=table(ITEMS))
    assert users(read(**settings(folder))) == ["u1", "u1", "u2", "u3"]
    assert "test is a saved dataset without rows" in refusal(folder, ratings="test")
    empty.save_to_disk(tmp_path / "nothing")
    assert "nothing is a saved dataset without rows" in refusal(tmp_path / "nothing")


def test_incomplete_folders(tmp_path):
    folder = splits(tmp_path / "shop")
    shutil.rmtree(folder / "test")
    assert "lacks the split 'test', which its dataset_dict.json names" in refusal(folder)
    assert "copy the whole folder" in refusal(folder / "train" / "..")
    (folder / "train" / "data-00000-of-00001.arrow").unlink()
    assert "data-00000-of-00001.arrow is missing" in refusal(folder / "train")


def test_what_is_no_saved_dataset(tmp_path):
    (tmp_path / "events.csv").write_text("user,item,time\nu,a,1600000000\n")
    (tmp_path / "state.json").write_text("[1]")
    words = refusal(tmp_path)
    assert "is no folder that save_to_disk wrote; give such a folder, or owner/name" in words
    assert "set corpus.source=table" in words
    for path in (tmp_path / "absent", "../absent", "./absent", "a/b/c", "absent"):
        assert "is missing; give such a folder" in refusal(path)


# ---- the hub


@pytest.fixture
def cached(tmp_path):
    """A dataset with two splits as `load_dataset` returns it: in files of a cache."""
    for split, rows in {"train": EVENTS, "items": ITEMS}.items():
        lines = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{split}.jsonl").write_text(text)

    def loaded(split):
        return datasets.load_dataset(
            "json",
            data_files=str(tmp_path / f"{split}.jsonl"),
            split="train",
            cache_dir=str(tmp_path / split),
        )

    return datasets.DatasetDict({"train": loaded("train"), "items": loaded("items")})


@pytest.mark.parametrize(
    ("name", "asked"),
    [("owner/my-shop", ("owner/my-shop", None)), ("owner/shop:5core", ("owner/shop", "5core"))],
)
def test_the_files_of_a_dataset_of_the_hub(cached, name, asked):
    calls = []
    files = saved.from_hub(name, load=lambda *given: calls.append(given) or cached)
    assert calls == [asked]
    assert sorted(files) == ["items", "train"]
    for split, paths in files.items():
        rows = [datasets.Dataset.from_file(str(path)).to_dict() for path in paths]
        assert rows == [EVENTS if split == "train" else ITEMS]


def test_the_splits_of_a_dataset_of_the_hub_become_a_corpus(cached, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: cached)
    monkeypatch.chdir(cached["train"].cache_files[0]["filename"].rpartition("/")[0])
    for more in ({}, {"ratings": "train", "metadata": "items"}):
        got = read(**settings("owner/my-shop", **more))
        assert users(got) == ["u1", "u1", "u2", "u3"]
        assert got.catalogue["title"].to_pylist() == ["Apple", "Pear"]
    assert locate(CorpusConfig(**settings("owner/my-shop"))).fallback == "my-shop"
    said = refusal("owner/my-shop", ratings="absent")
    assert "absent is missing" in said and "has the splits train, items" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Couldn't reach 'a/b'"), "the hub cannot be reached (Couldn't reach 'a/b"),
        (ValueError("Config name is missing.\nPick one: x, y"), "missing. Pick one: x, y); "),
        (ValueError("no"), "a/b:CONFIGURATION names one of several configurations"),
        (ImportError("datasets"), "the package `datasets` is needed"),
    ],
)
def test_a_dataset_that_the_hub_does_not_give(error, words):
    def load(*_):
        raise error

    with pytest.raises(CorpusError) as refused:
        saved.from_hub("a/b", load=load)
    assert words in str(refused.value)
    assert "corpus.path=a/b is no folder" in str(refused.value)
    assert "save_to_disk" in str(refused.value)
    assert "\n" not in str(refused.value)
