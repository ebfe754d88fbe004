"""Sends the calls of one request to engines, and repeats on another engine what one has lost.

An engine has one call of a request at a time and gets the next when it has finished that. It may
have calls of other clients too.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError

from actors.causes import taken_away
from actors.engines.engine import Adapter
from actors.pool.actor import Call
from actors.pool.engines import Engines
from minirec.errors import EngineError

STATUS_S = 5.0  # an engine that does not answer `status` within this time hangs
REFRESH_S = 2.0  # between two looks for engines that were added
NODE_S = 30.0  # Ray may take so long to see that a process was lost with its node


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


class Dispatch:
    """The state of one request; `run` serves it."""

    def __init__(self, engines: Engines, calls: list[Call], adapter: Adapter | None) -> None:
        self._engines = engines
        self._link = engines.link
        self._calls = calls
        self._adapter = adapter
        self._waiting = deque(range(len(calls)))
        self._running: dict[Any, _Running] = {}
        self._results: list[Any] = [None] * len(calls)
        self._free: deque[str] = deque()
        self._asked: dict[Any, _Asked] = {}
        self._lost: Counter[int] = Counter()  # times that a call lost its engine
        self._kills: Counter[int] = Counter()  # engines killed because a call took too long
        self._refreshed = self._link.now()
        self._enough = self._link.now()
        self._fault: EngineError | None = None  # of the last engine that ended by itself
        if calls:
            self._meet()
        if self._asked:
            self._link.wait(list(self._asked), num_returns=len(self._asked), timeout=0.2)

    def run(self) -> list[Any]:
        """Results in the order of the calls. Raises as `PoolHandle.generate`."""
        while self._waiting or self._running:
            self._advance()
        return self._results

    def _advance(self) -> None:
        """Hand out calls, wait a moment for answers, and check the engines that give none."""
        engines = self._engines
        while self._waiting and self._free:
            self._hand_out(self._waiting.popleft(), self._free.popleft())
        pause = min(1.0, engines.deadline_s / 4)
        refs = [*self._running, *self._asked]
        if not refs:
            self._link.sleep(pause)
        elif self._link.wait(refs, timeout=pause)[0]:
            done, _ = self._link.wait(refs, num_returns=len(refs), timeout=0)
            self._arrived([ref for ref in done if ref in self._asked])
            for ref in [ref for ref in done if ref in self._running]:
                self._finished(ref, self._running.pop(ref))
        self._check_late()
        if self._link.now() - self._refreshed > REFRESH_S:
            self._meet()
        self._check_enough()

    def _meet(self) -> None:
        """Ask engines that have no part in this request yet for their status."""
        self._refreshed = self._link.now()
        self._engines.refresh()
        known = {one.engine for one in self._running.values()}
        known |= {one.engine for one in self._asked.values()} | {*self._free}
        new = [name for name in self._engines.actors if name not in known]
        random.shuffle(new)
        for name in new:
            self._ask(name)

    def _ask(self, engine: str) -> None:
        actor = self._engines.actors.get(engine)
        if actor is not None:  # else dropped since, maybe by another thread
            self._asked[actor.status.remote()] = _Asked(engine, self._link.now())

    def _arrived(self, refs: list[Any]) -> None:
        """Engines that answer get calls: idle ones before those that work for another client."""
        for ref in refs:
            engine = self._asked.pop(ref).engine
            try:
                busy = self._engines.answer(ref, engine, "its status")["call"] is not None
            except RayActorError as error:
                self._gone(engine, error, "between two calls")
                continue
            (self._free.append if busy else self._free.appendleft)(engine)

    def _hand_out(self, index: int, engine: str) -> None:
        actor = self._engines.actors.get(engine)
        if actor is None:  # dropped since
            self._waiting.appendleft(index)
            return
        key = secrets.token_hex(8)
        ref = actor.generate.remote(key, self._calls[index], self._adapter)
        self._running[ref] = _Running(index, engine, self._link.now(), key)

    def _finished(self, ref: Any, one: _Running) -> None:
        try:
            answer = self._engines.answer(ref, one.engine, "a generate call")
        except RayActorError as error:
            self._lost[one.index] += 1
            if self._lost[one.index] > self._engines.max_restarts:
                raise self._engines.died(one.engine, "at a generate call", error) from error
            self._gone(one.engine, error, "at a generate call")
            self._waiting.appendleft(one.index)
            return
        self._results[one.index] = answer
        self._free.append(one.engine)

    def _gone(self, engine: str, error: RayActorError, when: str) -> None:
        """An engine has ended for good: an error, unless the cluster may have taken it away."""
        died = self._engines.died(engine, when, error)
        if not self._engines.elastic or error.actor_init_failed:
            raise died from error
        self._engines.drop(engine)
        if not taken_away(error):
            self._fault = died

    def _check_late(self) -> None:
        now = self._link.now()
        for ref, one in list(self._running.items()):
            if now - one.since > min(self._engines.deadline_s, STATUS_S):
                self._late(ref, one)
        for asked in self._asked.values():
            actor = self._engines.actors.get(asked.engine)
            if (
                actor is not None
                and now - asked.since > self._engines.deadline_s
                and self._link.alive(actor)
            ):
                self._link.restart(actor)  # it hangs
                asked.since = now

    def _late(self, ref: Any, one: _Running) -> None:
        """Decide about a call that takes long: wait, send it to another engine, or kill its engine.

        The time counts from when the engine began the call, not from when it was handed over:
        another client's call may stand before it, or the engine may be starting again.
        """
        engines, waited = self._engines, self._link.now() - one.since
        actor = engines.actors.get(one.engine)
        if actor is None:
            return  # dropped; its call will fail in a moment
        if not self._link.alive(actor):
            self._away(ref, one, waited)
        elif waited > engines.deadline_s:
            self._overdue(actor, one)

    def _away(self, ref: Any, one: _Running, waited: float) -> None:
        """The engine is starting again: its call goes to another one, if there is any."""
        engines = self._engines
        if self._free or len(self._running) > 1:
            self._waiting.appendleft(self._running.pop(ref).index)
            self._ask(one.engine)
        elif waited > engines.deadline_s + engines.start_deadline_s:
            raise EngineError(
                f"{engines.label(one.engine)} did not come back within {waited:.0f} s; "
                f"{self._link.resources()}"
            )

    def _overdue(self, actor: Any, one: _Running) -> None:
        """Kill the engine, unless it says that it began its call within the deadline."""
        engines = self._engines
        done, _ = self._link.wait([status := actor.status.remote()], timeout=STATUS_S)
        own = True
        if done:
            try:
                answer = engines.answer(status, one.engine, "its status")
            except RayActorError:
                return  # it has just died; its call fails next, or is tried again
            if answer["seconds"] <= engines.deadline_s:
                one.since = self._link.now() - answer["seconds"]
                return
            own = answer["call"] == one.key
        if own and self._kills[one.index] == engines.max_restarts:
            raise EngineError(
                f"{engines.label(one.engine)} did not finish a generate call within "
                f"{engines.deadline_s:g} s, {engines.max_restarts + 1} times; raise "
                "rollout.deadline_s or lower rollout.prompts_per_call"
            )
        if not self._link.alive(actor):
            return  # another client has killed it meanwhile
        self._link.restart(actor)
        self._kills[one.index] += own  # another client's call that hung is not this one's fault
        one.since = self._link.now()

    def _check_enough(self) -> None:
        """Fail when too few engines have been up for longer than one may take to start.

        Fail earlier if the last one ended by itself and none is starting: nobody replaces it.
        """
        engines, up = self._engines, len(self._free) + len(self._running)
        nobody = self._fault is not None and not up and not self._asked
        limit = min(NODE_S, engines.start_deadline_s) if nobody else engines.start_deadline_s
        if up >= engines.least:
            self._enough = self._link.now()
        elif self._link.now() - self._enough > limit:
            raise self._fault or EngineError(
                f"{up} of at least {engines.least} engines ({engines.name}) came up within "
                f"{engines.start_deadline_s:g} s (rollout.start_deadline_s); "
                f"{self._link.resources()}"
            )
