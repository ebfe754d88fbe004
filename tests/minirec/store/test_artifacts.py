"""The run directory: outputs are complete, and old outputs are not reused by mistake."""

import json
import re
from contextlib import suppress

import pyarrow as pa
import pytest

from minirec.errors import ArtifactError
from minirec.store.files import atomic, atomic_dir, read_json, write_json
from minirec.store.run import Run, each_file
from minirec.store.tables import read_table, write_table


def make(run, value, calls, *, inputs=(), name="first"):
    def body(cost):
        calls.append(name)
        cost.rollouts = 7
        write_json(run.path(f"{name}.out"), value)

    return run.stage(
        name, settings={"a": {"b": value}}, inputs=list(inputs), outputs=[f"{name}.out"], body=body
    )


def quiet(root, **options):
    return Run(root, say=lambda text: None, **options)


def test_a_failed_directory_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "d") as folder:
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
    assert read_json(tmp_path / "first.out") == 2


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


def test_an_attempt_that_finished_counts_what_others_did(tmp_path):
    def attempt(rollouts, *, fails=False):
        def body(cost):
            cost.rollouts = rollouts
            run.path("o").write_text(str(rollouts))
            if fails:
                raise RuntimeError

        run = quiet(tmp_path)
        with suppress(RuntimeError):
            run.stage("first", settings={}, inputs=[], outputs=["o"], body=body)
        (row,) = run.costs()
        return row["rollouts"]

    assert attempt(5, fails=True) == 5
    assert attempt(7) == 7
    (tmp_path / "o").unlink()  # so it is made again
    assert attempt(1, fails=True) == 7
    assert attempt(7) == 7


def test_a_stage_can_be_redone_or_only_checked(tmp_path):
    calls = []
    make(quiet(tmp_path), 1, calls)
    make(quiet(tmp_path, redo=("first",)), 1, calls)
    assert calls == ["first", "first"]
    run = quiet(tmp_path, overwrite=True)
    run.compare("first", settings={"a": {"b": 1}}, inputs=[])
    with pytest.raises(ArtifactError, match="now it is 2; .*`minirec first --overwrite`"):
        run.compare("first", settings={"a": {"b": 2}}, inputs=[])
    assert calls == ["first", "first"]


def test_redoing_goes_on_after_an_interruption(tmp_path):
    """`minirec STAGE --overwrite`, killed and repeated, keeps the finished parts."""
    made = []
    sharded(quiet(tmp_path), made)
    with pytest.raises(KeyboardInterrupt):
        sharded(quiet(tmp_path, overwrite=True, redo=("s",)), made, fails=True)
    sharded(quiet(tmp_path, overwrite=True, redo=("s",)), made)
    assert made == [*SHARDS, *SHARDS]


def test_what_a_stage_was_made_from(tmp_path):
    run = quiet(tmp_path)
    make(run, 1, [])
    make(run, 1, [], inputs=["first"], name="second")
    make(run, 1, [], inputs=["second"], name="third")
    assert run.made_from("third") == {"first", "second"}
    assert run.made_from("first") == run.made_from("none") == set()


def test_shared_stages_and_their_outputs_are_those_of_the_base(tmp_path):
    base = quiet(tmp_path / "base")
    make(base, 1, [])
    run = quiet(tmp_path / "run", base=base, shared={"first": ["first.out"]})
    assert run.fingerprint("first") == base.fingerprint("first")
    assert run.path("first.out") == base.path("first.out")
    make(run, 1, [], inputs=["first"], name="second")
    assert run.path("second.out").exists() and not base.path("second.out").exists()


def test_a_changed_input_changes_the_fingerprint(tmp_path):
    calls = []
    make(quiet(tmp_path), 1, calls)
    make(quiet(tmp_path), 1, calls, inputs=["first"], name="second")
    make(quiet(tmp_path, overwrite=True), 2, calls)
    with pytest.raises(ArtifactError, match="made from another first"):
        make(quiet(tmp_path), 1, calls, inputs=["first"], name="second")


def test_a_missing_input_says_what_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="run `minirec first` with these settings first"):
        make(quiet(tmp_path), 1, [], inputs=["first"], name="second")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"a": [1]}))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match=r"t\.parquet is damaged"):
        read_table(path)
    with pytest.raises(ArtifactError, match="missing"):
        read_table(tmp_path / "none.parquet")


SHARDS = {f"parts/part-{number}": b"x" * (number + 1) for number in range(3)}


def sharded(run, made, *, fails=False):
    """A stage that makes only the missing files; `fails` after the first."""

    def body(cost):
        for name, content in SHARDS.items():
            if not run.path(name).exists():
                made.append(name)
                with atomic(run.path(name)) as file:
                    file.write(content)
                if fails:
                    raise KeyboardInterrupt

    return run.stage("s", settings={}, inputs=[], outputs=["parts"], body=body, part_of=each_file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "s: {path} is gone; it is made again"),
        (b"xxx", "s: {path} is damaged: it has 3 bytes, 2 were written; it is made again"),
        (b"xy", "s: {path} is damaged: its sha256 is .* was written; it is made again"),
    ],
)
def test_of_a_stage_in_shards_only_the_damaged_file_is_made_again(tmp_path, content, said):
    made, lines = [], []
    sharded(quiet(tmp_path), made)
    damaged = tmp_path / "parts" / "part-1"
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    assert sharded(Run(tmp_path, say=lines.append), made) is True
    assert made == [*SHARDS, "parts/part-1"]
    assert re.fullmatch(said.format(path=re.escape(str(damaged))), lines[0])
    assert sharded(quiet(tmp_path), made) is False


def test_what_killed_writers_left_is_removed_and_not_recorded(tmp_path):
    root = tmp_path / ".runs"  # a hidden folder, whose files are not hidden
    beside = [root / f".parts.{n * 8}" for n in "ab"]
    for folder in beside:
        folder.mkdir(parents=True)
        (folder / "part-0").touch()
    (root / "parts").mkdir()
    (root / "parts" / ".part-0.1234abc_").touch()
    (root / "parts" / ".lock").touch()
    (root / ".other.12345678").touch()  # not from an output of this stage
    assert sharded(quiet(root), []) is True
    assert sorted(p.name for p in root.iterdir() if p.name.startswith(".")) == [".other.12345678"]
    assert sorted(p.name for p in (root / "parts").iterdir())[:2] == [".lock", "part-0"]
    files = read_json(root / "stages" / "s.json")["files"]
    assert sorted(files) == list(SHARDS)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_missing_or_damaged_output_is_made_again(tmp_path, deleted):
    calls = []
    make(quiet(tmp_path), 1, calls)
    make(quiet(tmp_path), 1, calls, inputs=["first"], name="second")
    if deleted:
        (tmp_path / "first.out").unlink()
    else:
        (tmp_path / "first.out").write_text("2\n")  # the same size
    assert make(quiet(tmp_path), 1, calls) is True
    assert read_json(tmp_path / "first.out") == 1
    # The second stage stays, since its input is the same again.
    assert make(quiet(tmp_path), 1, calls, inputs=["first"], name="second") is False
    assert calls == ["first", "second", "first"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", None])
def test_a_damaged_record_is_reported_and_the_stage_made_again(tmp_path, content):
    calls, lines = [], []
    make(quiet(tmp_path), 1, calls)
    record = tmp_path / "stages" / "first.json"
    if content is None:  # damage that leaves valid JSON: one digit of a fingerprint
        at = record.read_text().index('"fingerprint": "') + 16
        digit = record.read_bytes()[at]
        content = record.read_bytes()[:at] + bytes([digit ^ 1]) + record.read_bytes()[at + 1 :]
    record.write_bytes(content)
    with pytest.raises(ArtifactError, match="now it is 2"):  # begun.json still has the settings
        make(quiet(tmp_path), 2, calls)
    assert make(Run(tmp_path, say=lines.append), 1, calls) is True
    assert [line for line in lines if "first.json is damaged" in line] == lines[:1]
    assert make(quiet(tmp_path), 1, calls) is False


def test_outputs_without_a_readable_record_are_removed(tmp_path):
    made = []
    sharded(quiet(tmp_path), made)
    for name in ("s.json", "s.begun.json"):
        (tmp_path / "stages" / name).write_text("{")
    assert sharded(quiet(tmp_path), made) is True
    assert made == [*SHARDS, *SHARDS]


def test_a_damaged_line_of_costs_is_left_out(tmp_path):
    make(quiet(tmp_path), 1, [])
    with (tmp_path / "costs.jsonl").open("a") as file:
        file.write('{"stage": "fir')
    lines = []
    assert Run(tmp_path, say=lines.append).costs()[0]["rollouts"] == 7
    assert "costs.jsonl line 2 is damaged" in lines[0]


def test_a_failure_is_not_hidden_by_that_of_its_cost(tmp_path):
    (tmp_path / "costs.jsonl").mkdir()
    with pytest.raises(RuntimeError):
        broken_stage(quiet(tmp_path), 1, leaves=True)
