"""The engines of a pool as a client knows them, and the calls to Ray that a client needs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.causes import cause
from minirec.errors import EngineError

ALIVE = 2  # ActorTableData.ActorState


class Link:
    """Ray and the clock; tests replace it."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    get = staticmethod(ray.get)
    wait = staticmethod(ray.wait)

    def alive(self, actor: Any) -> bool:
        """Whether the actor's process runs; False while it is restarting."""
        # Only this private method distinguishes a hung engine from a starting one.
        return actor._get_local_state() == ALIVE

    def restart(self, actor: Any) -> None:
        """Kill the process of an actor; Ray restarts it and repeats its calls."""
        ray.kill(actor, no_restart=False)

    def names(self) -> list[str]:
        """Names of all living actors."""
        return ray.util.list_named_actors()

    def find(self, name: str) -> Any:
        """The actor with this name; raises ValueError if it is gone."""
        return ray.get_actor(name)

    def resources(self) -> str:
        """Free and total CPUs and GPUs of the cluster, for error messages."""
        free, total = ray.available_resources(), ray.cluster_resources()
        return "; ".join(
            f"{name}: {free.get(name, 0):g} free of {total.get(name, 0):g}"
            for name in ("CPU", "GPU")
        )


@dataclass
class Members:
    """The engines by name, and the limits for calls to them; picklable.

    Attributes:
        actors: the current engines. The dict is replaced and never changed, because another thread
            may be reading it.
        prefix: the names of all engines start with it.
        name: the kind of engine, for messages.
        least: a request fails if fewer engines are up for longer than `start_deadline_s`.
        elastic: engines may come and go; otherwise the loss of one is an error.
        deadline_s: longest time of a call.
        start_deadline_s: longest time of an engine's start.
        max_restarts: how often a call may lose its engine.
    """

    actors: dict[str, Any]
    prefix: str
    name: str
    least: int
    elastic: bool
    deadline_s: float
    start_deadline_s: float
    max_restarts: int
    link: Any

    def probe(self) -> list[dict[str, Any]]:
        """Generate one token on every engine.

        Raises:
            EngineError: an engine died, or did not answer within `start_deadline_s`.
        """
        link = self.link
        refs = {name: actor.probe.remote() for name, actor in self.actors.items()}
        end = link.now() + self.start_deadline_s
        answers = []
        for engine, ref in refs.items():
            done, _ = link.wait([ref], timeout=max(0.0, end - link.now()))
            if not done:
                raise EngineError(
                    f"{self.label(engine)} did not answer its first probe within "
                    f"{self.start_deadline_s:g} s; {link.resources()}"
                )
            try:
                answers.append(self.answer(ref, engine, "its first probe"))
            except RayActorError as error:
                raise self.died(engine, "at its first probe", error) from error
        return answers

    def refresh(self) -> None:
        """Find added engines; an engine that has ended stays until a call to it fails."""
        if not self.elastic:
            return
        found = dict(self.actors)
        names = {name for name in self.link.names() if name.startswith(self.prefix)}
        for name in names - found.keys():
            with contextlib.suppress(ValueError):  # it ended between the two calls
                found[name] = self.link.find(name)
        self.actors = found

    def drop(self, engine: str) -> None:
        self.actors = {name: actor for name, actor in self.actors.items() if name != engine}

    def answer(self, ref: Any, engine: str, awaited: str) -> Any:
        """The answer of an engine, which has arrived.

        Raises:
            EngineError: the engine raised an exception.
            RayActorError: the engine is dead.
        """
        try:
            return self.link.get(ref, timeout=60)
        except RayTaskError as error:
            raise EngineError(
                f"{self.label(engine)} failed at {awaited}: {type(error.cause).__name__}: "
                f"{error.cause}"
            ) from error

    def died(self, engine: str, when: str, error: RayActorError) -> EngineError:
        when = "at its start" if error.actor_init_failed else when
        return EngineError(
            f"{self.label(engine)} died {when} and was restarted at most "
            f"{self.max_restarts} times: {cause(error)}"
        )

    def label(self, engine: str) -> str:
        """The engine in an error message."""
        number = int(engine.removeprefix(self.prefix)) + 1
        return f"engine {number} of {max(number, len(self.actors))} ({self.name})"
