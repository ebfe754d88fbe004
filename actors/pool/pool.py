"""A pool of rollout engines: who generates hands calls to it, and gets results in their order.

Each engine is a Ray actor (`actors.pool.roster`). Ray restarts an engine that died and repeats the
call it was on; a call that exceeds its deadline has its engine killed, which comes to the same.
While an engine is away, its call goes to another one (`actors.pool.dispatch`). Results depend on
the call alone, hence a repeated call gives the same bytes.
"""

from __future__ import annotations

import copy
from typing import Any

from actors.engines.engine import Adapter, Completion, EngineSpec
from actors.pool.dispatch import Dispatch
from actors.pool.known import Engines
from actors.pool.roster import Call, Roster, Target


class PoolHandle:
    """What a Ray Train worker or a Ray Data actor holds to generate; picklable."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def __len__(self) -> int:
        return len(self._engines.actors)

    def generate(
        self, calls: list[Call], adapter: Adapter | None = None
    ) -> list[list[list[Completion]]]:
        """One generate call of some engine for each of `calls`; results in their order.

        Raises:
            EngineError: an engine raised, died more often than `max_restarts`, hung that often,
                or fewer engines than `least` came up within the starting deadline.
        """
        return Dispatch(self._engines, calls, adapter).run()

    def probe(self) -> list[dict[str, Any]]:
        """A one-token generation on every engine, within the starting deadline.

        Raises:
            EngineError: one did not answer in time, or died; names the resources.
        """
        return self._engines.probe()

    def of_ones_own(self) -> PoolHandle:
        """Another handle for the same engines, for another thread."""
        return PoolHandle(copy.copy(self._engines))


class Pool:
    """The driver's side: starts the engines and ends them. A context manager."""

    def __init__(self, roster: Roster, engines: Engines) -> None:
        self._roster = roster
        self._engines = engines

    @classmethod
    def start(
        cls,
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
    ) -> Pool:
        """Create the actors and return at once; `wait_ready` waits for them.

        Args:
            engine: a name of `actors.pool.roster.ENGINES`, or the class of another `RolloutEngine`.
            least: engines that must live; default: all.
            target: the engines that there should be; None: always `engines`.
        """
        roster = Roster(
            spec,
            engine=engine,
            engines=engines,
            cpus=cpus_per_engine,
            gpus=gpus_per_engine,
            max_restarts=max_restarts,
            target=target,
        )
        known = Engines(
            dict(roster.actors),
            prefix=roster.prefix,
            name=name or str(engine),
            least=engines if least is None else least,
            elastic=target is not None,
            deadline_s=deadline_s,
            start_deadline_s=start_deadline_s,
            max_restarts=max_restarts,
        )
        return cls(roster, known)

    def wait_ready(self) -> Pool:
        """Block until every engine has generated a token.

        Raises:
            EngineError: one did not within `start_deadline_s`, or died; names the resources.
        """
        self._engines.probe()
        return self

    def handle(self) -> PoolHandle:
        """For whoever generates."""
        return PoolHandle(self._engines)

    def close(self) -> None:
        """Kill the engines and return when their processes are gone."""
        self._roster.close()
        self._engines.actors = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
