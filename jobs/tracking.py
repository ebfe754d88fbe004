"""Figures of a training on TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

from jobs.console import say
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.store.files import remove
from minirec.store.remote import is_remote
from minirec.store.run import Run, flatten

Entry = dict[str, Any]


class Tracker(Protocol):
    """One place where figures go."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """The figures of an optimizer step."""

    def close(self) -> None:
        """No more will come."""


class Tracking:
    """Sends each entry of a training log once to every tracker."""

    def __init__(self, trackers: list[Tracker]):
        self.trackers = trackers
        self.next_step = 0

    def update(self, log: list[Entry]) -> None:
        """Send what is new in a log, which grows at its end."""
        for entry in log:
            if entry["step"] < self.next_step:
                continue
            figures = {key: float(value) for key, value in entry.items() if key != "step"}
            self.next_step = entry["step"] + 1
            for tracker in [*self.trackers]:
                try:
                    tracker.log(entry["step"], figures)
                except Exception as error:  # of a server, which must not cost a training
                    self.trackers.remove(tracker)
                    say(
                        f"tracking: {type(tracker).__name__} has failed ({error}); its figures end "
                        f"with step {entry['step']}, log.jsonl has all"
                    )


def check(config: Config) -> None:
    """Refuse a tracker whose package is missing.

    Raises:
        ConfigError: it names the package.
    """
    wanted = {"mlflow": config.tracking.mlflow, "wandb": config.tracking.wandb}
    for package, on in wanted.items():
        if on and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"tracking.{package}={on} needs the package {package}; install it with `pip "
                f"install {package}`, or set tracking.{package}=null"
            )


@contextmanager
def tracking(run: Run, config: Config, stage: str) -> Iterator[Tracking]:
    """The trackers of the settings for one stage, closed at the end."""
    c = config.tracking
    with ExitStack() as closing:
        trackers: list[Tracker] = []
        if c.tensorboard and not is_remote(run.root):  # its writer knows local folders only
            trackers.append(TensorBoard(run, stage))
        for name, on, made in (("mlflow", c.mlflow, Mlflow), ("wandb", c.wandb, WeightsAndBiases)):
            if on:
                trackers.append(_started(name, on, partial(made, run, config, stage)))
        for tracker in trackers:
            closing.callback(_closed, tracker)
        yield Tracking(trackers)


def _closed(tracker: Tracker) -> None:
    try:
        tracker.close()
    except Exception as error:  # as in `Tracking.update`
        say(f"tracking: {type(tracker).__name__} could not be closed ({error})")


def _started(name: str, value: str, make: Callable[[], Tracker]) -> Tracker:
    """A tracker, or one sentence why there is none before hours are spent."""
    try:
        return make()
    except Exception as error:
        raise ConfigError(
            f"tracking.{name}={value} cannot be used ({error}); mend it, or set "
            f"tracking.{name}=null"
        ) from error


class TensorBoard:
    """Event files below ``tensorboard/STAGE`` of the run directory."""

    def __init__(self, run: Run, stage: str):
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path("tensorboard", stage)
        remove(folder)  # what a former attempt wrote is in the log of this one again
        self.writer = SummaryWriter(str(folder), flush_secs=10)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self.writer.close()


class Mlflow:
    """A run of MLflow for each attempt at a stage."""

    def __init__(self, run: Run, config: Config, stage: str):
        from mlflow import MlflowClient

        self.client = MlflowClient(config.tracking.mlflow)
        name = config.tracking.project
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        made = self.client.create_run(experiment, run_name=f"{run.root.name}/{stage}")
        self.id = made.info.run_id
        for key, value in flatten(config.model_dump(mode="json")).items():
            self.client.log_param(self.id, key, value)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # A name may hold no @.
        rows = [Metric(k.replace("@", "_at_"), v, now, step) for k, v in figures.items()]
        self.client.log_batch(self.id, metrics=rows)

    def close(self) -> None:
        """See `Tracker`."""
        self.client.set_terminated(self.id)


class WeightsAndBiases:
    """A run of Weights & Biases for each attempt at a stage."""

    def __init__(self, run: Run, config: Config, stage: str):
        import wandb

        self.run = wandb.init(
            project=config.tracking.project,
            name=f"{run.root.name}/{stage}",
            mode=config.tracking.wandb,
            dir=None if is_remote(run.root) else str(run.root),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        self.run.log(figures, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self.run.finish()
