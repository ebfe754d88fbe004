"""One trial inside Ray Tune: select, train and evaluate in its own folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import DONE
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from actors.training.loop import STOP
from actors.training.validation import METRIC
from jobs.cluster.session import Session
from jobs.stage import base_model
from jobs.stages.evaluate import evaluation
from jobs.stages.select import SELECT, UNSCORED
from jobs.stages.train import TRAIN
from jobs.training_log import poll_s, read_log
from jobs.trials.result import STOPPED, ended
from jobs.trials.shared import engines_of, own
from minirec.config.run import Config
from minirec.config.trials import AshaConfig
from minirec.store.files import read_json, write_json
from minirec.store.run import Run
from minirec.store.tables import read_table
from minirec.trials.trial import Trial

PROGRESS = "progress"


class TrialRun(tune.Trainable):
    """Trainable whose steps are the validations of a training and the final evaluation.

    Tune runs several trials in it, one after the other. Engines and the training worker stay up
    while their settings stay the same.

    It is a class, because Tune does not wait for a function that it stops. When the process of a
    function ends, a helper of Ray Train removes the workers' placement group. With several clusters
    on a machine the helper does not find its cluster, and the next trial would lack these CPUs.
    """

    def setup(
        self,
        config: dict[str, str],
        *,
        trials: Mapping[str, Trial],
        base: str,
        on_cluster: bool,
        splits: Sequence[str],
    ) -> None:
        """Args:
        config: holds the ``name`` of the trial.
        trials: by name.
        base: run directory with the features.
        on_cluster: the trials run in an existing cluster, which other commands may share.
        splits: ranked at the end; valid is one of them.
        """
        self.trials, self.base, self.splits = trials, Run(base), splits
        self.on_cluster = on_cluster
        self.session: Session | None = None
        self.settings: Config
        self._begin(config["name"])

    def reset_config(self, new_config: dict[str, str]) -> bool:
        """Start another trial, after one has finished or was stopped."""
        self._end()
        if self.thread.is_alive():  # an engine or a worker hangs
            self._close()
        self._begin(new_config["name"])
        return True

    def _begin(self, name: str) -> None:
        trial = self.trials[name]
        if self.session and engines_of(trial.config) != engines_of(self.settings):
            self._close()
        self.settings = trial.config
        self.select = UNSCORED if trial.variant and trial.free else SELECT
        self.run = own(self.base, trial)
        self.stop_file = self.run.path("policy", STOP)
        self.reported: set[float] = set()
        self.error: BaseException | None = None
        if ended(self.run):
            self.thread = threading.Thread()  # never started, because all reports are in files
            return
        self.session = self.session or Session(self.settings, on_cluster=self.on_cluster)
        self.stop_file.unlink(missing_ok=True)
        work = (self.run, self.settings, self.session)
        self.thread = threading.Thread(target=self._stages, args=work, daemon=True)
        self.thread.start()

    def step(self) -> dict[str, Any]:
        """Wait for the next validation or the evaluation, and report it."""
        while True:
            alive = self.thread.is_alive()
            for entry in reports(self.run, self.settings):
                if entry[PROGRESS] not in self.reported:
                    self.reported.add(entry[PROGRESS])
                    return entry
            if not alive:
                break
            self.thread.join(poll_s(self.run.root))
        if self.error is not None:
            raise self.error
        if (stopped := self.run.path(STOPPED)).exists():  # ASHA stopped it in an earlier command
            return read_json(stopped) | {DONE: True}
        found = read_json(self.run.path("evaluation.json"))["policies"]["trained"]["valid"]
        return {PROGRESS: 1.0, METRIC: found["ndcg@10"]["mean"], "finished": True, DONE: True}

    def cleanup(self) -> None:
        """End the trial, then close the engines. Tune waits for this."""
        self._end()
        self._close()

    def _close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def _end(self) -> None:
        """Stop a running trial. Before its next step, the training removes its placement group."""
        if self.thread.is_alive():
            self.stop_file.parent.mkdir(parents=True, exist_ok=True)
            self.stop_file.touch()
            self.thread.join(self.settings.training.step_deadline_s)

    def _stages(self, run: Run, config: Config, session: Session) -> None:
        try:
            # Start engines and worker before the first stage, so that no cost includes the start.
            pool = session.pool(base_model(run, config), beside="train")
            if pool is not None:
                pool.probe()
            if not self.on_cluster:  # a kept worker would block other commands of a cluster
                session.keep_worker()
            for stage in (self.select, TRAIN, evaluation(self.splits)):
                if stage.needed(config):
                    stage.run(run, config, session)
        except BaseException as error:
            if run is self.run:  # otherwise an abandoned thread failed
                self.error = error


def reports(run: Run, config: Config) -> list[dict[str, Any]]:
    """The reports of a trial to Tune: each validation except the last, which `evaluate` repeats.

    Progress is a share of the steps, because a smaller budget may have fewer steps.
    """
    log = read_log(run.path("policy", "log.jsonl"))
    if not any(METRIC in entry for entry in log):
        return []
    steps = config.training.steps
    if steps is None:
        steps = config.training.steps_on(read_table(run.path("selection.parquet")).num_rows)
    return [
        {PROGRESS: (entry["step"] + 1) / steps, METRIC: entry[METRIC], "steps": i + 1}
        for i, entry in enumerate(log)
        if METRIC in entry and entry["step"] + 1 < steps
    ]


class Asha(FIFOScheduler):
    """Ray's ASHA among the trials of each seed, so that it compares only settings.

    A stopped trial gets the file `STOPPED` in its folder. A trial that ended in an earlier command
    is never stopped, but its reports count. So an interrupted sweep makes the same decisions as an
    uninterrupted one.
    """

    def __init__(self, run: Run, planned: Sequence[Trial], settings: AshaConfig):
        super().__init__()
        self.before = {trial.name for trial in planned if ended(own(run, trial))}
        self.folder = {trial.name: trial.config.run_dir for trial in planned}
        self.seed = {trial.name: trial.config.seed for trial in planned}
        self.by_seed = {
            seed: AsyncHyperBandScheduler(
                time_attr=PROGRESS,
                max_t=1.0,
                grace_period=settings.grace_fraction,
                reduction_factor=settings.reduction_factor,
                stop_last_trials=False,
            )
            for seed in set(self.seed.values())
        }

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        for asha in self.by_seed.values():
            asha.set_search_properties(metric, mode, **spec)
        return super().set_search_properties(metric, mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: Any) -> str:
        name = trial.config["name"]
        decision = self._of(trial).on_trial_result(tune_controller, trial, result)
        if name in self.before:
            return TrialScheduler.CONTINUE
        if decision == TrialScheduler.STOP:
            last = {key: result[key] for key in (PROGRESS, METRIC, "steps")}
            write_json(Run(self.folder[name]).path(STOPPED), last)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: Any) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: TuneTrial) -> AsyncHyperBandScheduler:
        return self.by_seed[self.seed[trial.config["name"]]]
