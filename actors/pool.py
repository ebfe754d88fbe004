"""A pool of rollout engines: placement, deadlines, restart of a dead or hung engine, closing.

Each engine is a plain Ray actor, so none outlives the driver. Ray restarts an engine that died
and repeats the call it was on; a call that exceeds its deadline has its engine killed, which
comes to the same. Results depend on the call alone, hence a repeated call gives the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray._private import state as ray_state
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.rollout import Adapter, Completion, EngineSpec, RolloutEngine, engine_environment
from actors.transformers_engine import TransformersEngine
from actors.vllm_engine import VllmEngine
from minirec.artifacts import fetch
from minirec.errors import EngineError

ENGINES = {"vllm": VllmEngine, "transformers": TransformersEngine}
STATUS_S = 5.0  # an engine that cannot say within this time what it does is taken as hung
ALIVE = 2  # ActorTableData.ActorState


@dataclass(frozen=True)
class Call:
    """The arguments of one `RolloutEngine.generate`."""

    prompts: list[list[int]]
    n: int
    seeds: list[int]
    greedy: bool = False


class _Engine:
    """The actor. `status` has a thread of its own and answers while `generate` is busy."""

    def __init__(self, engine: type[RolloutEngine], spec: EngineSpec) -> None:
        self._now: tuple[str, float] | None = None
        self._engine = engine(replace(spec, model=fetch(spec.model)))
        self._adapter: tuple[Adapter, Adapter] | None = None  # the last one, and its local copy

    def generate(self, key: str, call: Call, adapter: Adapter | None) -> list[list[Completion]]:
        self._now = (key, time.monotonic())
        try:
            return self._engine.generate(
                call.prompts,
                n=call.n,
                seeds=call.seeds,
                greedy=call.greedy,
                adapter=adapter and self._local(adapter),
            )
        finally:
            self._now = None

    def _local(self, adapter: Adapter) -> Adapter:
        if self._adapter is None or self._adapter[0] != adapter:
            self._adapter = (adapter, replace(adapter, path=fetch(adapter.path)))
        return self._adapter[1]

    def probe(self) -> dict[str, Any]:
        return {**self._engine.probe(), **self.status()}

    @ray.method(concurrency_group="status")
    def status(self) -> dict[str, Any]:
        """Process, node, and the call at work with the seconds it has taken."""
        now = self._now
        return {
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "call": now[0] if now else None,
            "seconds": time.monotonic() - now[1] if now else 0.0,
        }


@dataclass
class _Running:
    """A call that an engine has: its place among the results, and since when it is waited for."""

    index: int
    engine: int
    key: str
    since: float
    kills: int = 0


class PoolHandle:
    """What a Ray Train worker or a Ray Data actor holds to generate; picklable."""

    def __init__(
        self,
        actors: list[Any],
        *,
        name: str,
        deadline_s: float,
        start_deadline_s: float,
        max_restarts: int,
    ) -> None:
        self._actors = actors
        self._name = name
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._max_restarts = max_restarts

    def __len__(self) -> int:
        return len(self._actors)

    def generate(
        self, calls: list[Call], adapter: Adapter | None = None
    ) -> list[list[list[Completion]]]:
        """One generate call of some engine for each of `calls`; results in their order.

        An engine gets its next call when it has finished the one before.

        Raises:
            EngineError: an engine raised, died more often than `max_restarts`, or hung that often.
        """
        waiting = deque(range(len(calls)))
        free = self._idle_first()
        running: dict[Any, _Running] = {}
        results: list[Any] = [None] * len(calls)
        while waiting or running:
            while waiting and free:
                index, engine = waiting.popleft(), free.popleft()
                key = f"{os.getpid()}-{random.getrandbits(64):x}"
                ref = self._actors[engine].generate.remote(key, calls[index], adapter)
                running[ref] = _Running(index, engine, key, time.monotonic())
            done, _ = ray.wait(list(running), timeout=min(1.0, self._deadline_s / 4))
            for ref in done:
                one = running.pop(ref)
                results[one.index] = self._get(ref, one.engine, "a generate call")
                free.append(one.engine)
            for one in running.values():
                if time.monotonic() - one.since > self._deadline_s:
                    self._overdue(one)
        return results

    def probe(self) -> list[dict[str, Any]]:
        """A one-token generation on every engine, within the starting deadline."""
        refs = [actor.probe.remote() for actor in self._actors]
        end = time.monotonic() + self._start_deadline_s
        answers = []
        for engine, ref in enumerate(refs):
            done, _ = ray.wait([ref], timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise EngineError(
                    f"{self._label(engine)} did not answer its first probe within "
                    f"{self._start_deadline_s:g} s; {_resources()}"
                )
            answers.append(self._get(ref, engine, "its first probe"))
        return answers

    def _get(self, ref: Any, engine: int, awaited: str) -> Any:
        try:
            return ray.get(ref, timeout=60)
        except RayTaskError as error:
            cause = error.cause
            raise EngineError(
                f"{self._label(engine)} failed at {awaited}: {type(cause).__name__}: {cause}"
            ) from error
        except RayActorError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise EngineError(
                f"{self._label(engine)} died at {awaited} and was restarted at most "
                f"{self._max_restarts} times: {' | '.join(lines[-4:])}"
            ) from error

    def _overdue(self, one: _Running) -> None:
        """Decide about an engine whose call is late: wait on, or kill it so that Ray restarts it.

        The time counts from when the engine began the call, not from when it was handed over:
        another client's call may stand before it, or the engine may be starting again.
        """
        actor = self._actors[one.engine]
        waited = time.monotonic() - one.since
        # A private method, the only way to tell a hung engine from one that is starting.
        if actor._get_local_state() != ALIVE:
            if waited > self._deadline_s + self._start_deadline_s:
                raise EngineError(
                    f"{self._label(one.engine)} did not come back within {waited:.0f} s; "
                    f"{_resources()}"
                )
            return
        done, _ = ray.wait([ref := actor.status.remote()], timeout=STATUS_S)
        if done:
            status = self._get(ref, one.engine, "its status")
            if status["seconds"] <= self._deadline_s:
                one.since = time.monotonic() - status["seconds"]
                return
        if one.kills == self._max_restarts:
            raise EngineError(
                f"{self._label(one.engine)} did not finish a generate call within "
                f"{self._deadline_s:g} s, {one.kills + 1} times; raise rollout.deadline_s or "
                "lower rollout.prompts_per_call"
            )
        ray.kill(actor, no_restart=False)
        one.kills += 1
        one.since = time.monotonic()

    def _idle_first(self) -> deque[int]:
        """Engines in the order in which to load them: idle before busy, else at random."""
        order = list(range(len(self._actors)))
        random.shuffle(order)
        if len(order) > 1:
            refs = {engine: self._actors[engine].status.remote() for engine in order}
            done, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=0.2)
            idle = {
                engine
                for engine, ref in refs.items()
                if ref in done and self._get(ref, engine, "its status")["call"] is None
            }
            order.sort(key=lambda engine: engine not in idle)
        return deque(order)

    def _label(self, engine: int) -> str:
        return f"engine {engine + 1} of {len(self._actors)} ({self._name})"


class Pool:
    """The driver's side: starts the engines and ends them. A context manager."""

    def __init__(self, handle: PoolHandle) -> None:
        self._handle = handle

    @classmethod
    def start(
        cls,
        spec: EngineSpec,
        *,
        engine: str | type,
        engines: int,
        cpus_per_engine: float = 1,
        gpus_per_engine: float = 0,
        deadline_s: float = 300,
        start_deadline_s: float = 300,
        max_restarts: int = 3,
        name: str | None = None,
    ) -> Pool:
        """Create the actors and return at once; `wait_ready` waits for them.

        `engine` is a name of `ENGINES`, or the class of another `RolloutEngine`.
        """
        made = ENGINES[engine] if isinstance(engine, str) else engine
        actor = ray.remote(concurrency_groups={"status": 1})(_Engine).options(
            num_cpus=cpus_per_engine,
            num_gpus=gpus_per_engine,
            max_restarts=max_restarts,
            max_task_retries=-1,
            max_concurrency=1,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": engine_environment(spec)},
        )
        return cls(
            PoolHandle(
                [actor.remote(made, spec) for _ in range(engines)],
                name=name or str(engine),
                deadline_s=deadline_s,
                start_deadline_s=start_deadline_s,
                max_restarts=max_restarts,
            )
        )

    def wait_ready(self) -> Pool:
        """Block until every engine has generated a token.

        Raises:
            EngineError: one did not within `start_deadline_s`, or died; names the resources.
        """
        self._handle.probe()
        return self

    def handle(self) -> PoolHandle:
        """For whoever generates."""
        return self._handle

    def close(self) -> None:
        """Kill the engines and return when their processes are gone."""
        by_node: dict[str, list[int]] = {}
        for actor in self._handle._actors:
            # Ray's own table (private) knows the process of a hung or restarted engine too.
            entry = ray_state.actors(actor._ray_actor_id.hex())
            if entry.get("Pid"):
                by_node.setdefault(entry["Address"]["NodeID"], []).append(entry["Pid"])
            ray.kill(actor, no_restart=True)
        waits = [
            _end.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(pids)
            for node, pids in by_node.items()
        ]
        if waits:
            ray.wait(waits, num_returns=len(waits), timeout=60)
        self._handle._actors = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@ray.remote(num_cpus=0)
def _end(pids: list[int]) -> None:
    """Return when the processes are gone from this node; SIGKILL those that Ray leaves too long."""
    start = time.monotonic()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        waited = time.monotonic() - start
        if waited > 15:  # a number that another process has taken, or a zombie
            return
        for pid in pids:
            if waited > 5 and _is_engine(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_engine(pid: int) -> bool:
    try:
        return b"_Engine" in Path(f"/proc/{pid}/cmdline").read_bytes()  # the title that Ray gives
    except (FileNotFoundError, ProcessLookupError):
        return False


def _resources() -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    return "; ".join(
        f"{name}: {free.get(name, 0):g} free of {total.get(name, 0):g}" for name in ("CPU", "GPU")
    )
