"""Listing and removing run directories."""

import os
import time

import pytest
from helpers.live_run import make_live_run
from helpers.report_run import make_run

from jobs.cli import main
from jobs.progress import FILE
from jobs.watch.runs import found_runs, remove_runs
from minirec.errors import ArtifactError, ConfigError
from minirec.store.files import write_json
from minirec.store.lease import held, here
from minirec.store.remote import located


@pytest.fixture
def folder(tmp_path):
    """Two runs, one of them below a folder; and what is no run."""
    root = tmp_path / "runs"
    make_run(root / "one")
    make_live_run(root / "deep" / "er" / "two")
    (root / "empty").mkdir()
    (root / "code" / "stages").mkdir(parents=True)
    (root / "code" / "stages" / "prepare.py").touch()
    (root / "a file").write_text("text")
    (root / "loop").symlink_to(root)
    return root


def names(folder):
    return [one.name for one in found_runs(folder, now=time.time())]


def test_runs_are_found_and_sorted_and_nothing_else(folder):
    assert names(folder) == ["deep/er/two", "one"]
    assert names(folder / "one") == ["."]
    assert names(folder / "empty") == []


def test_figures_of_a_run(folder):
    (folder / "one" / "costs.jsonl").write_text(
        '{"stage": "train", "finished": true, "seconds": 3, "rollouts": 8, "peak_memory_mib": 1}\n'
        '{"stage": "evaluate", "finished": true, "seconds": 4, "rollouts": 2, "pea'
    )
    two, one = found_runs(folder, now=time.time())
    size = sum(p.stat().st_size for p in (folder / "one").rglob("*") if p.is_file())
    assert (one.size, one.rollouts, one.seconds) == (size, 8, 3)
    assert one.state.text == "done up to evaluate"
    assert (one.corpus, one.method, two.method) == ("demo", "value", "live")
    assert 0 < one.ndcg < 1 and time.time() - one.changed < 60


def test_odd_files_do_not_end_the_list(folder):
    for name in ("config.yaml", "evaluation.json", "costs.jsonl", FILE, "corpus/corpus.json"):
        (folder / "one" / name).write_text("[1, {")
    one = found_runs(folder, now=time.time())[1]
    assert (one.corpus, one.method, one.ndcg, one.seconds) == ("", "", None, 0)


def test_only_what_is_named_is_removed(folder, capsys):
    assert remove_runs(str(folder), ["one"], yes=True) == 0
    assert names(folder) == ["deep/er/two"] and (folder / "a file").exists()
    out = capsys.readouterr().out
    assert "one: done up to evaluate" in out and f"removed {folder / 'one'}" in out


def test_a_run_with_a_file_of_the_user_is_not_removed(folder):
    (folder / "one" / "mine.csv").write_text("a")
    with pytest.raises(ConfigError, match=r"holds mine\.csv, which no command of a run writes"):
        remove_runs(str(folder), ["one"], yes=True)
    assert (folder / "one" / "mine.csv").exists()


def test_a_record_of_other_software_makes_no_run(folder):
    (folder / "dvc" / "stages").mkdir(parents=True)
    (folder / "dvc" / "stages" / "train.json").write_text("{}")
    with pytest.raises(ConfigError, match="no record of a stage in"):
        remove_runs(str(folder), ["dvc"], yes=True)
    assert (folder / "dvc").exists()


def test_a_run_in_a_folder_called_sweep_is_no_trial(folder):
    root = folder / "sweep" / "mine"
    make_run(root)
    now = time.time()
    progress = {
        "command": "run",
        "stages": ["prepare", "model"],
        "trials": {},
        "stage": "model",
        "stage_began": now,
        "bar": None,
        "state": "failed",
        "problem": "the disk is full",
        "pid": 1,
        "updated": now,
        **here(),
    }
    write_json(root / FILE, progress)
    found = {one.name: one.state.text for one in found_runs(folder, now=now)}
    assert found["sweep/mine"] == "failed at model: the disk is full"
    write_json(root / FILE, progress | {"updated": "x"})
    assert "sweep/mine" in {one.name for one in found_runs(folder, now=now)}


def test_the_user_is_asked(folder):
    asked = []

    def ask(text, answer):
        asked.append(text)
        return answer

    assert remove_runs(str(folder), ["one"], yes=False, ask=lambda text: ask(text, "")) == 1
    assert names(folder) == ["deep/er/two", "one"]
    both = ["one", "deep/er/two"]
    assert remove_runs(str(folder), both, yes=False, ask=lambda text: ask(text, "y")) == 0
    assert names(folder) == [] and len(asked) == 2


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("empty", "is not a run directory"),
        ("code", "is not a run directory"),
        ("nothing", "does not exist"),
        ("a file", "is not a run directory"),
        ("deep", "it holds 1, name each of them"),
        (".", "it holds 2, name each of them"),
        ("one/corpus", "is not a run directory"),
        ("one/comparison/trial", "is a part of the run"),
    ],
)
def test_what_is_not_a_run_is_not_removed(folder, name, refusal):
    trial = folder / "one" / "comparison" / "trial" / "stages"
    trial.mkdir(parents=True)
    (trial / "train.begun.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"{refusal}.*nothing was removed"):
        remove_runs(str(folder), ["deep/er/two", name], yes=True)
    assert names(folder) == ["deep/er/two", "one"]


def test_a_run_in_progress_is_not_removed(folder):
    root = folder / "one"
    with held(root, lost=print), pytest.raises(ArtifactError, match="another minirec command"):
        remove_runs(str(folder), ["one"], yes=True)
    record = {"command": "run", "stages": [], "trials": {}, "stage": "train", "bar": None}
    record |= {"state": "running", "pid": os.getpid(), "updated": time.time(), **here()}
    write_json(root / FILE, record | {"stage_began": time.time(), "problem": None})
    with pytest.raises(ArtifactError, match="is running: train; stop it first"):
        remove_runs(str(folder), ["one"], yes=True)
    assert names(folder) == ["deep/er/two", "one"]


def test_the_command_line(folder, capsys):
    assert main(["runs", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "deep/er/two" in out and "2 runs in" in out
    assert main(["runs", str(folder), "--remove", "one"]) == 1
    assert "add --yes" in capsys.readouterr().err and (folder / "one").exists()
    assert main(["runs", str(folder / "none")]) == 2
    assert main(["runs", str(folder / "empty")]) == 0
    assert main(["watch", str(folder)]) == 1
    assert "is not a run directory" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["runs", str(folder), "--yes"])


def test_runs_on_an_object_store(folder, object_store, capsys):
    object_store.create_bucket(Bucket="listed")
    for path in folder.rglob("*"):
        if path.is_file() and "loop" not in path.parts:
            key = f"runs/{path.relative_to(folder).as_posix()}"
            object_store.upload_file(str(path), "listed", key)
    assert main(["watch", "s3://listed/runs/one", "--once"]) == 0
    assert "done up to evaluate" in capsys.readouterr().out
    found = found_runs(located("s3://listed/runs"), now=time.time())
    local = found_runs(folder, now=time.time())
    assert [(o.name, o.size, o.state, o.ndcg) for o in found] == [
        (o.name, o.size, o.state, o.ndcg) for o in local
    ]
    object_store.upload_file(
        str(folder / "one" / "stages" / "prepare.json"),
        "listed",
        "runs/one/sweep/t1/stages/train.json",
    )
    with pytest.raises(ConfigError, match="is a part of the run"):
        remove_runs("s3://listed/runs", ["one/sweep/t1"], yes=True)
    assert remove_runs("s3://listed/runs", ["one"], yes=True) == 0
    assert main(["runs", "s3://listed/runs"]) == 0
    assert "1 run in s3://listed/runs" in capsys.readouterr().out
    assert main(["runs", "s3://listed/runs", "--remove", "deep", "--yes"]) == 2
