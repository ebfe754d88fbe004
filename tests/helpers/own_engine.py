"""An engine in this process, in place of the pool."""

from __future__ import annotations

from collections.abc import Sequence

from actors.engines.engine import Adapter, Completion, EngineSpec
from actors.engines.transformers import TransformersEngine
from actors.pool.actor import Call


class OwnEngine:
    """Stands for `PoolHandle`."""

    def __init__(self, spec: EngineSpec):
        self.engine = TransformersEngine(spec)

    def generate(
        self, calls: Sequence[Call], *, adapter: Adapter | None = None
    ) -> list[list[list[Completion]]]:
        """The answers of all calls, one call after another."""
        return [self.engine.generate(**vars(call), adapter=adapter) for call in calls]

    def __len__(self) -> int:
        return 1

    def __copy__(self) -> OwnEngine:
        return self
