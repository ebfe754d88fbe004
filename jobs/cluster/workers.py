"""Training workers: those that Ray Train starts for one loop, and one that stays up for trials."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirec.config.training import TrainingConfig
from minirec.errors import EngineError
from minirec.resources.allocation import Shape
from minirec.store.remote import is_remote

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

Loop = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Team:
    """Workers of Ray Train.

    training: has their deadlines, and how often they are restarted.
    count, shape: how many, and what each gets.
    storage, name: Ray Train writes into the folder `name` in `storage`.
    """

    training: TrainingConfig
    count: int
    shape: Shape
    storage: Path
    name: str

    def trainer(self, loop: Loop, argument: dict[str, Any]) -> TorchTrainer:
        """Workers that call ``loop(argument)``."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        t, gpu = self.training, self.shape.gpus > 0
        # The second limit is that of starts without room, each of resources.wait_s.
        failures = FailureConfig(
            max_failures=t.max_failures, controller_failure_limit=t.max_failures
        )
        return TorchTrainer(
            loop,
            train_loop_config=argument,
            torch_config=TorchConfig(
                backend="nccl" if gpu else "gloo", timeout_s=int(t.step_deadline_s)
            ),
            scaling_config=ScalingConfig(
                num_workers=self.count, use_gpu=gpu, resources_per_worker=self.shape.bundle()
            ),
            run_config=RunConfig(
                name=self.name, **ray_storage(self.storage), failure_config=failures
            ),
        )


def fit(kept: KeptWorker | None, loop: Loop, spec: object, team: Team) -> None:
    """Let training workers call ``loop({"spec": spec})``; returns when all have done so.

    Args:
        kept: the worker that does it, if the session keeps one.
        loop: of `actors`.
        spec: picklable.
        team: the workers that Ray Train starts for it otherwise.

    Raises:
        EngineError: it failed more often than `max_failures`; names the cause.
    """
    argument = {"spec": spec}
    if kept is None:
        in_thread(lambda: _fit_or_explain(team, loop, argument))
    else:
        kept.run(loop, argument, training=team.training)


class KeptWorker:
    """A single training worker that stays up between the trials of a session.

    For one machine: on a cluster, other jobs would wait for what it holds.
    """

    def __init__(self, shape: Shape, *, wait_s: float) -> None:
        """Start it.

        Raises:
            EngineError: it did not start within `wait_s` seconds.
        """
        import ray

        from actors.process import SingleWorker

        actor = ray.remote(
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
            max_restarts=-1,  # the calls have limits
            scheduling_strategy="SPREAD",  # else in the placement group of the trial
        )(SingleWorker)
        self._actor = actor.remote()
        try:
            ray.get(self._actor.__ray_ready__.remote(), timeout=wait_s)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
            self.close()
            raise EngineError(
                f"a training worker did not start within {wait_s:g} s (resources.wait_s)"
            ) from error

    def run(self, loop: Loop, argument: Any, *, training: TrainingConfig) -> None:
        """Let it call ``loop(argument)``; the loop goes on from what an attempt before has done.

        Args:
            training: has `max_failures`, the number of further attempts.

        Raises:
            EngineError: the last attempt failed too; names the cause.
        """
        import ray

        method = self._actor.run.options(
            max_task_retries=training.max_failures, retry_exceptions=True
        )
        try:
            ray.get(method.remote(loop, argument))
        except ray.exceptions.RayError as error:
            raise _failed(error, training) from error

    def close(self) -> None:
        """Kill it."""
        import ray

        ray.kill(self._actor)


def ray_storage(folder: Path) -> dict[str, Any]:
    """Where Ray Train or Tune writes: with the same file system as everything else of the run."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    import pyarrow.fs

    far: Any = folder
    handler = pyarrow.fs.FSSpecHandler(far.fs)
    return {"storage_path": far.path, "storage_filesystem": pyarrow.fs.PyFileSystem(handler)}


def _fit_or_explain(team: Team, loop: Loop, argument: dict[str, Any]) -> None:
    from ray.train import TrainingFailedError

    try:
        team.trainer(loop, argument).fit()
    except TrainingFailedError as error:
        raise _failed(error, team.training) from error


def _failed(error: Exception, training: TrainingConfig) -> EngineError:
    """What is told of a failure after which a worker was not restarted again."""
    from actors.causes import cause

    return EngineError(
        f"a training worker failed and was not restarted any more: {cause(error)}; the same "
        f"command goes on from what is finished (a worker also ends when its start or one step "
        f"takes longer than step_deadline_s, {training.step_deadline_s:g} s)"
    )


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in a daemon thread and wait for it.

    In the main thread Ray Train replaces the handler of Ctrl-C by one that ends the process
    without a message. From another thread it does not, so the command itself is interrupted and
    closes what it started.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
