"""The metrics that trackers receive, read with each library's own reader."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest

from jobs import tracking
from minirec.config.reading import load
from minirec.errors import ConfigError
from minirec.store.run import Run

LOG = [{"step": i, "reward": 0.1 * i, "valid_ndcg@10": 0.5} for i in range(3)]


def sent(tmp_path, *words):
    """Send a growing log to the trackers of the settings."""
    run = Run(tmp_path / "run")
    config = load(None, [f"run_dir={run.root}", *words])
    run.root.mkdir(exist_ok=True)
    with tracking.tracking(run, config, "policy") as tracked:
        for end in (0, 2, 2, 3):
            tracked.update(LOG[:end])
    return run


def test_tensorboard_is_the_default_and_a_new_attempt_starts_empty(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        run = sent(tmp_path)
    found = EventAccumulator(str(run.path("tensorboard", "policy")))
    found.Reload()
    assert [event.step for event in found.Scalars("reward")] == [0, 1, 2]
    assert found.Scalars("reward")[2].value == pytest.approx(0.2)


def test_mlflow_gets_each_step_once_and_the_settings(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the small package has no database
    place = (tmp_path / "mlruns").as_uri()
    sent(tmp_path, f"tracking.mlflow={place}", "tracking.tensorboard=false")
    client = mlflow.MlflowClient(place)
    experiment = client.get_experiment_by_name("minirec").experiment_id
    (run,) = client.search_runs([experiment])
    history = client.get_metric_history(run.info.run_id, "valid_ndcg_at_10")
    assert [metric.step for metric in history] == [0, 1, 2]
    assert run.data.params["selection.budget"] == "0.1"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_wandb_offline_writes_below_the_run(tmp_path):
    pytest.importorskip("wandb")
    run = sent(tmp_path, "tracking.wandb=offline", "tracking.tensorboard=false")
    (folder,) = run.path("wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    end = time.monotonic() + 30  # another process writes it
    while b"valid_ndcg@10" not in file.read_bytes():
        assert time.monotonic() < end, "the figures are not in the file"
        time.sleep(0.1)


def test_a_tracker_that_fails_is_reported_once_and_stops_nothing(tmp_path, capsys, monkeypatch):
    @contextmanager
    def broken(run, config, stage):
        def log(step, figures):
            raise OSError("the server is gone")

        yield log
        raise OSError("it still is")

    other = []

    @contextmanager
    def working(run, config, stage):
        yield lambda step, figures: other.append(step)
        other.append("closed")

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", broken)
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", working)
    sent(tmp_path, "tracking.mlflow=x")
    assert other == [0, 1, 2, "closed"]
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("tensorboard has failed (the server is gone)") == 1
    assert printed.count("tensorboard could not be closed (it still is)") == 1


def test_a_server_that_cannot_be_used_is_one_sentence(tmp_path):
    pytest.importorskip("mlflow")
    with pytest.raises(ConfigError, match=r"tracking.mlflow=nonsense://x cannot be used"):
        sent(tmp_path, "tracking.mlflow=nonsense://x")
