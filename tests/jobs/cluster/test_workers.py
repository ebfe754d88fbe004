"""The kept training worker: one process for many loops, with deaths and failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from jobs.cluster.session import Session
from jobs.cluster.workers import KeptWorker
from jobs.run import SHARED
from jobs.stages.evaluate import EVALUATE
from jobs.stages.select import SELECT
from jobs.stages.train import TRAIN
from minirec.config.reading import load
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
    worker = KeptWorker(Shape(cpus=1, gpus=0), wait_s=120)
    yield worker
    worker.close()


def signing(folder: Path, *, fails: int = 0, dies: int = 0):
    """A loop that writes a file for each attempt; the first `fails` raise, the first `dies` die."""

    def loop(argument):  # nested, so that Ray pickles it by value
        import torch.distributed as dist

        folder.mkdir(parents=True, exist_ok=True)
        attempt = len(list(folder.iterdir())) + 1
        (folder / f"{attempt}-{os.getpid()}").write_text(argument)
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        if attempt <= fails:
            raise ValueError("wrong argument")
        if attempt <= dies:
            os._exit(1)

    return loop


def processes(folder: Path) -> list[str]:
    return [path.name.split("-")[1] for path in sorted(folder.iterdir())]


@pytest.mark.long
def test_one_process_does_all_loops_until_it_dies(kept, tmp_path):
    for piece in ("a", "b", "c", "d"):
        kept.run(signing(tmp_path / piece, dies=piece == "c"), piece, max_failures=1, limit="")
    (first,), (second,), (third, again), (last,) = (processes(tmp_path / p) for p in "abcd")
    assert first == second == third
    assert again == last != first
    assert [path.read_text() for path in (tmp_path / "c").iterdir()] == ["c", "c"]
    kept.run(signing(tmp_path / "e", fails=1), "e", max_failures=1, limit="")
    failed, other = processes(tmp_path / "e")  # the earlier death does not count for this loop
    assert failed == last != other


@pytest.mark.long
def test_a_failure_names_its_cause_and_the_next_loop_has_a_worker(kept, tmp_path):
    once = {"max_failures": 0, "limit": "it takes long"}
    with pytest.raises(EngineError, match="ValueError: wrong argument; the same .* it takes long"):
        kept.run(signing(tmp_path / "a", fails=1), "a", **once)
    with pytest.raises(EngineError, match="killed or crashed without an error message"):
        kept.run(signing(tmp_path / "b", dies=1), "b", **once)
    kept.run(signing(tmp_path / "c"), "c", **once)
    assert len({process for piece in "abc" for process in processes(tmp_path / piece)}) == 3


def test_a_worker_without_room():
    with pytest.raises(EngineError, match=r"did not start within 1 s \(resources.wait_s\)"):
        KeptWorker(Shape(cpus=64, gpus=0), wait_s=1)


@pytest.mark.parametrize("kept", [True, False])
def test_a_training_gives_the_bytes_of_a_run(undisturbed, tmp_path, kept):
    """The run kept its worker. This training uses the second loop of another, or Ray Train."""
    settings = undisturbed.parent / "small.yaml"
    shared = [f"run_dir={undisturbed}", "rollout.engine=transformers", "sasrec.epochs=0"]
    with Session(load(settings, shared)) as session:
        if kept:
            session.keep_worker()
        assert (session.kept is not None) == kept
        for name, words in [("other", ["training.steps=2"])] * kept + [("same", [])]:
            config = load(settings, [*shared, f"run_dir={tmp_path / name}", *words])
            run = Run(config.run_dir, base=Run(undisturbed), shared=SHARED)
            for stage in (SELECT, TRAIN, EVALUATE):
                stage.run(run, config, session)
    ranks = "evaluation/trained-test/part-000000.parquet"
    for name in ("policy/adapter/adapter_model.safetensors", ranks):
        assert (tmp_path / "same" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_the_stages_of_a_command_share_a_worker_until_scorers_need_its_room():
    with Session(load(None, []), keeps_worker=True) as session:
        first = session.worker()
        assert first is not None and session.worker() is first
        session.make_room("score")
        assert session.worker() is first, "one scorer fits beside it"
    with Session(load(None, ["resources.scorers=2"]), keeps_worker=True) as session:
        assert session.worker() is not None
        session.make_room("score")
        assert session.kept is None
        assert session.worker() is not None, "the next training starts one again"
    with Session(load(None, [])) as session:
        assert session.worker() is None


@pytest.mark.parametrize("words", [["resources.zero_stage=3"], ["resources.training_workers=2"]])
def test_no_worker_is_kept_with_zero_3_or_several_workers(words):
    with Session(load(None, words)) as session:
        session.keep_worker()
        assert session.kept is None
