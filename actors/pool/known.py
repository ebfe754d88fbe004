"""The engines that a handle of the pool knows, and what it waits for from them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.causes import cause
from minirec.errors import EngineError


@dataclass
class Engines:
    """Actors by name, with the patience that whoever calls them has; picklable.

    Attributes:
        actors: the engines of the moment. The dict is replaced, never changed: another thread may
            be reading it.
        prefix: the start of all their names.
        name: of the kind of engine, for messages.
        least: engines without which a work is given up, after the starting deadline.
        elastic: engines come and go; else one that is lost is an error at once.
        deadline_s: seconds that a call may take.
        start_deadline_s: seconds that an engine may take to start.
        max_restarts: times that a call may lose its engine.
    """

    actors: dict[str, Any]
    prefix: str
    name: str
    least: int
    elastic: bool
    deadline_s: float
    start_deadline_s: float
    max_restarts: int

    def probe(self) -> list[dict[str, Any]]:
        """A one-token generation on every engine, within the starting deadline."""
        refs = {name: actor.probe.remote() for name, actor in self.actors.items()}
        end = time.monotonic() + self.start_deadline_s
        answers = []
        for engine, ref in refs.items():
            done, _ = ray.wait([ref], timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise EngineError(
                    f"{self.label(engine)} did not answer its first probe within "
                    f"{self.start_deadline_s:g} s; {resources()}"
                )
            try:
                answers.append(self.answer(ref, engine, "its first probe"))
            except RayActorError as error:
                raise self.died(engine, "at its first probe", error) from error
        return answers

    def refresh(self) -> None:
        """Learn of engines that were added since; one that has ended says why when it is asked."""
        if not self.elastic:
            return
        names = {n for n in ray.util.list_named_actors() if n.startswith(self.prefix)}
        found = dict(self.actors)
        for name in names - found.keys():
            with contextlib.suppress(ValueError):  # gone between the two calls
                found[name] = ray.get_actor(name)
        self.actors = found

    def drop(self, engine: str) -> None:
        """Forget an engine."""
        self.actors = {name: actor for name, actor in self.actors.items() if name != engine}

    def answer(self, ref: Any, engine: str, awaited: str) -> Any:
        """What an engine gave, which is there already.

        Raises:
            EngineError: it raised.
            RayActorError: it is dead.
        """
        try:
            return ray.get(ref, timeout=60)
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


def resources() -> str:
    """Free and total CPUs and GPUs of the cluster, for a message."""
    free, total = ray.available_resources(), ray.cluster_resources()
    return "; ".join(
        f"{name}: {free.get(name, 0):g} free of {total.get(name, 0):g}" for name in ("CPU", "GPU")
    )
