"""What a client of the pool knows of the engines, and all that it asks of Ray."""

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
    """Ray and the clock, as a client of the pool sees them; tests pass an object of their own."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    get = staticmethod(ray.get)
    wait = staticmethod(ray.wait)

    def alive(self, actor: Any) -> bool:
        """Whether Ray takes the process of the actor as running; not while it starts again."""
        # Only this private method distinguishes a hung engine from one that is starting.
        return actor._get_local_state() == ALIVE

    def restart(self, actor: Any) -> None:
        """Kill the process of an actor; Ray starts it again and repeats its calls."""
        ray.kill(actor, no_restart=False)

    def names(self) -> list[str]:
        """Of all actors that live."""
        return ray.util.list_named_actors()

    def find(self, name: str) -> Any:
        """The actor of a name; ValueError if it is gone."""
        return ray.get_actor(name)

    def resources(self) -> str:
        """Free and total CPUs and GPUs of the cluster, for a message."""
        free, total = ray.available_resources(), ray.cluster_resources()
        return "; ".join(
            f"{name}: {free.get(name, 0):g} free of {total.get(name, 0):g}"
            for name in ("CPU", "GPU")
        )


@dataclass
class Engines:
    """Actors by name, and how long their callers wait for them; picklable.

    Attributes:
        actors: the engines of the moment. The dict is replaced, never changed: another thread may
            be reading it.
        prefix: the start of all their names.
        name: of the kind of engine, for messages.
        least: a request fails if fewer engines are up for longer than `start_deadline_s`.
        elastic: engines come and go; otherwise the loss of one is an error at once.
        deadline_s: seconds that a call may take.
        start_deadline_s: seconds that an engine may take to start.
        max_restarts: times that a call may lose its engine.
        link: to Ray.
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
        """A one-token generation on every engine, within the starting deadline.

        Raises:
            EngineError: one did not answer in time, or died; names the resources.
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
        """Find the engines that were added; one that has ended stays until a call to it fails."""
        if not self.elastic:
            return
        found = dict(self.actors)
        names = {name for name in self.link.names() if name.startswith(self.prefix)}
        for name in names - found.keys():
            with contextlib.suppress(ValueError):  # gone between the two calls
                found[name] = self.link.find(name)
        self.actors = found

    def drop(self, engine: str) -> None:
        """Forget an engine."""
        self.actors = {name: actor for name, actor in self.actors.items() if name != engine}

    def answer(self, ref: Any, engine: str, awaited: str) -> Any:
        """The answer of an engine, which has arrived already.

        Raises:
            EngineError: it raised.
            RayActorError: it is dead.
        """
        try:
            return self.link.get(ref, timeout=60)
        except RayTaskError as error:
            raised = error.cause
            raise EngineError(
                f"{self.label(engine)} failed at {awaited}: {type(raised).__name__}: {raised}"
            ) from error

    def died(self, engine: str, when: str, error: RayActorError) -> EngineError:
        """The error to raise for a dead engine."""
        when = "at its start" if error.actor_init_failed else when
        return EngineError(
            f"{self.label(engine)} died {when} and was restarted at most "
            f"{self.max_restarts} times: {cause(error)}"
        )

    def label(self, engine: str) -> str:
        """An engine in a message: which of how many, and of what kind."""
        number = int(engine.removeprefix(self.prefix)) + 1
        return f"engine {number} of {max(number, len(self.actors))} ({self.name})"
