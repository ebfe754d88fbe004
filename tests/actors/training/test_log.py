"""How a training writes its log."""

import json

import pytest
import torch
from helpers.loop import one_process

from actors.training.log import TrainingLog, means
from jobs.training_log import LogReader, read_log


def entry(step, reward=0.5):
    return {"step": step, "reward": reward}


def test_each_step_is_in_the_file_at_once(tmp_path):
    log = TrainingLog(tmp_path, writes=True)
    reader = LogReader(tmp_path / "log.jsonl")
    for step in range(3):
        log.add(entry(step))
        assert read_log(tmp_path / "log.jsonl") == reader.read() == log.entries
    assert len(log.entries) == 3


def test_a_step_appends_one_line(tmp_path):
    log = TrainingLog(tmp_path, writes=True)
    log.add(entry(0))
    file = (tmp_path / "log.jsonl").stat().st_ino
    log.add(entry(1))
    assert (tmp_path / "log.jsonl").stat().st_ino == file
    log.write()
    assert (tmp_path / "log.jsonl").stat().st_ino != file
    assert read_log(tmp_path / "log.jsonl") == log.entries


def test_the_next_attempt_replaces_what_a_killed_one_wrote(tmp_path):
    path = tmp_path / "log.jsonl"
    killed = TrainingLog(tmp_path, writes=True)
    for step in range(4):
        killed.add(entry(step))
    with path.open("ab") as file:
        file.write(b'{"step": 4, "rew')
    assert read_log(path) == killed.entries
    log = TrainingLog(tmp_path, writes=True)
    kept = log.entries
    log.restore([entry(0), entry(1)])  # of the checkpoint after two steps
    log.add(entry(2, reward=0.75))
    assert read_log(path) == [entry(0), entry(1), entry(2, reward=0.75)] == kept


def test_another_rank_writes_nothing(tmp_path):
    log = TrainingLog(tmp_path, writes=False)
    log.add(entry(0))
    log.write()
    assert log.entries == [entry(0)] and not [*tmp_path.iterdir()]


def test_an_object_store_gets_few_uploads(tmp_path):
    log = TrainingLog(tmp_path, writes=True, appends=False)
    for step in range(5):
        log.add(entry(step))
    assert read_log(tmp_path / "log.jsonl") == [entry(0)]
    log.write()
    assert read_log(tmp_path / "log.jsonl") == log.entries
    log = TrainingLog(tmp_path, writes=True, appends=False, upload_s=0)
    log.add(entry(5))
    log.add(entry(6))
    assert read_log(tmp_path / "log.jsonl") == log.entries


@pytest.mark.slow
def test_means_of_sums():
    sums = {
        ("reward", "groups"): 3.0,
        ("token_loss", "tokens"): 8.0,
        ("item_loss", "groups"): 2.0,
        ("abs_log_ratio", "tokens"): 5.0,
    }
    counts, divisors = {"groups": 4, "tokens": 10}, {"groups": 4, "tokens": 2}
    with one_process():
        found = means(sums, counts, divisors, device=torch.device("cpu"))
    assert found.pop("peak_memory_mib") > 10
    assert found == {
        "reward": 0.75,
        "token_loss": 4.0,
        "item_loss": 0.5,
        "abs_log_ratio": 0.5,
        "loss": 4.5,
    }
    assert json.dumps(found)
