"""Training workers: started by Ray Train for one loop, or a single one kept for many loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirec.config.training import TrainingConfig
from minirec.errors import ConfigError, EngineError
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

        from actors.process import GPU_BACKEND

        t, gpu = self.training, self.shape.gpus > 0
        # The second limit counts starts that found no room within resources.wait_s.
        failures = FailureConfig(
            max_failures=t.max_failures, controller_failure_limit=t.max_failures
        )
        return TorchTrainer(
            loop,
            train_loop_config=argument,
            torch_config=TorchConfig(
                backend=GPU_BACKEND if gpu else "gloo", timeout_s=int(t.step_deadline_s)
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
    t = team.training
    limit = f"its start or one step takes longer than step_deadline_s, {t.step_deadline_s:g} s"
    if kept is not None:
        kept.run(loop, argument, max_failures=t.max_failures, limit=limit)
        return
    try:
        in_thread(lambda: team.trainer(loop, argument).fit())
    except TrainingFailedError as error:
        raise _failed(error, limit) from error


class KeptWorker:
    """A single training worker that stays up between the stages or trials of a session.

    Only for one machine: on a cluster, other jobs would wait for its resources.

    Raises:
        EngineError: it did not start within `wait_s` seconds.
    """

    def __init__(self, shape: Shape, *, wait_s: float) -> None:
        self._shape, self._wait_s = shape, wait_s
        self._actor: Any = None
        self._start()

    def _start(self) -> None:
        import ray

        from actors.causes import cause
        from actors.process import SingleWorker

        worker = ray.remote(
            num_cpus=self._shape.cpus,
            num_gpus=self._shape.gpus,
            scheduling_strategy="SPREAD",  # not in a trial's placement group
        )(SingleWorker)
        self._actor = worker.remote()
        try:
            ray.get(self._actor.__ray_ready__.remote(), timeout=self._wait_s)
        except ray.exceptions.GetTimeoutError as error:
            self.close()
            raise EngineError(
                f"a training worker did not start within {self._wait_s:g} s (resources.wait_s)"
            ) from error
        except ray.exceptions.RayActorError as error:
            self.close()
            raise EngineError(f"a training worker ended at its start: {cause(error)}") from error

    def run(self, loop: Loop, argument: Any, *, max_failures: int, limit: str) -> None:
        """Let it call ``loop(argument)``; a retry continues from what is finished.

        After a failure a new process takes over: the old one may be broken, or hold memory.

        Args:
            loop: of `actors`.
            argument: picklable.
            max_failures: number of further attempts.
            limit: when the worker ends by itself, for the message.

        Raises:
            EngineError: it failed more often than `training.max_failures`.
            ConfigError: the loop refuses its settings.
        """
        import ray

        from actors.causes import raised_in

        for left in range(max_failures, -1, -1):
            if self._actor is None:
                self._start()
            try:
                ray.get(self._actor.run.remote(loop, argument))
                return
            except ray.exceptions.RayError as error:
                self.close()
                if isinstance(raised := raised_in(error), ConfigError):
                    raise raised from error  # it would fail again
                if not left:
                    raise _failed(error, limit) from error

    def close(self) -> None:
        """Kill it; safe to call twice."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


def ray_storage(folder: Path) -> dict[str, Any]:
    """Storage arguments of Ray Train and Tune for a folder of the run."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    import pyarrow.fs

    far: Any = folder
    handler = pyarrow.fs.FSSpecHandler(far.fs)
    return {"storage_path": far.path, "storage_filesystem": pyarrow.fs.PyFileSystem(handler)}


def _failed(error: Exception, limit: str) -> EngineError:
    from actors.causes import cause

    return EngineError(
        f"a training worker failed and has no restarts left: {cause(error)}; the same command "
        f"continues from what is finished (a worker also ends when {limit})"
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
