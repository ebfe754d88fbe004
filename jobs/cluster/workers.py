"""Training workers: started by Ray Train for one loop, or a single one kept for many trials."""

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
    """The workers that Ray Train starts.

    training: has their deadline and their number of restarts.
    shape: resources of each.
    storage, name: Ray Train writes into the folder `name` in `storage`.
    """

    training: TrainingConfig
    count: int
    shape: Shape
    storage: Path
    name: str

    def trainer(self, loop: Loop, argument: dict[str, Any]) -> TorchTrainer:
        """A trainer whose workers call ``loop(argument)``."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        t, gpu = self.training, self.shape.gpus > 0
        # The second limit counts starts that found no room within resources.wait_s.
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
    """Let training workers call ``loop({"spec": spec})``; returns when all have finished.

    Args:
        kept: the worker of the session, if it keeps one.
        team: the workers that Ray Train starts otherwise.

    Raises:
        EngineError: it failed more often than `max_failures`.
    """
    from ray.train import TrainingFailedError

    argument = {"spec": spec}
    if kept is not None:
        kept.run(loop, argument, training=team.training)
        return
    try:
        in_thread(lambda: team.trainer(loop, argument).fit())
    except TrainingFailedError as error:
        raise _failed(error, team.training) from error


class KeptWorker:
    """A single training worker that stays up between the trials of a session.

    Only for one machine: on a cluster, other jobs would wait for its resources.

    Raises:
        EngineError: it did not start within `wait_s` seconds.
    """

    def __init__(self, shape: Shape, *, wait_s: float) -> None:
        import ray

        from actors.process import SingleWorker

        actor = ray.remote(
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
            max_restarts=-1,  # each call has its own limit
            scheduling_strategy="SPREAD",  # not in the placement group of the trial
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
        """Let it call ``loop(argument)``; a retry continues from what is finished.

        Raises:
            EngineError: it failed more often than `training.max_failures`.
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
        import ray

        ray.kill(self._actor)


def ray_storage(folder: Path) -> dict[str, Any]:
    """Storage arguments of Ray Train and Tune for a folder of the run."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    import pyarrow.fs

    far: Any = folder
    handler = pyarrow.fs.FSSpecHandler(far.fs)
    return {"storage_path": far.path, "storage_filesystem": pyarrow.fs.PyFileSystem(handler)}


def _failed(error: Exception, training: TrainingConfig) -> EngineError:
    from actors.causes import cause

    return EngineError(
        f"a training worker failed and has no restarts left: {cause(error)}; the same command "
        f"continues from what is finished (a worker also ends when its start or one step takes "
        f"longer than step_deadline_s, {training.step_deadline_s:g} s)"
    )


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in a daemon thread and wait for it; raises what the function raises.

    In the main thread, Ray Train's handler of Ctrl-C would end the process without a message. From
    another thread it sets no handler, so the command is interrupted and closes what it started.
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
