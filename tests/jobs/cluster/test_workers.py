"""Workers of Ray Train that stay up: one process for many pieces, through deaths and failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from jobs.cluster.session import Session
from jobs.cluster.workers import KeptWorkers, Team
from jobs.run import SHARED
from jobs.stages.evaluate import EVALUATE
from jobs.stages.select import SELECT
from jobs.stages.train import TRAIN
from jobs.trials.trial import kept_team
from minirec.config.reading import load
from minirec.config.run import TrainingConfig
from minirec.errors import EngineError
from minirec.resources.allocation import Shape
from minirec.store.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def kept():
    workers = KeptWorkers()
    yield workers
    workers.close()


def team(folder: Path, *, count: int, max_failures: int) -> Team:
    training = TrainingConfig(max_failures=max_failures, step_deadline_s=60)
    return Team(training, count, Shape(cpus=1, gpus=0), folder / "ray", "kept")


def signing(folder: Path, *, fails: bool = False, dies: bool = False):
    """A loop that leaves a file named for the worker's rank and process.

    It raises, or its worker 1 dies at the first attempt.
    """

    def loop(argument):  # inside, so that it travels whole
        import torch.distributed as dist

        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{dist.get_rank()}-{os.getpid()}").write_text(argument["spec"])
        if fails:
            raise ValueError("no such flavour")
        if dies and dist.get_rank() == 1 and len(list(folder.glob("1-*"))) == 1:
            os._exit(1)

    return loop


def signed(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.long
def test_one_process_does_all_pieces_until_it_dies(kept, tmp_path):
    kept.start(team(tmp_path, count=2, max_failures=1))
    for piece in ("a", "b", "c", "d"):
        kept.do(signing(tmp_path / piece, dies=piece == "c"), piece)
    first, second, torn, last = (signed(tmp_path / piece) for piece in "abcd")
    assert first == second
    assert {name[0] for name in first} == {"0", "1"}
    assert first < torn, "a piece that one did not finish is done again by all"
    assert last == torn - first
    assert {path.read_text() for path in (tmp_path / "d").iterdir()} == {"d"}
    kept.start(team(tmp_path, count=2, max_failures=1))  # since one restart is used up
    kept.do(signing(tmp_path / "e"), "e")
    assert not signed(tmp_path / "e") & last


@pytest.mark.long
def test_a_failure_has_its_cause_and_the_next_piece_new_workers(kept, tmp_path):
    workers = team(tmp_path, count=1, max_failures=0)
    kept.start(workers)
    with pytest.raises(EngineError, match="ValueError: no such flavour; the same command"):
        kept.do(signing(tmp_path / "a", fails=True), "a")
    kept.start(workers)
    kept.do(signing(tmp_path / "b"), "b")
    assert len(signed(tmp_path / "b")) == 1
    assert not signed(tmp_path / "a") & signed(tmp_path / "b")
    ray.kill(kept._mailbox)
    with pytest.raises(EngineError, match="the mailbox of the training workers is gone"):
        kept.do(signing(tmp_path / "c"), "c")
    kept.start(workers)
    kept.do(signing(tmp_path / "d"), "d")
    assert len(signed(tmp_path / "d")) == 1


def test_trials_on_kept_workers_give_the_bytes_of_a_run(undisturbed, tmp_path):
    """Also after a training with ZeRO 3, which replaces functions of torch."""
    settings = undisturbed.parent / "small.yaml"
    shared = [f"run_dir={undisturbed}", "rollout.engine=transformers"]
    with Session(load(settings, shared), keep_workers=True) as session:
        for name, zero_stage in (("sharded", 3), ("whole", 0)):
            words = [f"run_dir={tmp_path / name}", f"resources.zero_stage={zero_stage}"]
            config = load(settings, shared + words)
            run = Run(config.run_dir, base=Run(undisturbed), shared=SHARED)
            session.kept.start(kept_team(run, config, session))
            for stage in (SELECT, TRAIN, EVALUATE):
                stage.run(run, config, session)
    for name in ("policy/adapter/adapter_model.safetensors", "ranks.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (undisturbed / name).read_bytes()
