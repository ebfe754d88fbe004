"""The view of a run, from its directory alone."""

import json
import os
import subprocess
import sys
import time

import pytest
from helpers.live_run import STEPS, make_live_run
from helpers.report_run import make_run

from jobs.console import clock, pace_of
from jobs.progress import FILE, reporting
from jobs.watch.figures import learnable, spark, tokens_per_second, trials
from jobs.watch.state import SILENT_S, is_run, opened, state_of
from jobs.watch.watch import Watcher, line, watch
from minirec.errors import ArtifactError
from minirec.store.files import read_json, write_json
from minirec.store.lease import here
from minirec.store.run import Run

NOW = 1_000_000.0
TRAINING = {"stages/prepare.json", "stages/prepare.begun.json", "stages/train.begun.json"}


def progress(**changes):
    found = {"command": "run", "stages": ["prepare", "train", "evaluate"], "trials": {}}
    found |= {"stage": "train", "stage_began": NOW - 100, "bar": None, "state": "running"}
    found |= {"problem": None, "pid": os.getpid(), "updated": NOW, **here()}
    return found | changes


@pytest.mark.parametrize(
    ("names", "record", "word", "text"),
    [
        (TRAINING, progress(), "running", "running: train"),
        (TRAINING, progress(updated=NOW - SILENT_S - 1), "dead", "no sign of life for 181 s"),
        (TRAINING, progress(updated=NOW - SILENT_S + 1), "running", "running: train"),
        (TRAINING, progress(state="failed", problem="a disk is full"), "failed", "a disk is full"),
        (TRAINING, progress(state="interrupted"), "interrupted", "interrupted at train"),
        (TRAINING, None, "stopped", "stopped at train"),
        (TRAINING - {"stages/train.begun.json"}, None, "done", "done up to prepare"),
        ({"stages/report.json"}, None, "finished", "finished"),
        ({"stages/report.json"}, progress(state="finished"), "finished", "finished"),
        # A stage of a finished run is redone.
        ({"stages/report.json", *TRAINING}, progress(), "running", "running: train"),
        ({"stages/sweep.json"}, None, "finished", "finished"),
    ],
)
def test_the_state_follows_from_records_and_progress(names, record, word, text):
    state = state_of(names, record, now=NOW)
    assert state.word == word and text in state.text
    assert state.bad == (word in ("dead", "failed", "interrupted", "stopped"))


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state = state_of(TRAINING, progress(pid=ended.pid), now=NOW)
    assert state.word == "dead" and "its process has ended" in state.text
    elsewhere = progress(pid=ended.pid, boot="of another machine")
    assert state_of(TRAINING, elsewhere, now=NOW).word == "running"


def test_what_is_a_run_directory():
    assert is_run({"stages/prepare.begun.json"}) and is_run({"stages/compare.json"})
    assert not is_run({"stages/prepare.py", "stages/other.json", "prepare.json", "x/stages/a.json"})


def test_no_run_directory_is_refused(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "prepare.py").touch()
    with pytest.raises(ArtifactError, match="has no records of stages"):
        opened(tmp_path)
    with pytest.raises(ArtifactError, match="does not exist"):
        opened(tmp_path / "nothing")


def test_figures_of_a_training_by_hand():
    log = [
        {"forward_tokens": 1000, "seconds": 2.0, "chosen_in_band": 2, "chosen_unknown": 2},
        {"forward_tokens": 500, "seconds": 9.0, "validation_seconds": 8.0},
        {"forward_tokens": 0, "seconds": 2.0, "chosen_value": 1, "chosen_nearest": 3},
    ]
    assert tokens_per_second(log) == 1500 / 5
    assert learnable(log) == 3 / 8
    assert learnable(log[1:2]) is None and tokens_per_second(log[2:]) is None
    assert spark([0.0, 1.0, 0.5]) == "▁█▅" and spark([1.0, 1.0]) == "▁▁"


def test_pace_and_clock_by_hand():
    bar = {"label": "score", "total": 10, "done": 6, "note": "", "first": 4, "began": 100.0}
    assert pace_of(bar, 108.0) == "4.0 s each, 0:16 left"  # two units in 8 s, four to come
    assert pace_of(bar, 100.5) == "4.0 per second, 0:01 left"
    assert pace_of(bar | {"done": 4}, 108.0) == pace_of(bar | {"first": None}, 108.0) == ""
    assert [clock(s) for s in (0, 69, 3723)] == ["0:00", "1:09", "1:02:03"]


def running_run(root, **changes):
    """A live run whose stage train is at work."""
    run = make_live_run(root)
    log = run.path("policy", "log.jsonl")
    log.write_text(log.read_text() + "\n")
    for name in ("train.json", "evaluate.json", "evaluate.begun.json"):
        run.path("stages", name).unlink()
    now = time.time()
    bar = {"label": "policy", "total": 20, "done": 8, "note": "", "first": 3, "began": now - 10}
    times = {"stage_began": now - 30, "updated": now, "bar": bar}
    write_json(run.path(FILE), progress(**times, **changes))
    return run


def test_the_view_of_a_training(tmp_path, capsys):
    run = running_run(tmp_path / "run")
    with run.path("policy", "log.jsonl").open("a") as file:
        file.write('{"step": 8, "rew')  # the training is writing it
    view = Watcher(run, once=True).look()
    words = {name: word for name, word, _ in view.rows}
    assert words["prepare"] == "done" and words["train"] == "running"
    assert words["evaluate"] == "to come"
    text = line(view)
    assert f"step {STEPS} of 20, reward 0.400" in text
    assert "known to be learnable 50% of the prompts, 500 tokens/s" in text
    assert f"{STEPS * 16} rollouts, 8.00k forward-equivalent tokens" in text
    assert "policy ends in: about 0:24; then evaluate" in text  # 5 steps in 10 s, 12 to come
    assert watch(str(run.root), once=True) == 0
    assert f"step {STEPS} of 20" in capsys.readouterr().out


def test_watching_ends_with_the_run_and_says_how(tmp_path, capsys):
    run = running_run(tmp_path / "run")
    waits = []

    def wait(seconds):
        waits.append(seconds)
        state = "running" if len(waits) < 3 else "failed"
        write_json(run.path(FILE), read_json(run.path(FILE)) | {"state": state, "problem": "why"})

    assert watch(str(run.root), wait=wait) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(waits) == 3 and len(lines) == 2  # nothing new, so one line; and the end
    assert lines[0].startswith("train 8/20: step 8 of 20")
    assert lines[1].endswith("failed at train: why")


def test_a_damaged_log_and_a_damaged_progress_do_not_end_the_view(tmp_path):
    run = running_run(tmp_path / "run")
    run.path("policy", "log.jsonl").write_text("{\n{}\n")
    assert "log.jsonl is damaged" in line(Watcher(run).look())
    run.path(FILE).write_text('{"state": "run')
    assert Watcher(run).look().state.text == "stopped at train"
    run.path(FILE).write_text("[]")
    run.path("costs.jsonl").write_text("{}\nno json\n")
    assert Watcher(run).look().state.text == "stopped at train"


def test_a_finished_run_needs_no_progress_file(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert watch(str(run.root), once=True) == 0
    assert "done up to evaluate" in capsys.readouterr().out


def test_the_trials_of_a_comparison(tmp_path):
    run = Run(tmp_path / "run", say=lambda text: None)
    for name, stages in (("a", ("train", "evaluate")), ("b", ("select",)), ("c", ())):
        own = Run(run.path("comparison", name), say=lambda text: None)
        own.path("stages").mkdir(parents=True)
        for stage in stages:
            options = {"settings": {}, "inputs": [], "outputs": []}
            own.stage(stage, body=lambda cost: setattr(cost, "rollouts", 7), **options)
    ndcg = {"policies": {"trained": {"valid": {"ndcg@10": {"mean": 0.25}}}}}
    write_json(run.path("comparison", "a", "evaluation.json"), ndcg)
    write_json(run.path("comparison", "c", "stopped.json"), {"steps": 3})
    log = [{"rollouts": 5, "valid_ndcg@10": 0.125}, {"rollouts": 5}]
    logs = {run.path("comparison", "b", "policy", "log.jsonl"): log}
    found = trials(run, ["a", "b", "d"], running=True, logs=logs)
    assert [(t.name, t.word, t.steps, t.ndcg, t.rollouts) for t in found] == [
        ("a", "finished", 0, 0.25, 14),
        ("b", "running", 2, 0.125, 17),
        ("d", "to come", 0, None, 0),
        ("c", "stopped", 0, None, 0),
    ]


def test_the_driver_says_what_it_does(tmp_path):
    run = Run(tmp_path / "run")
    run.root.mkdir()
    with reporting(run, "run", ["prepare", "train"]) as begins:
        assert not run.path(FILE).exists()
        begins("prepare")
        found = read_json(run.path(FILE))
        assert (found["stage"], found["state"], found["pid"]) == ("prepare", "running", os.getpid())
    assert read_json(run.path(FILE))["state"] == "finished"
    with pytest.raises(ArtifactError), reporting(run, "run", ["train"]) as begins:
        begins("train")
        raise ArtifactError("a file\nis gone")
    found = read_json(run.path(FILE))
    assert (found["state"], found["problem"]) == ("failed", "a file is gone")
    with pytest.raises(KeyboardInterrupt), reporting(run, "run", ["train"]) as begins:
        begins("train")
        raise KeyboardInterrupt
    assert read_json(run.path(FILE))["state"] == "interrupted"
    with reporting(run, "compare", ["score", "compare"], goes_on=True) as begins:
        begins("score")
    assert read_json(run.path(FILE))["state"] == "running"
    assert json.loads(run.path(FILE).read_text())["command"] == "compare"


def test_a_command_that_is_refused_writes_nothing(tmp_path):
    run = Run(tmp_path / "run")
    run.root.mkdir()
    with pytest.raises(ArtifactError), reporting(run, "run", ["train"]):
        raise ArtifactError("no")
    assert not run.path(FILE).exists()
