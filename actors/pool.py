"""A pool of rollout engines: who generates hands calls to it, and gets results in their order.

Each engine is a Ray actor (`actors.roster`). Ray restarts an engine that died and repeats the call
it was on; a call that exceeds its deadline has its engine killed, which comes to the same. While
an engine is away, its call goes to another one. Results depend on the call alone, hence a
repeated call gives the same bytes.
"""

from __future__ import annotations

import contextlib
import copy
import random
import secrets
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.causes import cause, taken_away
from actors.rollout import Adapter, Completion, EngineSpec
from actors.roster import Call, Roster, Target
from minirec.errors import EngineError

STATUS_S = 5.0  # an engine that cannot say within this time what it does is taken as hung
REFRESH_S = 2.0  # between two looks for engines that were added
NODE_S = 30.0  # Ray may take so long to see that a process was lost with its node
ALIVE = 2  # ActorTableData.ActorState


class PoolHandle:
    """What a Ray Train worker or a Ray Data actor holds to generate; picklable."""

    def __init__(
        self,
        actors: dict[str, Any],
        *,
        prefix: str,
        name: str,
        least: int,
        elastic: bool,
        deadline_s: float,
        start_deadline_s: float,
        max_restarts: int,
    ) -> None:
        """Args:
        actors: the engines of the moment by actor name, which starts with `prefix`.
        name: of the kind of engine, for messages.
        least: engines without which the pool gives up, after the starting deadline.
        elastic: engines come and go; else one that is lost is an error at once.
        """
        self._actors = actors
        self._prefix = prefix
        self._name = name
        self._least = least
        self._elastic = elastic
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
            EngineError: an engine raised, died more often than `max_restarts`, hung that often,
                or fewer engines than `least` came up within the starting deadline.
        """
        work = _Work(self, calls, adapter)
        while work.waiting or work.running:
            work.advance()
        return work.results

    def of_ones_own(self) -> PoolHandle:
        """Another handle for the same engines, for another thread."""
        return copy.copy(self)

    def probe(self) -> list[dict[str, Any]]:
        """A one-token generation on every engine, within the starting deadline."""
        refs = {name: actor.probe.remote() for name, actor in self._actors.items()}
        end = time.monotonic() + self._start_deadline_s
        answers = []
        for engine, ref in refs.items():
            done, _ = ray.wait([ref], timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise EngineError(
                    f"{self._label(engine)} did not answer its first probe within "
                    f"{self._start_deadline_s:g} s; {_resources()}"
                )
            try:
                answers.append(self._get(ref, engine, "its first probe"))
            except RayActorError as error:
                raise self._died(engine, "at its first probe", error) from error
        return answers

    def _refresh(self) -> None:
        """Learn of engines that were added since; one that has ended says why when it is asked.

        The dict is replaced, never changed: another thread may be reading it.
        """
        if not self._elastic:
            return
        names = {n for n in ray.util.list_named_actors() if n.startswith(self._prefix)}
        found = dict(self._actors)
        for name in names - found.keys():
            with contextlib.suppress(ValueError):  # gone between the two calls
                found[name] = ray.get_actor(name)
        self._actors = found

    def _drop(self, engine: str) -> None:
        self._actors = {name: actor for name, actor in self._actors.items() if name != engine}

    def _get(self, ref: Any, engine: str, awaited: str) -> Any:
        try:
            return ray.get(ref, timeout=60)
        except RayTaskError as error:
            raised = error.cause
            raise EngineError(
                f"{self._label(engine)} failed at {awaited}: {type(raised).__name__}: {raised}"
            ) from error

    def _died(self, engine: str, when: str, error: RayActorError) -> EngineError:
        when = "at its start" if error.actor_init_failed else when
        return EngineError(
            f"{self._label(engine)} died {when} and was restarted at most "
            f"{self._max_restarts} times: {cause(error)}"
        )

    def _label(self, engine: str) -> str:
        number = int(engine.removeprefix(self._prefix)) + 1
        return f"engine {number} of {max(number, len(self._actors))} ({self._name})"


@dataclass
class _Running:
    """A call that an engine has: its place among the results, and since when it is waited for.

    The engine's status names the call by its `key`.
    """

    index: int
    engine: str
    since: float
    key: str


@dataclass
class _Asked:
    """An engine that was asked for its status and has not answered: it starts, or it hangs."""

    engine: str
    since: float


class _Work:
    """The state of one `PoolHandle.generate`."""

    def __init__(self, pool: PoolHandle, calls: list[Call], adapter: Adapter | None) -> None:
        self.pool = pool
        self.calls = calls
        self.adapter = adapter
        self.waiting = deque(range(len(calls)))
        self.running: dict[Any, _Running] = {}
        self.results: list[Any] = [None] * len(calls)
        self._free: deque[str] = deque()
        self._asked: dict[Any, _Asked] = {}
        self._lost: Counter[int] = Counter()  # times that a call lost its engine
        self._kills: Counter[int] = Counter()  # engines killed because a call took too long
        self._refreshed = time.monotonic()
        self._enough = time.monotonic()
        self._fault: EngineError | None = None  # of the last engine that ended by itself
        if calls:
            self._meet()
        if self._asked:
            ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0.2)

    def advance(self) -> None:
        """Hand out calls, wait a moment for answers, and look after who does not answer."""
        pool = self.pool
        while self.waiting and self._free:
            self._hand_out(self.waiting.popleft(), self._free.popleft())
        pause = min(1.0, pool._deadline_s / 4)
        refs = [*self.running, *self._asked]
        if not refs:
            time.sleep(pause)
        elif ray.wait(refs, timeout=pause)[0]:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            self._arrived([ref for ref in done if ref in self._asked])
            for ref in [ref for ref in done if ref in self.running]:
                self._finished(ref, self.running.pop(ref))
        self._look_after()
        if time.monotonic() - self._refreshed > REFRESH_S:
            self._meet()
        self._check_enough()

    def _meet(self) -> None:
        """Ask engines that have no part in this work yet for their status."""
        self._refreshed = time.monotonic()
        self.pool._refresh()
        known = {one.engine for one in [*self.running.values(), *self._asked.values()]}
        known.update(self._free)
        new = [name for name in self.pool._actors if name not in known]
        random.shuffle(new)
        for name in new:
            self._ask(name)

    def _ask(self, engine: str) -> None:
        actor = self.pool._actors.get(engine)
        if actor is not None:  # else dropped since, maybe by another thread
            self._asked[actor.status.remote()] = _Asked(engine, time.monotonic())

    def _arrived(self, refs: list[Any]) -> None:
        """Engines that live get calls: idle ones before those at work for somebody else."""
        for ref in refs:
            engine = self._asked.pop(ref).engine
            try:
                busy = self.pool._get(ref, engine, "its status")["call"] is not None
            except RayActorError as error:
                self._gone(engine, error, "between two calls")
                continue
            (self._free.append if busy else self._free.appendleft)(engine)

    def _hand_out(self, index: int, engine: str) -> None:
        actor = self.pool._actors.get(engine)
        if actor is None:  # dropped since
            self.waiting.appendleft(index)
            return
        key = secrets.token_hex(8)
        ref = actor.generate.remote(key, self.calls[index], self.adapter)
        self.running[ref] = _Running(index, engine, time.monotonic(), key)

    def _finished(self, ref: Any, one: _Running) -> None:
        try:
            answer = self.pool._get(ref, one.engine, "a generate call")
        except RayActorError as error:
            self._lost[one.index] += 1
            if self._lost[one.index] > self.pool._max_restarts:
                raise self.pool._died(one.engine, "at a generate call", error) from error
            self._gone(one.engine, error, "at a generate call")
            self.waiting.appendleft(one.index)
            return
        self.results[one.index] = answer
        self._free.append(one.engine)

    def _gone(self, engine: str, error: RayActorError, when: str) -> None:
        """An engine has ended for good: an error, unless the cluster may have taken it away."""
        died = self.pool._died(engine, when, error)
        if not self.pool._elastic or error.actor_init_failed:
            raise died from error
        self.pool._drop(engine)
        if not taken_away(error):
            self._fault = died

    def _look_after(self) -> None:
        now = time.monotonic()
        for ref, one in list(self.running.items()):
            if now - one.since > min(self.pool._deadline_s, STATUS_S):
                self._late(ref, one)
        for one in self._asked.values():
            actor = self.pool._actors.get(one.engine)
            if (
                actor is not None
                and now - one.since > self.pool._deadline_s
                and actor._get_local_state() == ALIVE
            ):
                ray.kill(actor, no_restart=False)  # it hangs
                one.since = now

    def _late(self, ref: Any, one: _Running) -> None:
        """Decide about a call that takes long: wait on, give it to another engine, or kill its own.

        The time counts from when the engine began the call, not from when it was handed over:
        another client's call may stand before it, or the engine may be starting again.
        """
        pool, waited = self.pool, time.monotonic() - one.since
        actor = pool._actors.get(one.engine)
        if actor is None:
            return  # dropped; its call will fail in a moment
        # A private method, the only way to tell a hung engine from one that is starting.
        if actor._get_local_state() != ALIVE:
            if self._free or len(self.running) > 1:
                self.waiting.appendleft(self.running.pop(ref).index)
                self._ask(one.engine)
            elif waited > pool._deadline_s + pool._start_deadline_s:
                raise EngineError(
                    f"{pool._label(one.engine)} did not come back within {waited:.0f} s; "
                    f"{_resources()}"
                )
            return
        if waited <= pool._deadline_s:
            return
        done, _ = ray.wait([status := actor.status.remote()], timeout=STATUS_S)
        own = True
        if done:
            try:
                answer = pool._get(status, one.engine, "its status")
            except RayActorError:
                return  # it has just died; its call fails next, or is tried again
            if answer["seconds"] <= pool._deadline_s:
                one.since = time.monotonic() - answer["seconds"]
                return
            own = answer["call"] == one.key
        if own and self._kills[one.index] == pool._max_restarts:
            raise EngineError(
                f"{pool._label(one.engine)} did not finish a generate call within "
                f"{pool._deadline_s:g} s, {pool._max_restarts + 1} times; raise "
                "rollout.deadline_s or lower rollout.prompts_per_call"
            )
        ray.kill(actor, no_restart=False)
        self._kills[one.index] += own  # another client's call that hung is not this one's fault
        one.since = time.monotonic()

    def _check_enough(self) -> None:
        """Give up when too few engines have been there for longer than one takes to start.

        Sooner where the last one ended by itself and none is starting: nobody replaces it.
        """
        pool, there = self.pool, len(self._free) + len(self.running)
        nobody = self._fault is not None and not there and not self._asked
        limit = min(NODE_S, pool._start_deadline_s) if nobody else pool._start_deadline_s
        if there >= pool._least:
            self._enough = time.monotonic()
        elif time.monotonic() - self._enough > limit:
            raise self._fault or EngineError(
                f"{there} of at least {pool._least} engines ({pool._name}) came up within "
                f"{pool._start_deadline_s:g} s (rollout.start_deadline_s); {_resources()}"
            )


class Pool:
    """The driver's side: starts the engines and ends them. A context manager."""

    def __init__(self, roster: Roster, handle: PoolHandle) -> None:
        self._roster = roster
        self._handle = handle

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
            engine: a name of `actors.roster.ENGINES`, or the class of another `RolloutEngine`.
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
        handle = PoolHandle(
            dict(roster.actors),
            prefix=roster.prefix,
            name=name or str(engine),
            least=engines if least is None else least,
            elastic=target is not None,
            deadline_s=deadline_s,
            start_deadline_s=start_deadline_s,
            max_restarts=max_restarts,
        )
        return cls(roster, handle)

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
        self._roster.close()
        self._handle._actors = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _resources() -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    return "; ".join(
        f"{name}: {free.get(name, 0):g} free of {total.get(name, 0):g}" for name in ("CPU", "GPU")
    )
