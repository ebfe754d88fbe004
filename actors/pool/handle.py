"""The client's side of the pool: sends calls to the engines, and retries those that an engine lost.

Each engine works on one call of a request at a time. It may also have calls of other clients.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError

from actors.causes import taken_away
from actors.engines.engine import Adapter, Completion
from actors.pool.actor import Call
from actors.pool.members import Members
from minirec.errors import EngineError

STATUS_S = 5.0  # an engine hangs if it does not answer `status` within this time
REFRESH_S = 2.0  # time between two searches for added engines
NODE_S = 30.0  # Ray may need this time to notice that a process died with its node


class PoolHandle(Members):
    """What a Ray Train worker or a Ray Data actor needs to generate; picklable."""

    def __len__(self) -> int:
        return len(self.actors)

    def generate(
        self, calls: list[Call], adapter: Adapter | None = None
    ) -> list[list[list[Completion]]]:
        """The completions of each call, in the order of the calls.

        Raises:
            EngineError: an engine raised an exception, a call lost its engine or exceeded its
                deadline more than `max_restarts` times, or too few engines came up in time.
        """
        return Dispatch(self, calls, adapter).run()


@dataclass
class _Running:
    """Call number `index`, which `engine` works on; its status names the call by `key`."""

    index: int
    engine: str
    since: float
    key: str


@dataclass
class _Asked:
    """An engine that has not answered a request for its status: it starts, or it hangs."""

    engine: str
    since: float


class Dispatch:
    """The state of one request."""

    def __init__(self, engines: Members, calls: list[Call], adapter: Adapter | None) -> None:
        self._engines = engines
        self._link = engines.link
        self._calls = calls
        self._adapter = adapter
        self._waiting = deque(range(len(calls)))
        self._running: dict[Any, _Running] = {}
        self._results: list[Any] = [None] * len(calls)
        self._free: deque[str] = deque()
        self._asked: dict[Any, _Asked] = {}
        self._lost: Counter[int] = Counter()  # how often a call lost its engine
        self._kills: Counter[int] = Counter()  # engines killed because this call took too long
        self._refreshed = self._link.now()
        self._enough = self._link.now()
        self._fault: EngineError | None = None  # of the last engine that died by itself
        if calls:
            self._meet()
        if self._asked:
            self._link.wait(list(self._asked), num_returns=len(self._asked), timeout=0.2)

    def run(self) -> list[Any]:
        while self._waiting or self._running:
            self._advance()
        return self._results

    def _advance(self) -> None:
        """Hand out calls, wait a moment for answers, and check engines that do not answer."""
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
        """Ask engines that this request does not use yet for their status."""
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
        if actor is not None:  # another thread may have dropped it
            self._asked[actor.status.remote()] = _Asked(engine, self._link.now())

    def _arrived(self, refs: list[Any]) -> None:
        """Add engines that answered to the free ones; idle engines get the next calls first."""
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
        if actor is None:  # it was dropped
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
        """Drop a dead engine; raise if the pool is not elastic or the engine cannot start."""
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
            hangs = actor is not None and now - asked.since > self._engines.deadline_s
            if hangs and self._link.alive(actor):
                self._link.restart(actor)
                asked.since = now

    def _late(self, ref: Any, one: _Running) -> None:
        """Decide about a call that takes long: wait, send it to another engine, or kill its engine.

        The deadline counts from when the engine began the call: the engine may first finish a call
        of another client, or restart.
        """
        engines, waited = self._engines, self._link.now() - one.since
        actor = engines.actors.get(one.engine)
        if actor is None:
            return  # it was dropped; its call will fail in a moment
        if not self._link.alive(actor):
            self._away(ref, one, waited)
        elif waited > engines.deadline_s:
            self._overdue(actor, one)

    def _away(self, ref: Any, one: _Running, waited: float) -> None:
        """The engine is restarting: give its call to another engine if there is one."""
        engines = self._engines
        if self._free or len(self._running) > 1:
            self._waiting.appendleft(self._running.pop(ref).index)
            self._ask(one.engine)
        elif waited > engines.deadline_s + engines.start_deadline_s:
            raise EngineError(
                f"{engines.label(one.engine)} did not restart within {waited:.0f} s; "
                f"{self._link.resources()}"
            )

    def _overdue(self, actor: Any, one: _Running) -> None:
        """Kill the engine, unless its status shows that it began its call within the deadline."""
        engines = self._engines
        done, _ = self._link.wait([status := actor.status.remote()], timeout=STATUS_S)
        own = True
        if done:
            try:
                answer = engines.answer(status, one.engine, "its status")
            except RayActorError:
                return  # it has just died; its call fails next, or is retried
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
            return  # another client has just killed it
        self._link.restart(actor)
        self._kills[one.index] += own  # only if its own call hung
        one.since = self._link.now()

    def _check_enough(self) -> None:
        """Fail if too few engines have been up for longer than `start_deadline_s`.

        Fail earlier if the last engine died by itself and none is starting: it is not replaced.
        """
        engines, up = self._engines, len(self._free) + len(self._running)
        none_left = self._fault is not None and not up and not self._asked
        limit = min(NODE_S, engines.start_deadline_s) if none_left else engines.start_deadline_s
        if up >= engines.least:
            self._enough = self._link.now()
        elif self._link.now() - self._enough > limit:
            raise self._fault or EngineError(
                f"{up} of at least {engines.least} engines ({engines.name}) came up within "
                f"{engines.start_deadline_s:g} s (rollout.start_deadline_s); "
                f"{self._link.resources()}"
            )
