"""The same operations on a local folder and on an object store."""

import errno
import multiprocessing
import os

import numpy as np
import pyarrow as pa
import pytest

from minirec.errors import ArtifactError, ConfigError
from minirec.store import files, lease, remote, tables
from minirec.store.files import (
    atomic,
    atomic_dir,
    check_published,
    fetch,
    intact,
    publish,
    read_json,
    remove,
    write_json,
    write_manifest,
)
from minirec.store.remote import local_file, located
from minirec.store.run import Run, each_file
from minirec.store.tables import (
    check_table,
    open_table,
    read_array,
    read_table,
    write_array,
    write_table,
)

TABLE = pa.table({"sample_id": [1, 2], "text": ["a", "b"]})


def names(folder):
    """Files below a folder, by their names there."""
    if remote.is_remote(folder):
        return sorted(remote.files(folder))
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def overwrite(path, content):
    """Replace bytes that the code under test has written."""
    if remote.is_remote(path):
        path.fs.pipe_file(path.path, content)
    else:
        path.write_bytes(content)


def test_files_are_read_as_written(place):
    write_table(place / "t.parquet", TABLE)
    write_array(place / "a.npy", np.arange(3))
    write_json(place / "sub" / "j.json", {"a": [1]})
    assert read_table(place / "t.parquet").equals(TABLE)
    assert read_table(place / "t.parquet", ["text"]).column_names == ["text"]
    assert read_array(place / "a.npy").tolist() == [0, 1, 2]
    assert read_json(place / "sub" / "j.json") == {"a": [1]}
    assert names(place) == ["a.npy", "sub/j.json", "t.parquet"]


def test_damaged_and_missing_files_are_named(place):
    write_table(place / "t.parquet", TABLE)
    data = bytearray((place / "t.parquet").read_bytes())
    with open_table(place / "t.parquet") as source:
        column = source.metadata.row_group(0).column(0)
    data[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1  # of its last page
    overwrite(place / "t.parquet", bytes(data))
    with pytest.raises(ArtifactError, match=r"t\.parquet is damaged"):
        read_table(place / "t.parquet")
    for read in (read_table, read_array, read_json):
        with pytest.raises(ArtifactError, match="none is missing"):
            read(place / "none")


def test_a_failed_write_leaves_the_old_file(place):
    write_json(place / "x.json", 1)
    with pytest.raises(RuntimeError), atomic(place / "x.json") as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(place / "x.json") == 1
    assert names(place) == ["x.json"]


def test_a_directory_replaces_the_former_one(place):
    for name in ("old", "new"):
        with atomic_dir(place / "d") as work:
            (work / "sub").mkdir()
            (work / "sub" / name).write_text(name)
    assert names(place / "d") == ["manifest.json", f"sub/{name}"]
    check_published(place / "d")
    with pytest.raises(RuntimeError), atomic_dir(place / "d") as work:
        raise RuntimeError
    check_published(place / "d")
    remove(place / "d")
    assert not (place / "d").exists()
    remove(place / "d")


def _remove(path, steps):
    """Delete a directory, and stop as if killed at its `steps`-th file."""
    unlink = os.unlink

    def killed(*args, **options):
        nonlocal steps
        steps -= 1
        if not steps:
            os._exit(9)
        unlink(*args, **options)

    os.unlink = killed
    remove(path)


def test_a_removal_that_was_killed_leaves_no_half_directory(tmp_path):
    path = tmp_path / "run" / "d"
    with atomic_dir(path) as work:
        for name in "abc":
            (work / name).write_text(name)
    process = multiprocessing.get_context("fork").Process(target=_remove, args=(path, 2))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not path.exists()
    assert len(names(tmp_path)) == 3  # under a hidden name
    files.remove_leftovers(path)
    assert names(tmp_path) == []


def test_a_folder_that_several_fill_is_complete_with_its_manifest(place, tmp_path):
    files = {}
    for rank in ("0", "1"):
        (tmp_path / rank / "state").mkdir(parents=True)
        (tmp_path / rank / "state" / rank).write_text(rank)
        files |= publish(tmp_path / rank, place / "step")
        # If the writer is killed here, readers refuse the directory.
        with pytest.raises(ArtifactError, match="step is not complete"):
            check_published(place / "step")
    write_manifest(place / "step", files)
    copy = located(fetch(str(place / "step")))
    assert names(copy) == ["manifest.json", "state/0", "state/1"]
    overwrite(place / "step" / "state" / "1", b"2")
    with pytest.raises(ArtifactError, match="state/1 is damaged"):
        check_published(place / "step")


def make(run, value, made):
    def body(cost):
        cost.rollouts = 7
        for name in ("parts/0", "parts/1"):
            if not run.path(name).exists():
                made.append(name)
                write_json(run.path(name), value)

    return run.stage(
        "s", settings={"v": value}, inputs=[], outputs=["parts"], body=body, part_of=each_file
    )


@pytest.mark.slow
def test_a_run_finds_its_damaged_shards(place):
    made, said = [], []
    run = Run(str(place), say=said.append)
    assert make(run, 1, made) is True
    assert make(run, 1, made) is False
    overwrite(place / "parts" / "1", b"2\n")
    assert make(run, 1, made) is True
    assert made == ["parts/0", "parts/1", "parts/1"]
    assert "parts/1 is damaged: its sha256 is" in said[1]
    remove(place / "parts" / "0")
    assert make(run, 1, made) is True
    assert "parts/0 is gone" in said[2]
    with pytest.raises(ArtifactError, match="v=1, now it is 2"):
        make(run, 2, made)
    assert make(Run(str(place), overwrite=True, say=said.append), 2, made) is True
    (row,) = run.costs()
    assert row["rollouts"] == 7


def test_what_is_made_again_is_counted_once(place):
    run = Run(str(place), say=lambda line: None)
    make(run, 1, [])
    remove(place / "parts")
    make(run, 1, [])
    (row,) = run.costs()
    assert row["rollouts"] == 7


def test_a_torn_line_of_costs_swallows_no_other(place):
    said = []
    run = Run(str(place), say=said.append)
    make(run, 1, [])
    overwrite(place / "costs.jsonl", (place / "costs.jsonl").read_bytes() + b'{"stage": "s", "fi')
    remove(place / "parts")
    make(run, 1, [])
    make(run, 1, [])
    (row,) = run.costs()
    assert row["rollouts"] == 7
    assert len((place / "costs.jsonl").read_bytes().splitlines()) == 3


def test_a_copied_run_is_not_damaged(bucket_folder, tmp_path):
    """If etags differ or are missing, the hashes decide."""
    make(Run(bucket_folder), 1, [])
    record = read_json(located(bucket_folder) / "stages" / "s.json")
    entries = record.pop("files")
    record.pop("digest")
    for entry in entries.values():
        entry["etag"] = "of another upload"
    files.write_record(located(bucket_folder) / "stages" / "s.json", record | {"files": entries})
    assert make(Run(bucket_folder, say=lambda line: None), 1, []) is False
    remote.download(located(bucket_folder), [*entries, "stages/s.json"], tmp_path)
    assert make(Run(tmp_path, say=lambda line: None), 1, []) is False


@pytest.mark.slow
def test_copies_are_verified_and_few(bucket_folder):
    folder = located(bucket_folder) / "adapters"
    for version in range(4):
        with atomic_dir(folder / f"v{version}") as work:
            (work / "weights").write_text(str(version))
        copy = located(fetch(str(folder / f"v{version}")))
        assert (copy / "weights").read_text() == str(version)
    assert len(list(copy.parent.iterdir())) == remote.KEPT
    (copy / "manifest.json").unlink()  # a partly removed copy
    (copy / "weights").unlink()
    assert (located(fetch(str(folder / "v3"))) / "weights").read_text() == "3"
    (copy / "weights").write_text("x")  # damage on this machine
    assert (located(fetch(str(folder / "v3"))) / "weights").read_text() == "3"
    # New content under the same name gets a new copy.
    with atomic_dir(folder / "v3") as work:
        (work / "weights").write_text("new")
    assert (located(fetch(str(folder / "v3"))) / "weights").read_text() == "new"


def test_a_damaged_copy_of_a_file_is_fetched_again(bucket_folder):
    path = located(bucket_folder) / "t.parquet"
    write_table(path, TABLE)
    copy = local_file(path, check_table)
    whole = path.read_bytes()
    for damage in (whole[:-1], whole[:9] + bytes([whole[9] ^ 1]) + whole[10:]):
        copy.write_bytes(damage)
        assert local_file(path, check_table) == copy
        assert copy.read_bytes() == whole
    overwrite(path, damage)
    with pytest.raises(ArtifactError, match="is damaged"):
        local_file(path, check_table)


def _fetch(text, box):
    box.put((located(fetch(text)) / "weights").read_bytes())


@pytest.mark.slow
def test_several_processes_fetch_the_same_folder(bucket_folder):
    with atomic_dir(located(bucket_folder) / "adapter") as work:
        (work / "weights").write_bytes(bytes(1 << 20))
    context = multiprocessing.get_context("spawn")
    box = context.Queue()
    all_ = [context.Process(target=_fetch, args=(f"{bucket_folder}/adapter", box)) for _ in "123"]
    for process in all_:
        process.start()
    assert [box.get(timeout=60) for _ in all_] == [bytes(1 << 20)] * 3
    for process in all_:
        process.join()


def test_what_is_no_folder_of_a_store_is_given_back(tmp_path):
    assert fetch("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    assert fetch(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("content", [{"name": "a model", "version": 2}, [1, 2]])
def test_a_user_may_have_a_manifest_of_his_own(tmp_path, content):
    write_json(tmp_path / "manifest.json", content)
    assert fetch(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ArtifactError, match="it has no manifest.json"):
        check_published(tmp_path)


@pytest.mark.parametrize("lost", ["digest", "files"])
def test_a_manifest_without_one_of_its_keys_is_damaged(tmp_path, lost):
    with atomic_dir(tmp_path / "d") as work:
        (work / "a").write_text("a")
    path = tmp_path / "d" / "manifest.json"
    path.write_text(path.read_text().replace(f'"{lost}"', '"other"'))
    with pytest.raises(ArtifactError, match="manifest.json is damaged"):
        fetch(str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/folder", r"ftp:// is not known; give a folder, s3:// or gs://"),
        ("s3://bucket", r"names no folder in a bucket; write s3://bucket/folder"),
    ],
)
def test_an_address_that_cannot_be_meant(text, said):
    with pytest.raises(ConfigError, match=said):
        located(text)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package gcsfs; .*'minirec\[gcs\]'"):
        located("gs://bucket/folder")


def test_a_missing_bucket_is_one_sentence(object_store):
    path = located("s3://not-there/runs/a")
    with (
        pytest.raises(ArtifactError, match="the bucket not-there does not exist"),
        lease.held(path, lost=print),
    ):
        pass
    assert "not-there" not in [b["Name"] for b in object_store.list_buckets()["Buckets"]]


def test_missing_credentials_are_one_sentence(bucket_folder, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    path = located(bucket_folder)
    path.fs.clear_instance_cache()
    with pytest.raises(ArtifactError, match="no valid credentials.*AWS_ACCESS_KEY_ID"):
        write_json(located(bucket_folder) / "x", 1)
    path.fs.clear_instance_cache()


def test_a_refused_write_is_one_sentence_and_leaves_nothing(bucket_folder, gate):
    path = located(bucket_folder)
    gate.refuse("PUT", r"manifest\.json$")
    with (
        pytest.raises(
            ArtifactError, match=r"d/manifest\.json: the store denies access \(.*enied\)"
        ),
        atomic_dir(path / "d") as work,
    ):
        (work / "a").write_text("a")
    assert names(path / "d") == ["a"]  # incomplete, since it has no manifest
    with pytest.raises(ArtifactError, match="missing or not complete"):
        fetch(str(path / "d"))


@pytest.mark.slow
def test_a_store_that_fails_for_a_moment_is_asked_again(bucket_folder, gate, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")  # each wait is twice as long as the last
    gate.refuse("PUT", "x", times=2, status=503)
    write_json(located(bucket_folder) / "x", 1)
    assert gate.refused == 2
    gate.refuse("PUT", "x", status=503)
    with pytest.raises(ArtifactError, match="x: the store failed .*; run the same command again"):
        write_json(located(bucket_folder) / "x", 2)
    assert read_json(located(bucket_folder) / "x") == 1


def test_a_store_that_refuses_to_read_costs_no_finished_file(bucket_folder, gate):
    """A file that cannot be compared is not damaged: it stays, and the reason is reported."""
    path = located(bucket_folder) / "t.parquet"
    write_table(path, TABLE)
    gate.refuse("GET", r"t\.parquet$")
    with pytest.raises(ArtifactError, match=r"t\.parquet: the store denies access"):
        intact(path, check_table, say=pytest.fail)
    gate.rule = None
    assert intact(path, check_table, say=pytest.fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_system_that_cannot_read_costs_no_finished_file(tmp_path, monkeypatch, number):
    path = tmp_path / "t.parquet"
    write_table(path, TABLE)

    def fails(name):
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(tables.pa, "OSFile", fails)
    with pytest.raises(ArtifactError, match=r"t\.parquet cannot be read"):
        intact(path, check_table, say=pytest.fail)
    assert path.exists()


def test_the_cache_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINIREC_CACHE", "~/copies")
    assert remote.cache() == tmp_path / "copies"
