"""The run directory: nothing half-written, nothing silently reused."""

import json

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


def broken_stage(run, k, *, leaves):
    def body(cost):
        if leaves:
            run.path("o").touch()
        raise RuntimeError

    run.stage("first", settings={"k": k}, inputs=[], outputs=["o"], body=body)


def test_what_began_with_other_settings_is_not_continued(tmp_path):
    with pytest.raises(RuntimeError):
        broken_stage(quiet(tmp_path), 1, leaves=True)
    with pytest.raises(ArtifactError, match="k=1, now it is 2"):
        broken_stage(quiet(tmp_path), 2, leaves=True)


def test_a_failure_that_left_nothing_does_not_bind_the_settings(tmp_path):
    for k in (1, 2):
        with pytest.raises(RuntimeError):
            broken_stage(quiet(tmp_path), k, leaves=False)


def test_seconds_of_failed_attempts_count_and_an_overwritten_stage_costs_anew(tmp_path):
    with pytest.raises(RuntimeError):
        broken_stage(quiet(tmp_path), 1, leaves=True)
    run = quiet(tmp_path)
    run.stage("first", settings={"k": 1}, inputs=[], outputs=["o"], body=lambda cost: None)
    lines = (tmp_path / "costs.jsonl").read_text().splitlines()
    assert [json.loads(line)["finished"] for line in lines] == [False, True]
    (row,) = run.costs()
    assert row["seconds"] == sum(json.loads(line)["seconds"] for line in lines)
    make(quiet(tmp_path, overwrite=True), 1, [])
    (row,) = run.costs()
    assert row["rollouts"] == 7


def test_a_stage_can_be_redone_or_only_checked(tmp_path):
    calls = []
    make(quiet(tmp_path), 1, calls)
    make(quiet(tmp_path, redo=("first",)), 1, calls)
    assert calls == ["first", "first"]
    checking = quiet(tmp_path, overwrite=True)
    checking.checking = True
    make(checking, 1, calls)
    with pytest.raises(ArtifactError, match="now it is 2; .*`minirec first --overwrite`"):
        make(checking, 2, calls)
    assert calls == ["first", "first"]


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
