"""Run the work of a stage in a Ray task, since the driver's machine may be too small for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from actors.causes import cause, raised_in
from minirec.errors import EngineError, MiniRecError

T = TypeVar("T")


def in_task(stage: str, function: Callable[..., T], *arguments: object) -> T:
    """Call `function`, which holds the whole corpus of a run, in a Ray task; return its result.

    The task asks for almost no CPU, so that tasks that it starts get them; with none, Ray could
    place it on a head node without CPUs.

    Args:
        stage: its name, for the error.

    Raises:
        MiniRecError, OSError: as `function` raised it, such as for a full disk.
        EngineError: the task, or a task that it started, died.
    """
    try:
        return ray.get(ray.remote(num_cpus=0.01)(function).remote(*arguments))
    except RayError as error:
        raised = raised_in(error)
        if isinstance(raised, RayTaskError) or not isinstance(
            raised, (RayError, MiniRecError, OSError)
        ):
            raise
        if not isinstance(raised, RayError):
            raise raised from None
        raise EngineError(
            f"{stage} ended: {cause(error)}; run it again, on a node with more memory if that "
            f"was short: one process holds the corpus"
        ) from error
