"""Jobs on a cluster with token authentication: success, a stop, and causes of failures."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from helpers.head import Head, running_head
from helpers.small import steps_logged

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

DEMO = ["--config", "configs/demo.yaml"]
# Makes the demo as small as SETTINGS of `helpers.small`.
SMALLER = [
    *("seed=7", "rollout.engine=transformers", "rollout.max_new_tokens=8"),
    "rollout.prompts_per_call=16",
    "corpus.demo={users: 60, items: 60, tastes: 4}",
    *("model.max_prompt_tokens=128", "model.max_item_tokens=12", "model.lora_rank=8"),
    "model.demo={vocabulary: 500, hidden_size: 64, heads: 2, layers: 1, warmup_steps: 20}",
    *("proxy.samples=64", "proxy.training.steps=8", "proxy.training.prompts_per_step=16"),
    *("proxy.training.prompts_per_micro_batch=16", "proxy.training.checkpoint_steps=2"),
    *("model.prior=none", "scoring.policy=proxy", "scoring.screen=null", "sasrec.epochs=0"),
    *("training.start=base", "training.validation_steps=null", "training.patience=null"),
    *("scoring.shard_size=16", "scoring.rollouts=2", "selection.mode=static"),
    *("training.steps=8", "training.prompts_per_step=16"),
    *("training.prompts_per_micro_batch=8", "training.checkpoint_steps=2"),
    "evaluation.bootstrap=50",
    # The head of this test reports more CPUs than the machine has.
    *("resources.engines=1", "resources.scorers=1", "resources.training_workers=1"),
]
OF_A_RUN = (":EngineActor", "RayTrain", "TrainController", "Scorer", "jobs.cli", "bin/minirec")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with running_head(tmp_path_factory.mktemp("head")) as running:
        yield running


@pytest.fixture(scope="module")
def finished(head, tmp_path_factory):
    """Directory of a run that a job has finished, and the job's log."""
    run_dir = tmp_path_factory.mktemp("jobs") / "run"
    job = head.submit("run", *DEMO, *SMALLER, f"run_dir={run_dir}")
    ended(head, job, "SUCCEEDED", within=400)
    return run_dir, head.log(job)


def ended(head: Head, job: str, status: str, *, within: float) -> None:
    wait_for(lambda: head.status(job) not in ("PENDING", "RUNNING"), within, f"the end of {job}")
    assert head.status(job) == status, head.log(job)[-3000:]


def wait_for(condition, within: float, what: str) -> float:
    """Seconds until the condition holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + within, f"waited {within} s for {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def test_a_job_finishes_and_its_log_shows_progress(head, finished):
    run_dir, log = finished
    assert (run_dir / "report.html").exists()
    for shown in ("prepare: demo items", "proxy: 8/8", "score: 20/20 shards", "Quality"):
        assert shown in log
    assert head.placement_groups() == []


@pytest.mark.long
def test_a_stopped_job_leaves_nothing(head, finished, tmp_path):
    """Once in `score`, once in `train`."""
    run_dir = tmp_path / "run"
    moments = {
        "score": lambda: len(list((run_dir / "features").glob("part-*.parquet"))) >= 2,
        "train": lambda: steps_logged(run_dir, "policy") >= 2,
    }
    for stage, reached in moments.items():
        job = head.submit("run", *DEMO, *SMALLER, "training.steps=500", f"run_dir={run_dir}")
        wait_for(lambda: reached() or head.status(job) == "FAILED", 300, f"the middle of {stage}")  # noqa: B023
        assert head.processes(":EngineActor")
        assert stage == "score" or head.placement_groups(), (
            "the training workers have a placement group"
        )
        started = time.monotonic()
        head.stop(job)
        wait_for(lambda: nothing_left(head), 30, f"the end of all processes of {stage}")
        seconds = time.monotonic() - started
        print(f"stopped in {stage}: nothing left after {seconds:.1f} s")
        ended(head, job, "STOPPED", within=30)


def nothing_left(head: Head) -> bool:
    return not head.processes(*OF_A_RUN) and not head.placement_groups()


@pytest.mark.long
def test_a_driver_killed_outright_leaves_nothing(head, finished, tmp_path):
    run_dir = tmp_path / "run"
    job = head.submit("run", *DEMO, *SMALLER, f"run_dir={run_dir}", "proxy.training.steps=500")
    wait_for(lambda: steps_logged(run_dir, "proxy") >= 2, 300, "the second step of the proxy")
    assert head.processes("RayTrain") and head.placement_groups()
    for process in head.processes("bin/minirec"):
        process.kill()
    seconds = wait_for(lambda: nothing_left(head), 30, "the end of all processes")
    print(f"driver killed: nothing left after {seconds:.1f} s")
    ended(head, job, "FAILED", within=30)


@pytest.mark.long
def test_the_log_names_the_cause_from_the_worker(head, finished, tmp_path):
    def failing(name: str, *words: str, kill: str = "") -> str:
        run_dir = tmp_path / name
        once = ["proxy.training.max_failures=0", "rollout.max_restarts=0"]
        job = head.submit("run", *DEMO, *SMALLER, *once, f"run_dir={run_dir}", *words)
        if kill:
            wait_for(lambda: steps_logged(run_dir, "proxy") >= 2, 300, "the second step")
            for process in head.processes(kill):
                process.kill()
        ended(head, job, "FAILED", within=200)
        return head.log(job).strip().splitlines()[-1]

    reward = failing("reward", "reward.name=broken.reward:everywhere")
    assert "a training worker failed" in reward and "ConfigError: reward.name=" in reward
    model = tmp_path / "model"
    model.mkdir()
    for file in (finished[0] / "model").iterdir():
        if file.suffix != ".safetensors" and file.name != "manifest.json":
            (model / file.name).write_bytes(file.read_bytes())
    assert "no file named model.safetensors" in failing("engine", f"model.name={model}")
    killed = failing("killed", "proxy.training.steps=500", kill=":EngineActor")
    assert re.search(r"engine 1 of 1 \(transformers\) died (at|between) ", killed), killed
    assert "was killed or crashed" in killed
    worker = failing("worker", "proxy.training.steps=500", kill="RayTrainWorker")
    assert "a training worker failed" in worker and "was killed or crashed" in worker
    job = head.submit("run", *DEMO)  # `ray job submit` does not refuse a relative run_dir
    ended(head, job, "FAILED", within=60)
    assert "run_dir=runs/demo is relative" in head.log(job)


def test_submit_follows_a_stage_and_reads_its_status(head, finished):
    run_dir, _ = finished
    minirec = ["minirec", "submit", "--address", head.url]
    printed = head.command(*minirec, "--follow", "--", "report", f"run_dir={run_dir}")
    job = printed.split()[1].rstrip(":")
    assert "report" in printed
    assert head.command(*minirec, "--status", job).strip() == "SUCCEEDED"
    assert "report" in head.command(*minirec, "--logs", job)
    assert "SUCCEEDED" in head.command(*minirec, "--stop", job)  # it has ended already


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {'0' * 64}"}])
def test_requests_without_the_token_are_refused(head, headers):
    """The request is direct, because Ray's own client sends none without a token."""
    request = urllib.request.Request(f"{head.url}/api/jobs/", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code in (401, 403)


def test_a_process_without_its_parent_is_found(head):
    """`head.processes` finds a process that a stopped job would leave behind."""
    orphan = f"{shlex.quote(sys.executable)} -c 'import time; time.sleep(60)' left-behind &"
    subprocess.run(["sh", "-c", orphan], env=head.environment, check=True)
    (found,) = head.processes("left-behind")
    found.kill()
