"""The engines of a pool: created, added where there is room, dropped with their node, ended.

Engines are named actors of the driver's job, so that whoever holds a handle of the pool finds
those that came later, and none outlives the driver.
"""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray._private import state as ray_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.engines.engine import Adapter, Completion, EngineSpec, RolloutEngine, engine_environment
from actors.engines.transformers import TransformersEngine
from actors.engines.vllm import VllmEngine
from actors.process import trim
from minirec.store.files import fetch

ENGINES = {"vllm": VllmEngine, "transformers": TransformersEngine}
TRIM_CALLS = 8  # of an engine between two times that it gives free memory back
TICK_S = 2.0  # between two looks at the nodes of the cluster


@dataclass(frozen=True)
class Call:
    """The arguments of one `RolloutEngine.generate`."""

    prompts: list[list[int]]
    n: int
    seeds: list[int]
    greedy: bool = False


class _Engine:
    """The actor. `status` has a thread of its own and answers while `generate` is busy."""

    def __init__(self, engine: Callable[[EngineSpec], RolloutEngine], spec: EngineSpec) -> None:
        self._now: tuple[str, float] | None = None
        self._engine = engine(replace(spec, model=fetch(spec.model)))
        self._calls = 0
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
            self._calls += 1
            if self._calls % TRIM_CALLS == 0:
                trim()
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


Target = Callable[[Mapping[str, int]], list[str]]
"""From engines at work by node id: a node id for each engine wanted; empty means any node."""


def match(nodes: Mapping[str, str], wanted: list[str]) -> tuple[set[str], list[str]]:
    """The engines that stand where they are wanted, and the places without one.

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


class Roster:
    """The driver's list of engines; a thread keeps their number at what the cluster has room for.

    Ray itself restarts an engine that died, on another node if need be. What is left to do here:
    drop engines that no node has room for any more, so that nobody waits for them, and add engines
    when a node joins.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        engine: str | type,
        engines: int,
        cpus: float,
        gpus: float,
        max_restarts: int,
        target: Target | None = None,
    ) -> None:
        """Create the engines and return at once.

        Args:
            spec: of every engine.
            engine: a name of `ENGINES`, or the class of another `RolloutEngine`.
            engines: how many, without a `target`.
            cpus, gpus: of one engine.
            target: the engines that there should be, asked every few seconds.
        """
        self.prefix = f"minirec-{secrets.token_hex(4)}-"
        self.actors: dict[str, Any] = {}
        self._nodes: dict[str, str] = {}
        self._seen: set[str] = set()  # all nodes that had an engine
        self._made = 0
        self._actor = ray.remote(concurrency_groups={"status": 1})(_Engine)
        self._options = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": max_restarts,
            "max_task_retries": -1,
            "max_concurrency": 1,
            "runtime_env": {"env_vars": engine_environment(spec)},
        }
        kind = ENGINES[engine] if isinstance(engine, str) else engine
        self._arguments = (kind, replace(spec, scratch=self.prefix))
        for node in target({}) if target else [""] * engines:
            self._add(node)
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        if target is not None:
            self._thread.start()

    def _add(self, node: str) -> None:
        name = f"{self.prefix}{self._made}"
        self._made += 1
        self._nodes[name] = node
        # Where it was counted, else it may take the room of the trainer.
        place = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        options = {"name": name, "scheduling_strategy": place, **self._options}
        self.actors[name] = self._actor.options(**options).remote(*self._arguments)

    def _keep(self) -> None:
        assert self._target is not None
        while not self._stop.wait(TICK_S):
            try:
                self.fit(self._target)
            except Exception as error:  # the cluster may be gone or busy; the next look tells
                logging.getLogger(__name__).warning("engines were not counted: %s", error)

    def fit(self, target: Target) -> None:
        """Add or drop engines until there are as many as `target` says; the misplaced go first.

        An engine that ended for good through its own fault still counts: another one would end
        the same way. One that ended with its node is replaced.
        """
        entries = {name: ray_state.actors(a._ray_actor_id.hex()) for name, a in self.actors.items()}
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
            return name not in here, name not in placed, int(name.removeprefix(self.prefix))

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
            # Ray's own table (private) knows the process of a hung or restarted engine too.
            entry = ray_state.actors(actor._ray_actor_id.hex())
            if entry.get("Pid"):
                by_node.setdefault(entry["Address"]["NodeID"], []).append(entry["Pid"])
            ray.kill(actor, no_restart=True)
        waits = [
            _end.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(pids, self.prefix)
            for node, pids in by_node.items()
        ]
        if waits:
            ray.wait(waits, num_returns=len(waits), timeout=60)
        self.actors = {}


@ray.remote(num_cpus=0)
def _end(pids: list[int], pool: str) -> None:
    """Return when the processes are gone from this node, with the files that a kill leaves."""
    _await_end(pids)
    for folder in Path(tempfile.gettempdir()).glob(f"{pool}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _await_end(pids: list[int]) -> None:
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
