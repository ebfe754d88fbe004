"""Send the metrics of a training to TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from jobs.console import say
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.store.files import remove
from minirec.store.remote import is_remote
from minirec.store.run import Run, flatten

Log = Callable[[int, dict[str, float]], None]
"""Called with the number of an optimizer step and its metrics."""


class Tracking:
    """Sends each entry of a training log once to every tracker. Drops a tracker that fails."""

    def __init__(self, trackers: dict[str, Log]):
        self.trackers = trackers
        self.next_step = 0

    def update(self, log: list[dict[str, Any]]) -> None:
        """Send the new entries of a log that grows at its end."""
        for entry in log:
            if entry["step"] < self.next_step:
                continue
            figures = {key: float(value) for key, value in entry.items() if key != "step"}
            self.next_step = entry["step"] + 1
            for name, tracker in [*self.trackers.items()]:
                try:
                    tracker(entry["step"], figures)
                except Exception as error:  # a failing server must not end the training
                    del self.trackers[name]
                    say(
                        f"tracking: {name} has failed ({error}); it gets no metrics from step "
                        f"{entry['step']} on, log.jsonl has all"
                    )


def check(config: Config) -> None:
    """Raise `ConfigError` if the package of a tracker is missing."""
    wanted = {"mlflow": config.tracking.mlflow, "wandb": config.tracking.wandb}
    for package, on in wanted.items():
        if on and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"tracking.{package}={on} needs the package {package}; install it with `pip "
                f"install {package}`, or set tracking.{package}=null"
            )


@contextmanager
def tracking(run: Run, config: Config, stage: str) -> Iterator[Tracking]:
    """Open the trackers of the settings for one stage; `ConfigError` if one cannot be opened."""
    with ExitStack() as closing:
        trackers: dict[str, Log] = {}
        for name, tracker in TRACKERS.items():
            value = getattr(config.tracking, name)
            if not value or (name == "tensorboard" and is_remote(run.root)):
                continue  # TensorBoard writes only to local folders
            context = tracker(run, config, stage)
            try:
                trackers[name] = context.__enter__()
            except Exception as error:
                raise ConfigError(
                    f"tracking.{name}={value} cannot be used ({error}); fix it, or set "
                    f"tracking.{name}=null"
                ) from error
            closing.callback(_close, name, context)
        yield Tracking(trackers)


def _close(name: str, context: AbstractContextManager[Log]) -> None:
    try:
        context.__exit__(None, None, None)
    except Exception as error:  # a failing server must not end the training
        say(f"tracking: {name} could not be closed ({error})")


@contextmanager
def tensorboard(run: Run, config: Config, stage: str) -> Iterator[Log]:
    """Event files in ``tensorboard/STAGE`` of the run directory."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.path("tensorboard", stage)
    remove(folder)  # this attempt sends the steps of an earlier one again
    writer = SummaryWriter(str(folder), flush_secs=10)

    def log(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    yield log
    writer.close()


@contextmanager
def mlflow(run: Run, config: Config, stage: str) -> Iterator[Log]:
    """One MLflow run for each attempt at a stage."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(config.tracking.mlflow)
    project = config.tracking.project
    found = client.get_experiment_by_name(project)
    experiment = found.experiment_id if found else client.create_experiment(project)
    made = client.create_run(experiment, run_name=f"{run.root.name}/{stage}").info.run_id
    for key, value in flatten(config.model_dump(mode="json")).items():
        client.log_param(made, key, value)

    def log(step: int, figures: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        # MLflow allows no @ in a name.
        rows = [Metric(k.replace("@", "_at_"), v, now, step) for k, v in figures.items()]
        client.log_batch(made, metrics=rows)

    yield log
    client.set_terminated(made)


@contextmanager
def wandb(run: Run, config: Config, stage: str) -> Iterator[Log]:
    """One Weights & Biases run for each attempt at a stage."""
    import wandb

    made = wandb.init(
        project=config.tracking.project,
        name=f"{run.root.name}/{stage}",
        mode=config.tracking.wandb,
        dir=None if is_remote(run.root) else str(run.root),
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True),
    )
    yield lambda step, figures: made.log(figures, step=step)
    made.finish()


TRACKERS = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
