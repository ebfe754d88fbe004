"""A pool of rollout engines: clients send calls to it and get the results in their order.

`Pool` is the driver's side: it starts, adds and ends the engines, each of which is a Ray actor
(`actors.pool.actor`). `PoolHandle` is a client's side: it knows the engines of the moment
(`actors.pool.engines`) and spreads the calls of one request over them (`actors.pool.dispatch`).

Ray restarts an engine that died and repeats its call; a call that exceeds its deadline has its
engine killed, which has the same effect. While an engine is away, its call goes to another one.
Results depend on the call alone, so a repeated call gives the same bytes.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._private import state as ray_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.engines.engine import Adapter, Completion, EngineSpec, engine_environment
from actors.engines.transformers import TransformersEngine
from actors.engines.vllm import VllmEngine
from actors.pool.actor import Call, EngineActor
from actors.pool.dispatch import Dispatch
from actors.pool.engines import Engines, Link

ENGINES = {"vllm": VllmEngine, "transformers": TransformersEngine}
TICK_S = 2.0  # between two looks at the nodes of the cluster
Target = Callable[[Mapping[str, int]], list[str]]
"""From engines at work by node id: a node id for each engine wanted; empty means any node."""


class PoolHandle(Engines):
    """What a Ray Train worker or a Ray Data actor holds to generate; picklable."""

    def __len__(self) -> int:
        return len(self.actors)

    def generate(
        self, calls: list[Call], adapter: Adapter | None = None
    ) -> list[list[list[Completion]]]:
        """One generate call of some engine for each of `calls`; results in their order.

        Raises:
            EngineError: an engine raised, died more often than `max_restarts`, hung that often,
                or fewer engines than `least` came up within the starting deadline.
        """
        return Dispatch(self, calls, adapter).run()

    def copy(self) -> PoolHandle:
        """Another handle for the same engines, for another thread."""
        return copy.copy(self)


class Pool:
    """The driver's side: starts the engines and ends them. A context manager.

    Engines are named actors of the driver's job: clients find by name those that are added later,
    and none outlives the driver. With a `target`, a thread keeps their number at what the cluster
    has room for. Ray itself restarts an engine that died, on another node if needed. The thread
    drops engines for which no node has room, so that no client waits for them, and adds engines
    when a node joins.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        engine: str | type,
        engines: int,
        least: int | None = None,
        target: Target | None = None,
        cpus_per_engine: float = 1,
        gpus_per_engine: float = 0,
        deadline_s: float = 300,
        start_deadline_s: float = 300,
        max_restarts: int = 3,
        name: str | None = None,
    ) -> None:
        """Create the actors and return at once; `wait_ready` waits for them.

        Args:
            engine: a name of `ENGINES`, or the class of another `RolloutEngine`.
            engines: how many, without a `target`.
            least: engines that must be up; default: all.
            target: the engines that there should be, asked every few seconds; None: `engines`.
        """
        self.actors: dict[str, Any] = {}
        self._prefix = f"minirec-{secrets.token_hex(4)}-"
        self._nodes: dict[str, str] = {}  # of each engine
        self._seen: set[str] = set()  # all nodes that had an engine
        self._made = 0
        self._actor = ray.remote(
            num_cpus=cpus_per_engine,
            num_gpus=gpus_per_engine,
            max_restarts=max_restarts,
            max_task_retries=-1,
            max_concurrency=1,
            concurrency_groups={"status": 1},
            runtime_env={"env_vars": engine_environment(spec)},
        )(EngineActor)
        kind = ENGINES[engine] if isinstance(engine, str) else engine
        self._arguments = (kind, replace(spec, scratch=self._prefix))
        for node in target({}) if target else [""] * engines:
            self._add(node)
        self._handle = PoolHandle(
            dict(self.actors),
            prefix=self._prefix,
            name=name or str(engine),
            least=engines if least is None else least,
            elastic=target is not None,
            deadline_s=deadline_s,
            start_deadline_s=start_deadline_s,
            max_restarts=max_restarts,
            link=Link(),
        )
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        if target is not None:
            self._thread.start()

    def wait_ready(self) -> Pool:
        """Block until every engine has generated a token.

        Raises:
            EngineError: one did not within `start_deadline_s`, or died; names the resources.
        """
        self._handle.probe()
        return self

    def handle(self) -> PoolHandle:
        """For a client."""
        return self._handle

    def _add(self, node: str) -> None:
        name = f"{self._prefix}{self._made}"
        self._made += 1
        self._nodes[name] = node
        # On the node that was counted for it; elsewhere it may take the room of a training worker.
        place = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        options = self._actor.options(name=name, scheduling_strategy=place)
        self.actors[name] = options.remote(*self._arguments)

    def _keep(self) -> None:
        assert self._target is not None
        while not self._stop.wait(TICK_S):
            try:
                self._fit(self._target)
            except Exception as error:  # the cluster may be gone or busy; the next look will tell
                logging.getLogger(__name__).warning("engines were not counted: %s", error)

    def _fit(self, target: Target) -> None:
        """Add or drop engines until there are as many as `target` says; the misplaced go first.

        An engine that ended for good through its own fault still counts: another one would end
        the same way. One that ended with its node is replaced.
        """
        entries = {name: _entry(actor) for name, actor in self.actors.items()}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        here = set()
        for name, entry in entries.items():
            if entry["State"] == "ALIVE":
                self._nodes[name] = entry["Address"]["NodeID"]
                self._seen.add(self._nodes[name])
                if self._nodes[name] in alive:
                    here.add(name)
            elif entry["State"] == "DEAD" and self._nodes[name] not in {"", *alive}:
                del self.actors[name]
        wanted = target(Counter(self._nodes[name] for name in here))
        placed, left = match({name: self._nodes[name] for name in self.actors}, wanted)
        while len(self.actors) < len(wanted):
            self._add(left.pop(0))

        def last(name: str) -> tuple[bool, bool, int]:
            number = int(name.removeprefix(self._prefix))
            return name not in here, name not in placed, number

        listed = [name for name in self.actors if name in entries]
        for name in sorted(listed, key=last, reverse=True)[: len(self.actors) - len(wanted)]:
            ray.kill(self.actors.pop(name), no_restart=True)

    def close(self) -> None:
        """Kill the engines and return when their processes are gone."""
        self._stop.set()
        if self._target is not None:
            self._thread.join(timeout=10)
        by_node: dict[str, list[int]] = {node: [] for node in self._seen}
        for actor in self.actors.values():
            entry = _entry(actor)
            if entry.get("Pid"):
                by_node.setdefault(entry["Address"]["NodeID"], []).append(entry["Pid"])
            ray.kill(actor, no_restart=True)
        waits = [
            _end.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(pids, self._prefix)
            for node, pids in by_node.items()
        ]
        if waits:
            ray.wait(waits, num_returns=len(waits), timeout=60)
        self.actors = self._handle.actors = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry(actor: Any) -> dict[str, Any]:
    """State, node and process of an actor, also of one that hangs or starts again.

    Ray's public state API asks the dashboard, which a Ray of the command's own does not have.
    """
    return ray_state.actors(actor._ray_actor_id.hex())


def match(nodes: Mapping[str, str], wanted: list[str]) -> tuple[set[str], list[str]]:
    """The engines that are where one is wanted, and the places without one.

    Args:
        nodes: of the engines, the eldest first.
        wanted: as `Target` gives it.
    """
    left, placed = Counter(wanted), set()
    for name, node in nodes.items():
        place = node if left[node] else ""
        if left[place]:
            left[place] -= 1
            placed.add(name)
    return placed, list(left.elements())


@ray.remote(num_cpus=0)
def _end(pids: list[int], pool: str) -> None:
    """Wait until the processes are gone from this node, then delete the files that they left."""
    _await_end(pids)
    for folder in Path(tempfile.gettempdir()).glob(f"{pool}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _await_end(pids: list[int]) -> None:
    """Wait until the processes are gone from this node; kill those that Ray leaves."""
    start = time.monotonic()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        waited = time.monotonic() - start
        if waited > 15:  # another process has got the number, or it is a zombie
            return
        for pid in pids:
            if waited > 5 and _is_engine(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_engine(pid: int) -> bool:
    try:
        return (
            b"EngineActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )  # the title that Ray gives
    except (FileNotFoundError, ProcessLookupError):
        return False
