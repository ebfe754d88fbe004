"""An export is copied whole, or not at all with one sentence; the local folder stays."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from helpers.small_hub import SmallHub

from minirec.errors import ArtifactError, ConfigError
from minirec.export.front import of_subset
from minirec.export.push import Target, check, push, target_of
from minirec.store.files import MANIFEST, atomic_dir, check_folder

WRITES = {"README.md": b"# card\n", "train.jsonl": b'{"a": 1}\n', "scorer/model.bin": bytes(9000)}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_writes")
    one = SmallHub()
    yield one
    one.close()


@pytest.fixture
def folder(tmp_path):
    """A small export."""
    with atomic_dir(tmp_path / "export") as work:
        for name, content in WRITES.items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_bytes(content)
    return tmp_path / "export"


def content(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_hub_gets_all_files_in_one_commit(hub, folder):
    before = content(folder)
    address = push(folder, target_of("hf://me/subset"), kind="dataset", endpoint=hub.url)
    assert address == f"{hub.url}/datasets/me/subset"
    assert hub.files == {"datasets/me/subset": before}
    assert hub.commits == [("datasets/me/subset", sorted(before))]
    assert hub.private == {"datasets/me/subset": True}
    push(folder, target_of("me/policy"), kind="model", public=True, endpoint=hub.url)
    assert hub.files["models/me/policy"] == content(folder) == before
    assert hub.private["models/me/policy"] is False


def test_a_private_push_never_goes_to_a_public_repository(hub, folder):
    target = target_of("hf://me/subset")
    hub.files["datasets/me/subset"], hub.private["datasets/me/subset"] = {}, False
    with pytest.raises(ArtifactError, match="is public, so nothing was pushed; give --public"):
        push(folder, target, kind="dataset", endpoint=hub.url)
    assert not hub.commits
    push(folder, target, kind="dataset", public=True, endpoint=hub.url)
    assert len(hub.commits) == 1


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [
        ("hf_wrong", "me/subset", "does not know the token; log in with `hf auth login`"),
        ("hf_reads", "me/subset", "does not let this token write to the dataset me/subset"),
        ("hf_writes", "other/subset", "does not let this token write to the dataset other/subset"),
    ],
)
def test_a_token_without_the_right_is_one_sentence(hub, folder, monkeypatch, token, name, said):
    before = content(folder)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ArtifactError, match=said) as raised:
        push(folder, Target(name, None), kind="dataset", endpoint=hub.url)
    again = f"hf upload {name} {folder} . --repo-type dataset --private"
    assert again in str(raised.value) and "\n" not in str(raised.value)
    assert content(folder) == before and not hub.commits


def test_a_failed_commit_is_named_and_leaves_nothing(hub, folder):
    hub.refuse["/commit/"] = 413
    with pytest.raises(ArtifactError, match="answered 413 .*is complete"):
        push(folder, Target("me/subset", None), kind="dataset", endpoint=hub.url)
    assert hub.files == {"datasets/me/subset": {}}


def test_no_network_is_one_sentence(hub, folder):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ArtifactError, match=r"failed \(ConnectError: .*; connect the machine"):
            push(folder, Target("me/subset", None), kind="dataset", endpoint=address)
    assert check_folder(folder) is None


def test_a_silent_hub_is_given_up_at_the_deadline(hub, folder):
    hub.silent = True
    start = time.monotonic()
    with pytest.raises(ArtifactError, match=r"failed \(ReadTimeout"):
        push(folder, Target("me/s", None), kind="dataset", endpoint=hub.url, answer_s=0.2)
    assert time.monotonic() - start < 10


def test_a_folder_is_a_target(folder, tmp_path):
    copy = tmp_path / "deep" / "copy"
    target = target_of(str(copy))
    check(target, overwrite=False, public=False)
    assert push(folder, target, kind="dataset") == str(copy)
    assert content(copy) == content(folder)
    with pytest.raises(ArtifactError, match="exists; give another --push, or --overwrite"):
        check(target, overwrite=False, public=False)
    (folder / "new.txt").write_text("new")
    (copy / "old.txt").write_text("old")
    check(target, overwrite=True, public=False)
    push(folder, target, kind="dataset")
    assert set(content(copy)) == {*WRITES, "new.txt", MANIFEST}
    (copy / MANIFEST).write_text('{"name": "an app of the web"}')
    with pytest.raises(ArtifactError, match="is not an export"):
        check(target, overwrite=True, public=False)
    (copy / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="is not an export"):
        check(target, overwrite=True, public=False)
    with pytest.raises(ConfigError, match="--public is for repositories"):
        check(target, overwrite=True, public=True)


def test_an_object_store_is_a_target(folder, object_store):
    object_store.create_bucket(Bucket="pushed")
    target = target_of("s3://pushed/exports/subset")
    check(target, overwrite=False, public=False)
    push(folder, target, kind="dataset")
    listed = object_store.list_objects_v2(Bucket="pushed", Prefix="exports/subset/")["Contents"]
    assert {one["Key"].removeprefix("exports/subset/") for one in listed} == set(content(folder))


def test_what_a_target_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert target_of("me/subset") == target_of("hf://me/subset") == Target("me/subset", None)
    for text in ("copy", "./me/subset", "/me/subset", "a/b/c"):
        assert target_of(text) == Target(None, Path(text))
    (tmp_path / "me").mkdir()
    with pytest.raises(ConfigError, match=r"write \./me/subset or hf://me/subset"):
        target_of("me/subset")
    assert target_of("hf://me/subset").repository == "me/subset"
    for text in ("hf://me", "hf://me/a/b", "hf://me/..", "hf:///x", "hf://me/sub set"):
        with pytest.raises(ConfigError, match="is no repository of the hub"):
            target_of(text)
    with pytest.raises(ConfigError, match="ftp:// is not known"):
        target_of("ftp://me/x")


def test_the_front_matter_is_what_the_hub_wants():
    from huggingface_hub import DatasetCard

    data = DatasetCard(
        of_subset(rows=999, file="train.jsonl", items="items.jsonl") + "# t"
    ).data.to_dict()
    assert data["license"] == "unknown" and data["task_categories"] == ["text-ranking"]
    assert data["size_categories"] == ["n<1K"]
    assert [one["config_name"] for one in data["configs"]] == ["default", "items"]
    larger = DatasetCard(of_subset(rows=1000, file="t.jsonl", items=None) + "# t").data.to_dict()
    assert larger["size_categories"] == ["1K<n<10K"] and len(larger["configs"]) == 1
