"""A session whose training workers are this process, and which has no engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minirec.config.run import Config
from minirec.resources.allocation import Node, allocate


class Here:
    """Stands for `jobs.cluster.session.Session` in trainings without rollouts.

    It also stands for the worker that a session keeps. `rooms` are the stages that asked for room.
    """

    def __init__(self, config: Config) -> None:
        self.allocation = allocate(config, [Node("here", 1)], local=True)
        self.rooms: list[str] = []

    def worker(self) -> Here:
        """This process."""
        return self

    def make_room(self, beside: str, *, engines: bool = True) -> None:
        assert not engines
        self.rooms.append(beside)

    def pool(self, model_path: str, *, beside: str) -> Any:
        raise AssertionError(f"{beside} asked for engines")

    def run(self, loop: Callable[[Any], None], argument: Any, **_: Any) -> None:
        """Call the loop of a worker."""
        loop(argument)
