"""The driver's side of the pool: starts, adds and ends rollout engines.

Each engine is a Ray actor (`actors.pool.actor`). Clients send their calls through a `PoolHandle`
(`actors.pool.handle`), which gives the results in the order of the calls.

Ray restarts an engine that died and repeats its call. An engine whose call exceeds its deadline is
killed, which has the same effect. While an engine is away, its call goes to another one. Results
depend only on the call, so a repeated call gives the same bytes.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._private import state as ray_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.engines.engine import EngineSpec, engine_environment
from actors.engines.transformers import TransformersEngine
from actors.engines.vllm import VllmEngine
from actors.pool.actor import EngineActor
from actors.pool.handle import PoolHandle
from actors.pool.members import Link

ENGINES = {"vllm": VllmEngine, "transformers": TransformersEngine}
TICK_S = 2.0  # time between two looks at the nodes of the cluster
Target = Callable[[Mapping[str, int]], list[str]]
"""From working engines by node id to a node id for each wanted engine; empty means any node."""


class Pool:
    """Starts the engines and ends them. A context manager.

    Engines are named actors of the driver's job: clients find added engines by name, and no engine
    outlives the driver. Ray restarts an engine that died, on another node if needed. With a
    `target`, a thread also adds engines when a node joins, and drops engines for which no node has
    room, so that no client waits for them.
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
            engine: a key of `ENGINES`, or the class of another `RolloutEngine`.
            engines: number of engines without a `target`.
            least: engines that must be up; default: `engines`.
            target: called every `TICK_S` for the wanted engines; None: the number is fixed.
        """
        self.actors: dict[str, Any] = {}
        self._prefix = f"minirec-{secrets.token_hex(4)}-"
        self._nodes: dict[str, str] = {}  # node of each engine
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
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if target is not None:
            self._thread = threading.Thread(target=self._keep, args=(target,), daemon=True)
            self._thread.start()

    def wait_ready(self) -> Pool:
        """Wait until every engine has generated a token. Raises as `Members.probe`."""
        self._handle.probe()
        return self

    def handle(self) -> PoolHandle:
        return self._handle

    def _add(self, node: str) -> None:
        name = f"{self._prefix}{self._made}"
        self._made += 1
        self._nodes[name] = node
        # Elsewhere than on the planned node, it may take the room of a training worker.
        place = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        options = self._actor.options(name=name, scheduling_strategy=place)
        self.actors[name] = options.remote(*self._arguments)

    def _keep(self, target: Target) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self._fit(target)
            except Exception as error:  # the cluster may be gone or busy: retry at the next tick
                logging.getLogger(__name__).warning("could not check the engines: %s", error)

    def _fit(self, target: Target) -> None:
        """Add or drop engines to match `target`; misplaced engines are dropped first.

        An engine that died by itself still counts: another one would die the same way. An engine
        that died with its node is replaced.
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
        """Kill the engines and wait until their processes are gone."""
        self._stop.set()
        if self._thread is not None:
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
    """State, node and process of an actor, even if it hangs or restarts.

    Ray's public state API needs the dashboard, which the local Ray of a command does not have.
    """
    return ray_state.actors(actor._ray_actor_id.hex())


def match(nodes: Mapping[str, str], wanted: list[str]) -> tuple[set[str], list[str]]:
    """The engines on a wanted node, and the wanted nodes without an engine.

    Args:
        nodes: node of each engine, oldest engine first.
        wanted: the result of a `Target`.
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
    """Wait until the processes on this node are gone, and delete their temporary files.

    A process that Ray has not ended after 5 s is killed. After 15 s the wait ends: the process is
    a zombie, or another one has the same number.
    """
    start = time.monotonic()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        waited = time.monotonic() - start
        if waited > 15:
            break
        for pid in pids:
            if waited > 5 and _is_engine(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for folder in Path(tempfile.gettempdir()).glob(f"{pool}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _is_engine(pid: int) -> bool:
    try:  # Ray sets the title of the process
        return b"EngineActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
