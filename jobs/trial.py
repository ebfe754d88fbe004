"""One trial of a sweep: select, train and evaluate in a folder of its own, inside Ray Tune."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from jobs.evaluate import evaluate
from jobs.select import select
from jobs.session import Session
from jobs.train import in_thread, read_log, spent, train, training_steps
from minirec.artifacts import Run, read_json, read_table
from minirec.config import Config
from minirec.sweep import Trial

METRIC = "valid_ndcg@10"
PROGRESS = "progress"
POLL_S = 0.5


def run_trial(params: dict[str, str], *, trials: dict[str, Trial], base: str) -> None:
    """Function trainable; Tune ends it within `tune.report` when ASHA stops the trial.

    Args:
        params: ``name`` of the trial.
        trials: by name.
        base: run directory with the features.
    """
    config = trials[params["name"]].config
    run = Run(config.run_dir, base=Run(base))

    def stages() -> None:
        select(run, config, session)
        train(run, config, session)
        evaluate(run, config, session, splits=("valid",))

    reported: set[float] = set()

    def report() -> None:
        for entry in reports(run, config):
            if entry[PROGRESS] not in reported:
                reported.add(entry[PROGRESS])
                tune.report(entry)

    with Session(config) as session:
        in_thread(stages, meanwhile=report, every_s=POLL_S)
    found = read_json(run.path("evaluation.json"))["policies"]["trained"]["valid"]["ndcg@10"]
    tune.report({PROGRESS: 1.0, METRIC: found["mean"], "finished": True})


def reports(run: Run, config: Config) -> list[dict[str, Any]]:
    """What a trial says to Tune of each validation but the last, which `evaluate` repeats in full.

    Its progress is a share of its steps, of which a smaller budget may have fewer.
    """
    log = read_log(run.path("policy", "log.jsonl"))
    if not any(METRIC in entry for entry in log):
        return []
    steps = training_steps(config.training, read_table(run.path("selection.parquet")).num_rows)
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

    def __init__(self, trials: dict[str, Trial], base: str, **settings: Any):
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
            for entry in reports(Run(config.run_dir, base=Run(self.base)), config):
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
