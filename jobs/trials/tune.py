"""Run the trials of a bench in Ray Tune. Each selects, trains and evaluates in its own folder.

The folders hold all results, so Tune's own state is deleted. A restarted command gives all trials
to Tune again, and trials that have ended only repeat their reports to ASHA.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import ray
from ray import tune

from jobs.cluster.joining import cluster_address
from jobs.cluster.session import Session
from jobs.cluster.workers import in_thread, ray_storage
from jobs.console import console, say
from jobs.trials.result import drop_damaged, ended
from jobs.trials.shared import own
from jobs.trials.trial import METRIC, PROGRESS, Asha, TrialRun
from minirec.config.run import Config
from minirec.config.trials import AshaConfig
from minirec.resources.allocation import Node, allocate
from minirec.store.files import remove
from minirec.store.run import Run
from minirec.trials.trial import Trial

Limit = int | Literal["auto"]
STATE = "tune"  # folder of Tune's state, beside the folders of the trials
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials write their own logs
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing reads Tune's state
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table even with verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # model.name may be relative to the current directory
}


def run_trials(
    run: Run,
    config: Config,
    planned: Sequence[Trial],
    *,
    folder: str,
    limit: Limit,
    splits: Sequence[str],
    asha: AshaConfig | None = None,
) -> dict[str, BaseException]:
    """Run the trials that have not ended; return the errors of failed trials by name.

    Args:
        run: holds the features that the trials share.
        folder: below the run; holds the folders of the trials.
        limit: number of trials that run at the same time; auto: as many as fit.
        splits: ranked at the end of a trial; valid is one of them.
        asha: None: no trial is stopped early.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table shows the causes
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    drop_damaged(run, planned)
    before = {trial.name for trial in planned if ended(own(run, trial))}
    if any(own(run, trial).root.exists() for trial in planned):
        console.print("continuing with the trials that have not finished")
    state = run.path(folder, STATE)
    remove(state)
    with Session(config, trials=concurrent(config, {}, limit=limit)) as session:
        session.start_ray()
        free = ray.available_resources()
        if not cluster_address():
            free.pop("CPU", 0)  # a local Ray has more slots than cores
        else:
            free.setdefault("CPU", 0.0)  # Ray omits a resource that is fully used
        tuner = tune.Tuner(
            _trainable(run, planned, splits),
            param_space={"name": tune.grid_search([trial.name for trial in planned])},
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                scheduler=asha and Asha(run, planned, asha),
                max_concurrent_trials=concurrent(config, free, limit=limit),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.config["name"],
            ),
            run_config=tune.RunConfig(
                name=STATE,
                **ray_storage(run.path(folder)),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[Lines(before, len(planned))],
            ),
        )
        found: list[tune.ResultGrid] = []
        in_thread(lambda: found.append(tuner.fit()))
    remove(state)
    # The result of a trial that failed at once has no config, so take the name from the path.
    return {os.path.basename(r.path): r.error for r in found[0] if r.error}


def _trainable(run: Run, planned: Sequence[Trial], splits: Sequence[str]) -> Any:
    """The trainable. It requests no CPU: on two CPUs, engine and worker need both."""
    with_trials = tune.with_parameters(
        TrialRun,
        trials={trial.name: trial for trial in planned},
        base=str(run.root),
        on_cluster=bool(cluster_address()),
        splits=splits,
    )
    return tune.with_resources(with_trials, tune.PlacementGroupFactory([{"memory": 1 << 20}]))


def concurrent(config: Config, resources: dict[str, float], *, limit: Limit) -> int:
    """Number of trials that run at the same time: `limit`, or for auto as many as fit.

    Args:
        config: of all trials; with ``auto`` resources, a trial has one engine and one worker.
        resources: free resources of the cluster. Without CPU, the cores of this machine count.
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


class Lines(tune.Callback):
    """Prints a line for each trial that ends in this command."""

    def __init__(self, before: set[str], trials: int):
        """`before`: names of the trials that ended in earlier commands."""
        self.before, self.trials = before, trials
        self.ended = set(before)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result
        how = f"stopped at {last.get(PROGRESS, 0):.0%} of its steps"
        self._say(trial, "finished" if last.get("finished") else how, last)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(trial, "failed", trial.last_result or {})

    def _say(self, trial: Any, how: str, last: dict[str, Any]) -> None:
        name = trial.config["name"]
        if name not in self.before:
            self.ended.add(name)
            quality = f", validation NDCG@10 {last[METRIC]:.4f}" if METRIC in last else ""
            say(f"  {len(self.ended)}/{self.trials} {name}: {how}{quality}")
