"""`minirec sweep`: trials over budgets and settings that share one scoring (Ray Tune)."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.console import console, pulse, say
from jobs.gradients import gradient_inputs
from jobs.plan import check
from jobs.run import holding, stages
from jobs.session import Session
from jobs.sweep_plan import trials_of
from jobs.sweep_result import publish, read_rows, rows_of, write_rows
from jobs.train import in_thread, rollout_settings, without_runtime
from minirec.allocation import Node, allocate
from minirec.artifacts import Cost, Run, read_json, remove
from minirec.config import Config
from minirec.errors import EngineError
from minirec.sweep import Trial

if TYPE_CHECKING:
    from ray.tune import ResultGrid, Tuner

SHARED = ("prepare", "proxy", "score")
STATE = ("trials", "tune")  # of Tune, until the sweep has finished; it goes with the trials
TUNE_SETTINGS = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # its state is saved each second
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials have logs of their own
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints a table even when told to be quiet
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative model.name is below the directory of the command
}


def sweep(config: Config, *, overwrite: bool = False) -> Run:
    """Features once, then every trial; writes sweep.parquet, sweep.html and best.yaml.

    Raises:
        ConfigError: nothing to vary, or a value that is refused.
        ArtifactError: the directory holds a sweep with other settings.
        EngineError: trials failed; the others are finished, and the result is written.
    """
    trials_of(config, 1)  # refuses before anything starts
    stages(config, SHARED, overwrite=overwrite)
    run = Run(config.run_dir, overwrite=overwrite, say=say)
    samples = int(read_json(run.path("corpus", "corpus.json"))["samples"]["train"])
    planned = trials_of(config, samples)
    for trial in planned:
        check(trial.config, samples)

    def body(cost: Cost) -> None:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # causes stand in the table
        for name, value in TUNE_SETTINGS.items():
            os.environ.setdefault(name, value)
        with Session(config, trials=concurrent(config, {})) as session:
            session.start_ray()
            results = _tune(run, config, planned)
            rows = rows_of(results, planned, run, samples=samples)
        write_rows(run, config, planned, rows)
        cost.rollouts = sum(row["own_rollouts"] for row in rows)
        cost.optimizer_steps = sum(row["steps"] for row in rows)
        failed = [row["trial"] for row in rows if row["status"] == "failed"]
        if failed:
            publish(run, config, planned, rows)
            raise EngineError(
                f"{len(failed)} of {len(rows)} trials failed, for the causes in the table; the "
                f"same command tries them again"
            )
        # A later start, after damage to a trial, must not take that trial as finished.
        remove(run.path(*STATE))

    with holding(run), pulse("sweep"):
        ran = run.stage(
            "sweep",
            settings=_settings(config),
            inputs=["prepare", "proxy", "score", *gradient_inputs(config)],
            outputs=["trials", "sweep.parquet"],
            body=body,
            part_of=trial_of,
        )
        # Also where nothing ran: the tolerance may be another.
        publish(run, config, planned, read_rows(run), again=not ran)
    return run


def trial_of(path: str) -> str:
    """The folder of the trial that a file belongs to, or the file itself; below the run."""
    return "/".join(path.split("/")[:2])


def _settings(config: Config) -> dict[str, Any]:
    """What the trials depend on; not how many work at a time, nor what is made of them."""
    return {
        "seed": config.seed,
        "sweep": config.sweep.model_dump(mode="json", exclude={"max_concurrent", "tolerance"}),
        "selection": config.selection.model_dump(mode="json", exclude={"shards"}),
        "training": without_runtime(config.training.model_dump(mode="json")),
        "reward": config.reward.model_dump(mode="json"),
        "rollout": rollout_settings(config),
        "evaluation": {"bootstrap": config.evaluation.bootstrap},
    }


def concurrent(config: Config, resources: dict[str, float]) -> int:
    """Trials at a time: each has engines, and training workers or scorers beside them.

    Args:
        config: of the sweep; where its resources are ``auto``, a trial has one of each.
        resources: that are free in the cluster; without CPUs: the cores of this machine.
    """
    if config.sweep.max_concurrent != "auto":
        return config.sweep.max_concurrent
    there = {"CPU": float(os.cpu_count() or 1), "GPU": 0.0} | resources
    part = allocate(config, [Node("a trial", 0, min(2.0, there["GPU"]))], local=False)
    fit = []
    for kind in ("CPU", "GPU"):
        bundles = [part.bundles(stage, engines=part.engines) for stage in ("train", "score")]
        need = max(sum(bundle.get(kind, 0.0) for bundle in stage) for stage in bundles)
        if need:
            fit.append(int(there[kind] // need))
    return max(1, min(fit))


def _tune(run: Run, config: Config, planned: list[Trial]) -> ResultGrid:
    """Run or go on with the trials; returns when each has finished, was stopped or failed."""
    import ray

    free = ray.available_resources()
    if not os.environ.get("RAY_ADDRESS"):
        free.pop("CPU", 0)  # slots, of which a local Ray is told more than there are cores
    elif "CPU" not in free:
        free["CPU"] = 0.0  # Ray leaves out what is used up
    tuner = _tuner(run, config, planned, at_a_time=concurrent(config, free))
    found: list[ResultGrid] = []
    in_thread(lambda: found.append(tuner.fit()))
    return found[0]


def _tuner(run: Run, config: Config, planned: list[Trial], *, at_a_time: int) -> Tuner:
    from ray import tune

    from jobs.sweep_lines import Lines
    from jobs.sweep_trial import METRIC, PROGRESS, Asha, TrialRun

    by_name = {trial.name: trial for trial in planned}
    asha = config.sweep.asha
    # A trial itself needs no CPU: its engines and workers do, and on two CPUs they need both.
    bundle = tune.PlacementGroupFactory([{"memory": 1 << 20}])
    trainable = tune.with_resources(
        tune.with_parameters(
            TrialRun,
            trials=by_name,
            base=str(run.root),
            on_cluster=bool(os.environ.get("RAY_ADDRESS")),
        ),
        bundle,
    )
    state = run.path(*STATE)
    if _restorable(state):
        console.print("sweep: goes on with the trials that are not finished")
        return tune.Tuner.restore(str(state), trainable=trainable, resume_unfinished=True)
    remove(state)
    scheduler = asha and Asha(
        by_name,
        str(run.root),
        time_attr=PROGRESS,
        max_t=1.0,
        grace_period=asha.grace_fraction,
        reduction_factor=asha.reduction_factor,
        stop_last_trials=False,
    )
    return tune.Tuner(
        trainable,
        param_space={"name": tune.grid_search(list(by_name))},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            scheduler=scheduler,
            max_concurrent_trials=at_a_time,
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Lines(len(planned))],
        ),
    )


def _restorable(state: Path) -> bool:
    """Whether Tune's state can be gone on with; it writes its files in place, so one may be cut.

    Not with a failed trial: one that is tried again does not count among the trials at a time, and
    two on the CPUs of one wait for each other. A new start over the same folders takes what is
    finished there.
    """
    newest = max(state.glob("experiment_state-*.json"), default=None)
    if newest is None or not (state / "tuner.pkl").exists():
        return False
    try:
        found = json.loads(newest.read_text())["trial_data"]
        return all(json.loads(trial)["status"] != "ERROR" for trial, _ in found)
    except ValueError:
        return False
