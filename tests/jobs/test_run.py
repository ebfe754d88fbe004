"""The lock of a run directory, its checkpoints, and the progress in it."""

import signal
import threading
import time

import pytest

from jobs.cluster.session import Session
from jobs.cluster.workers import in_thread
from jobs.run import holding
from jobs.stages.gradients import _there
from jobs.stages.model import model_settings
from jobs.stages.train import TRAIN, _check_checkpoints
from jobs.training_log import follow
from minirec.config.reading import load
from minirec.errors import ArtifactError, ConfigError
from minirec.store import lease
from minirec.store.files import write_json
from minirec.store.remote import located
from minirec.store.run import Run


@pytest.mark.parametrize(("match", "depends"), [(0, False), (1, True)])
def test_a_demo_model_depends_on_the_temperature_that_it_was_matched_with(match, depends):
    words = ["run_dir=run", f"model.demo.warmup_match={match}"]
    cold, warm = (
        model_settings(load(None, [*words, f"model.temperature={t}"])) for t in (0.02, 0.1)
    )
    assert (cold != warm) == depends


def test_sharded_checkpoints_keep_their_workers(tmp_path):
    _check_checkpoints(tmp_path, 2, 3)
    _check_checkpoints(tmp_path, 1, 0)  # no checkpoint exists yet
    _check_checkpoints(tmp_path, 2, 0)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    _check_checkpoints(tmp_path, 1, 0)  # not sharded: any number of workers
    with pytest.raises(ConfigError, match=r"1 workers with ZeRO 0, now there are 1 with ZeRO 2"):
        _check_checkpoints(tmp_path, 1, 2)


def test_another_number_of_workers_is_refused_for_sharded_checkpoints(tmp_path):
    _check_checkpoints(tmp_path, 2, 3)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"set resources.training_workers=2 and"):
        _check_checkpoints(tmp_path, 1, 3)
    _check_checkpoints(tmp_path, 2, 3)


def test_a_half_finished_training_with_another_dtype_is_refused(tmp_path):
    words = [f"run_dir={tmp_path}", "selection.mode=static", "training.start=base"]
    before, now = (load(None, [*words, f"model.dtype={d}"]) for d in ("float32", "bfloat16"))
    run = Run(tmp_path, say=lambda line: None)
    for name in TRAIN.inputs(before):
        run.stage(name, settings={}, inputs=[], outputs=[], body=lambda cost: None)

    def half(cost):
        run.path("policy", "checkpoints").mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage(
            "train",
            settings=TRAIN.settings(run, before),
            inputs=TRAIN.inputs(before),
            outputs=TRAIN.outputs,
            body=half,
        )
    sentence = (
        r"stage train in .* was made with model.dtype=float32, now it is bfloat16; "
        r"choose another run_dir or add --overwrite"
    )
    with pytest.raises(ArtifactError, match=sentence):
        TRAIN.run(run, now, Session(now))
    assert run.path("policy", "checkpoints").exists()


@pytest.fixture
def interruptible():
    """Restore SIGINT, which tests that a script starts in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_lost_lease_wakes_a_command_that_waits_for_a_thread(bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    training = threading.Event()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), holding(Run(bucket_folder)):
        write_json(located(bucket_folder) / ".lock" / "999999999", {})
        in_thread(lambda: training.wait(60))
    assert time.monotonic() - started < 50
    training.set()


def test_finished_shards_are_counted_with_one_listing(bucket_folder, monkeypatch):
    client = pytest.importorskip("aiobotocore.client").AioBaseClient
    folder = located(bucket_folder) / "gradients"
    outputs = [folder / f"part-{n}.parquet" for n in range(3)]
    outputs += [folder / "valid_gradients" / "part-0.parquet"]
    for path in (outputs[0], outputs[3], folder / "valid" / "part-1.parquet"):
        path.write_bytes(b"x")
    asked, call = [], client._make_api_call

    async def counted(self, operation, *args):
        asked.append(operation)
        return await call(self, operation, *args)

    monkeypatch.setattr(client, "_make_api_call", counted)
    assert _there(outputs, folder) == 2
    assert asked == ["ListObjectsV2"]


@pytest.mark.slow
def test_a_store_is_not_asked_twice_a_second(bucket_folder, tmp_path):
    asked = {}
    for folder in (tmp_path, located(bucket_folder)):
        times = asked[str(folder)] = []
        with follow("work", 2, lambda times=times: (len(times), times.append(1) or ""), at=folder):
            time.sleep(2)
    assert len(asked[str(tmp_path)]) > 1
    assert len(asked[bucket_folder]) == 1  # at the end
