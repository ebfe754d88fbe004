"""The run directory: nothing half-written, nothing silently reused."""

import pyarrow as pa
import pytest

from minirec import artifacts
from minirec.artifacts import Run
from minirec.errors import ArtifactError


def make(run, value, calls, *, inputs=(), name="first"):
    def body(cost):
        calls.append(name)
        cost.rollouts = 7
        artifacts.write_json(run.path(f"{name}.out"), value)

    return run.stage(
        name, settings={"a": {"b": value}}, inputs=list(inputs), outputs=[f"{name}.out"], body=body
    )


def quiet(root, **options):
    return Run(root, say=lambda text: None, **options)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    artifacts.write_json(path, 1)
    with pytest.raises(RuntimeError), artifacts.atomic(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert artifacts.read_json(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_directory_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), artifacts.atomic_dir(tmp_path / "d") as folder:
        (folder / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_finished_stage_is_skipped(tmp_path):
    calls = []
    assert make(quiet(tmp_path), 1, calls) is True
    assert make(quiet(tmp_path), 1, calls) is False
    assert calls == ["first"]
    assert quiet(tmp_path).costs()[0]["rollouts"] == 7


def test_a_changed_setting_is_named_and_overwrite_redoes(tmp_path):
    calls = []
    make(quiet(tmp_path), 1, calls)
    with pytest.raises(ArtifactError, match=r"a\.b=1, now it is 2"):
        make(quiet(tmp_path), 2, calls)
    make(quiet(tmp_path, overwrite=True), 2, calls)
    assert artifacts.read_json(tmp_path / "first.out") == 2


def test_a_stage_that_began_with_other_settings_is_not_continued(tmp_path):
    def broken(cost):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        quiet(tmp_path).stage("first", settings={"k": 1}, inputs=[], outputs=["o"], body=broken)
    with pytest.raises(ArtifactError, match="k=1, now it is 2"):
        quiet(tmp_path).stage("first", settings={"k": 2}, inputs=[], outputs=["o"], body=broken)


def test_a_deleted_output_is_made_again(tmp_path):
    calls = []
    make(quiet(tmp_path), 1, calls)
    (tmp_path / "first.out").unlink()
    make(quiet(tmp_path), 1, calls)
    assert calls == ["first", "first"]


def test_a_changed_input_changes_the_fingerprint(tmp_path):
    calls = []
    make(quiet(tmp_path), 1, calls)
    make(quiet(tmp_path), 1, calls, inputs=["first"], name="second")
    make(quiet(tmp_path, overwrite=True), 2, calls)
    with pytest.raises(ArtifactError, match="made from another first"):
        make(quiet(tmp_path), 1, calls, inputs=["first"], name="second")


def test_a_missing_input_says_what_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="run `minirec first` first"):
        make(quiet(tmp_path), 1, [], inputs=["first"], name="second")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    artifacts.write_table(path, pa.table({"a": [1]}))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match=r"t\.parquet is damaged"):
        artifacts.read_table(path)
    with pytest.raises(ArtifactError, match="missing"):
        artifacts.read_table(tmp_path / "none.parquet")
