"""One trial of a sweep: select, train and evaluate in a folder of its own, inside Ray Tune."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import DONE
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from actors.training.loop import STOP
from actors.training.validation import METRIC
from jobs.cluster.session import Session
from jobs.run import SHARED
from jobs.stage import base_model
from jobs.stages.evaluate import evaluation
from jobs.stages.select import SELECT
from jobs.stages.train import TRAIN
from jobs.training_log import poll_s, read_log, spent
from minirec.config.run import Config
from minirec.store.files import read_json
from minirec.store.run import Run
from minirec.store.tables import read_table
from minirec.trials.sweep import Trial

PROGRESS = "progress"


class TrialRun(tune.Trainable):
    """Trainable whose steps are the validations of the training, and the evaluation at its end.

    Tune gives it one trial after the other; engines and the training worker stay up between them.

    It is not a function, because Tune does not wait for a function that it stops. When the process
    of a function ends, Ray Train leaves the workers' placement group to a helper, which does not
    find its cluster if several run on a machine. The next trial would lack those CPUs.
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
        config: ``name`` of the trial.
        trials: by name.
        base: run directory with the features.
        on_cluster: not in a Ray of this command's own, which has room for its trials.
        splits: that are ranked at the end, valid among them.
        """
        self.trials, self.base, self.splits = trials, Run(base), splits
        self.on_cluster = on_cluster
        self.session: Session | None = None
        self._begin(config["name"])

    def reset_config(self, new_config: dict[str, str]) -> bool:
        """Go on with another trial, after one that has finished or was stopped."""
        self._end()
        if self.thread.is_alive():  # hangs in an engine or a worker
            self._close()
        self._begin(new_config["name"])
        return True

    def _begin(self, name: str) -> None:
        self.settings = self.trials[name].config
        self.session = self.session or Session(self.settings, on_cluster=self.on_cluster)
        self.run = Run(self.settings.run_dir, base=self.base, shared=SHARED)
        self.stop_file = self.run.path("policy", STOP)
        self.stop_file.unlink(missing_ok=True)
        self.reported: set[float] = set()
        self.error: BaseException | None = None
        work = (self.run, self.settings, self.session)
        self.thread = threading.Thread(target=self._stages, args=work, daemon=True)
        self.thread.start()

    def step(self) -> dict[str, Any]:
        """The next validation, once it is there, or the evaluation."""
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
        found = read_json(self.run.path("evaluation.json"))["policies"]["trained"]["valid"]
        return {PROGRESS: 1.0, METRIC: found["ndcg@10"]["mean"], "finished": True, DONE: True}

    def cleanup(self) -> None:
        """Tune waits for it: the trial ends, then the engines are closed."""
        self._end()
        self._close()

    def _close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def _end(self) -> None:
        """Of a trial that ASHA has stopped, the training ends its workers and their placement
        group before its next step.
        """
        if self.thread.is_alive():
            self.stop_file.parent.mkdir(parents=True, exist_ok=True)
            self.stop_file.touch()
            self.thread.join(self.settings.training.step_deadline_s)

    def _stages(self, run: Run, config: Config, session: Session) -> None:
        try:
            # Engines and the worker start before the first stage, so their start is in no cost.
            session.pool(base_model(run, config), beside="train").probe()
            if not self.on_cluster:  # there, others wait for what a trial holds
                session.keep_worker()
            for stage in (SELECT, TRAIN, evaluation(self.splits)):
                stage.run(run, config, session)
        except BaseException as error:
            if run is self.run:  # not a thread that was given up
                self.error = error


def reports(run: Run, config: Config) -> list[dict[str, Any]]:
    """What a trial says to Tune of each validation but the last, which `evaluate` repeats in full.

    Its progress is a share of its steps, of which a smaller budget may have fewer.
    """
    log = read_log(run.path("policy", "log.jsonl"))
    if not any(METRIC in entry for entry in log):
        return []
    steps = config.training.steps_on(read_table(run.path("selection.parquet")).num_rows)
    return [
        {
            PROGRESS: (entry["step"] + 1) / steps,
            METRIC: entry[METRIC],
            "steps": i + 1,
            "rollouts": spent(log[: i + 1], "rollouts"),
            "seconds": sum(e["seconds"] for e in log[: i + 1]),
        }
        for i, entry in enumerate(log)
        if METRIC in entry and entry["step"] + 1 < steps
    ]


class Asha(FIFOScheduler):
    """Ray's ASHA among the trials of one seed, which differ in nothing but their settings.

    Tune saves trials and searcher, but not the scheduler. So after a restore, what a finished or
    stopped trial reported is taken from its log: then the trials are stopped that an undisturbed
    sweep stops.
    """

    def __init__(self, trials: Mapping[str, Trial], base: str, **settings: Any):
        """`settings` are those of `AsyncHyperBandScheduler`."""
        super().__init__()
        self.trials, self.base = trials, base
        seeds = {trial.config.seed for trial in trials.values()}
        self.by_seed = {seed: AsyncHyperBandScheduler(**settings) for seed in seeds}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Called once, with the metric of the sweep."""
        for asha in self.by_seed.values():
            asha.set_search_properties(metric, mode, **spec)
        return super().set_search_properties(metric, mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Called for each trial of a new or restored sweep."""
        asha = self._of(trial)
        asha.on_trial_add(tune_controller, trial)
        if trial.status == TuneTrial.TERMINATED:
            config = self.trials[trial.config["name"]].config
            run = Run(config.run_dir, base=Run(self.base), shared=SHARED)
            for entry in reports(run, config):
                asha.on_trial_result(tune_controller, trial, entry)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: Any) -> str:
        """Whether the trial goes on."""
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: Any) -> None:
        """The trial has finished or was stopped."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """The trial will not run."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: TuneTrial) -> AsyncHyperBandScheduler:
        return self.by_seed[self.trials[trial.config["name"]].config.seed]
