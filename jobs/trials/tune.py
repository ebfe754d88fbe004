"""Trials in Ray Tune: each selects, trains and evaluates in a folder of its own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray.tune import Callback

from jobs.cluster.joining import cluster_address
from jobs.cluster.session import Session
from jobs.cluster.workers import in_thread, ray_storage
from jobs.console import console, say
from jobs.trials.trial import METRIC, PROGRESS
from minirec.config.run import Config
from minirec.config.trials import AshaConfig
from minirec.errors import ArtifactError
from minirec.resources.allocation import Node, allocate
from minirec.store.files import read_json, remove, write_json
from minirec.store.remote import is_remote
from minirec.store.run import Run
from minirec.trials.sweep import Trial

if TYPE_CHECKING:
    from ray.tune import ResultGrid, Tuner

Limit = int | Literal["auto"]
STATE = "tune"  # folder of Tune's state beside the trials, until all have finished
PLANNED = "planned.json"  # the trials that this state is about, and how many at a time
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials have logs of their own
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints a table even when told to be quiet
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative model.name is below the directory of the command
}


def run_trials(
    run: Run,
    config: Config,
    planned: Sequence[Trial],
    *,
    limit: Limit,
    folder: str = "trials",
    asha: AshaConfig | None = None,
    splits: Sequence[str] = ("valid",),
) -> ResultGrid:
    """Run or go on with the trials; returns when each has finished, was stopped or failed.

    Args:
        run: with the features that they share.
        config: of all trials.
        planned: the trials.
        limit: trials at a time; auto: as many as there is room for.
        folder: below the run, in which each trial has one of its name.
        asha: None: no trial is stopped early.
        splits: that are ranked at the end of a trial, valid among them.
    """
    import ray

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # causes stand in the table
    # How often its state is saved; of an object store, each request is paid for.
    every_s = {"TUNE_GLOBAL_CHECKPOINT_S": "10" if is_remote(run.root) else "1"}
    for name, value in (TUNE_SETTINGS | every_s).items():
        os.environ.setdefault(name, value)
    with Session(config, trials=concurrent(config, {}, limit=limit)) as session:
        session.start_ray()
        free = ray.available_resources()
        if not cluster_address():
            free.pop("CPU", 0)  # slots, of which a local Ray is told more than there are cores
        elif "CPU" not in free:
            free["CPU"] = 0.0  # Ray leaves out what is used up
        at_a_time = concurrent(config, free, limit=limit)
        tuner = _tuner(
            run,
            planned,
            state=run.path(folder, STATE),
            at_a_time=at_a_time,
            limit=limit,
            asha=asha,
            splits=splits,
        )
        found: list[ResultGrid] = []
        in_thread(lambda: found.append(tuner.fit()))
    return found[0]


def forget(run: Run, folder: str = "trials") -> None:
    """Delete Tune's state: a later start must not take a trial that was damaged as finished."""
    remove(run.path(folder, STATE))


def concurrent(config: Config, resources: dict[str, float], *, limit: Limit) -> int:
    """Trials at a time: each has engines, and training workers or scorers beside them.

    Args:
        config: of all trials; where its resources are ``auto``, a trial has one of each.
        resources: that are free in the cluster; without CPUs: the cores of this machine.
        limit: a number is taken as it is.
    """
    if limit != "auto":
        return limit
    there = {"CPU": float(os.cpu_count() or 1), "GPU": 0.0} | resources
    part = allocate(config, [Node("a trial", 0, min(2.0, there["GPU"]))], local=False)
    fit = []
    for kind in ("CPU", "GPU"):
        bundles = [part.bundles(stage, engines=part.engines) for stage in ("train", "score")]
        need = max(sum(bundle.get(kind, 0.0) for bundle in stage) for stage in bundles)
        if need:
            fit.append(int(there[kind] // need))
    return max(1, min(fit))


def _tuner(
    run: Run,
    planned: Sequence[Trial],
    *,
    state: Path,
    at_a_time: int,
    limit: Limit,
    asha: AshaConfig | None,
    splits: Sequence[str],
) -> Tuner:
    from ray import tune

    from jobs.trials.trial import METRIC, PROGRESS, Asha, TrialRun

    by_name = {trial.name: trial for trial in planned}
    # A trial itself needs no CPU: its engines and workers do, and on two CPUs they need both.
    bundle = tune.PlacementGroupFactory([{"memory": 1 << 20}])
    trainable = tune.with_resources(
        tune.with_parameters(
            TrialRun,
            trials=by_name,
            base=str(run.root),
            on_cluster=bool(cluster_address()),
            splits=splits,
        ),
        bundle,
    )
    plan: dict[str, Any] = {"trials": list(by_name)}
    if asha is None:  # which would meet the trials that it has stopped as new ones
        plan["limit"] = limit
    if _restorable(state, plan):
        console.print("goes on with the trials that are not finished")
        there = ray_storage(state)
        return tune.Tuner.restore(
            there.pop("storage_path"), trainable=trainable, resume_unfinished=True, **there
        )
    remove(state)
    write_json(state / PLANNED, plan)
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
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name=state.name,
            **ray_storage(state.parent),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Lines(len(planned))],
        ),
    )


def _restorable(state: Path, plan: dict[str, Any]) -> bool:
    """Whether Tune's state can be gone on with; it writes its files in place, so one may be cut.

    Not where the plan was another: Tune goes on with the trials that it knows, as many at a time.
    Not with a failed trial: one that is tried again does not count among the trials at a time, and
    two on the CPUs of one wait for each other. A new start over the same folders takes what is
    finished there.
    """
    newest = max(state.glob("experiment_state-*.json"), default=None)
    if newest is None or not (state / "tuner.pkl").exists():
        return False
    try:
        if read_json(state / PLANNED) != plan:
            return False
        found = json.loads(newest.read_text())["trial_data"]
        return all(json.loads(trial)["status"] != "ERROR" for trial, _ in found)
    except (ValueError, ArtifactError):
        return False


class Lines(Callback):
    """Tune calls it in the driver. It is saved with the sweep, so that a restored one counts on."""

    def __init__(self, trials: int):
        self.trials = trials
        self.ended: set[str] = set()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has finished, or ASHA has stopped it."""
        last = trial.last_result
        how = f"stopped at {last.get(PROGRESS, 0):.0%} of its steps"
        self._say(trial, "finished" if last.get("finished") else how, last)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has failed."""
        self._say(trial, "failed", trial.last_result or {})

    def _say(self, trial: Any, how: str, last: dict[str, Any]) -> None:
        name = trial.config["name"]
        self.ended.add(name)
        quality = f", validation NDCG@10 {last[METRIC]:.4f}" if METRIC in last else ""
        say(f"  {len(self.ended)}/{self.trials} {name}: {how}{quality}")

    def get_state(self) -> dict[str, Any]:
        """For Tune's checkpoint."""
        return {"ended": self.ended}

    def set_state(self, state: dict[str, Any]) -> None:
        """From Tune's checkpoint."""
        self.ended = state["ended"]
