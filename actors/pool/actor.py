"""The Ray actor around a rollout engine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors.engines.engine import GPU_PROMPTS, Adapter, Completion, EngineSpec, RolloutEngine
from actors.process import trim
from minirec.model.hub import downloaded
from minirec.store.files import fetch

TRIM_CALLS = 8  # an engine returns free memory to the system every 8 calls


@dataclass(frozen=True)
class Call:
    """The arguments of one `RolloutEngine.generate`, apart from the adapter."""

    prompts: list[list[int]]
    n: int
    seeds: list[int]
    greedy: bool = False
    limits: list[int] | None = None


def calls_of(
    prompts: Sequence[list[int]],
    *,
    n: int,
    seeds: Sequence[int],
    size: int | None,
    engines: int,
    greedy: bool = False,
    limits: Sequence[int] | None = None,
) -> list[Call]:
    """Cut prompts into calls of `size`; None: equal calls, so that each of `engines` has work."""
    if size is None:
        calls = max(engines, math.ceil(len(prompts) / GPU_PROMPTS), 1)
        size = max(1, math.ceil(len(prompts) / calls))
    parts = [slice(i, i + size) for i in range(0, len(prompts), size)]
    return [
        Call(list(prompts[p]), n, list(seeds[p]), greedy, None if limits is None else [*limits[p]])
        for p in parts
    ]


class EngineActor:
    """One engine. `status` has its own thread, so it answers while `generate` works."""

    def __init__(self, engine: Callable[[EngineSpec], RolloutEngine], spec: EngineSpec) -> None:
        self._now: tuple[str, float] | None = None
        self._engine = engine(replace(spec, model=fetch(downloaded(spec.model))))
        self._calls = 0
        self._adapter: tuple[Adapter, Adapter] | None = None  # the last adapter and its local copy

    def generate(self, key: str, call: Call, adapter: Adapter | None) -> list[list[Completion]]:
        self._now = (key, time.monotonic())
        try:
            local = adapter and self._local(adapter)
            return self._engine.generate(**vars(call), adapter=local)
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
        """Process, node, the key of the current call (None: idle), and its seconds so far."""
        now = self._now
        return {
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "call": now[0] if now else None,
            "seconds": time.monotonic() - now[1] if now else 0.0,
        }
