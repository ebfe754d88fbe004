"""Ray Train workers: started for one loop, or kept for the loops of several trials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.training.mailbox import Loop, Mailbox, Work, work_loop
from minirec.config.run import TrainingConfig
from minirec.errors import EngineError
from minirec.resources.allocation import Shape
from minirec.store.remote import is_remote

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

POLL_S = 1.0


@dataclass(frozen=True)
class Team:
    """Workers of Ray Train.

    training: says their deadlines, and how often they are started again.
    count, shape: how many, and what each gets.
    storage, name: the folder in which Ray Train writes into one of that name.
    shard_deadline_s: of the shards of an evaluation, where they do that too.
    """

    training: TrainingConfig
    count: int
    shape: Shape
    storage: Path
    name: str
    shard_deadline_s: float | None = None

    @property
    def limit(self) -> str:
        """When a worker ends by itself."""
        t, shard = self.training, self.shard_deadline_s
        words = (
            f"when its start or one step takes longer than step_deadline_s, {t.step_deadline_s:g} s"
        )
        more = "" if shard is None else f", or one shard than scoring.shard_deadline_s, {shard:g} s"
        return words + more

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


def fit(kept: KeptWorkers | None, loop: Loop, spec: object, team: Team) -> None:
    """Let Ray Train workers call ``loop({"spec": spec})``; returns when all have done so.

    Args:
        kept: the workers that do it, if a session keeps some.
        loop: of `actors`.
        spec: picklable.
        team: workers that are started for this, if it keeps none.

    Raises:
        EngineError: a failure that restarts did not mend, with its cause.
    """
    if kept is None:
        in_thread(lambda: _fit_or_explain(team, loop, {"spec": spec}))
    else:
        kept.do(loop, spec)


class KeptWorkers:
    """Workers that stay up between pieces of work; for one thread.

    Not on a cluster, where what one keeps others wait for.
    """

    def __init__(self) -> None:
        self._mailbox: Any = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, team: Team) -> None:
        """Have workers up of which none has failed, so that all restarts are left to what follows.

        Raises:
            EngineError: they could not be started.
        """
        import ray

        if self._thread is not None and self._thread.is_alive():
            with suppress(ray.exceptions.RayActorError):
                if not ray.get(self._mailbox.restarted.remote()):
                    return
            self.close()
        self._mailbox = mailbox = ray.remote(num_cpus=0)(Mailbox).remote(team.count)
        self._error = None

        def call() -> None:
            try:
                _fit_or_explain(team, work_loop, {"mailbox": mailbox})
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()
        self._wait(mailbox.ready)

    def do(self, loop: Loop, spec: object) -> None:
        """Let them call ``loop({"spec": spec})``; returns when all have done so.

        The deadlines are those inside the loop: a worker that passes one ends.

        Raises:
            EngineError: a failure that restarts did not mend.
        """
        import ray

        with _explained():
            ray.get(self._mailbox.put.remote(Work(ray.put((loop, {"spec": spec})))))
        self._wait(self._mailbox.done)

    def _wait(self, asked: Any) -> None:
        import ray

        thread = self._thread
        assert thread is not None
        with _explained():
            while not ray.get(asked.remote(POLL_S)):
                if not thread.is_alive():
                    raise self._error or EngineError("the training workers ended before their work")

    def close(self) -> None:
        """Let them end; those that hang are left to their deadline."""
        if self._thread is not None and self._thread.is_alive():
            self._mailbox.close.remote()
            self._thread.join(30)
        self._thread = self._mailbox = None


@contextmanager
def _explained() -> Iterator[None]:
    """The death of the mailbox becomes one sentence."""
    from ray.exceptions import RayActorError

    from actors.causes import cause

    try:
        yield
    except RayActorError as error:
        raise EngineError(
            f"the mailbox of the training workers is gone: {cause(error)}; the same command goes "
            f"on from what is finished"
        ) from error


def ray_storage(folder: Path) -> dict[str, Any]:
    """Where Ray Train or Tune writes: with the same file system as everything else of the run."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    import pyarrow.fs

    far: Any = folder
    handler = pyarrow.fs.FSSpecHandler(far.fs)
    return {"storage_path": far.path, "storage_filesystem": pyarrow.fs.PyFileSystem(handler)}


def _fit_or_explain(team: Team, loop: Loop, argument: dict[str, Any]) -> None:
    """Call the loop; a failure that restarts did not mend becomes one sentence with its cause."""
    from ray.train import TrainingFailedError

    from actors.causes import cause

    try:
        team.trainer(loop, argument).fit()
    except TrainingFailedError as error:
        raise EngineError(
            f"a training worker failed and was not restarted any more: {cause(error)}; the same "
            f"command goes on from what is finished (a worker also ends {team.limit})"
        ) from error


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in a daemon thread and wait for it.

    In the main thread Ray Train replaces the handler of Ctrl-C by one that ends the process with
    no word; from here, the interruption reaches the command, which closes what it started.
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
