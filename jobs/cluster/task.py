"""Run the work of a stage in a Ray task, since the driver's machine may be too small for it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.causes import cause, raised_in
from minirec.errors import EngineError, MiniRecError

T = TypeVar("T")
SPARE_BYTES = 64 << 20
"""Room that Ray's processes need on their disk, for their logs."""


def in_task(
    stage: str,
    function: Callable[..., T],
    *arguments: object,
    spills_to: Path | None = None,
    spare_bytes: int = SPARE_BYTES,
) -> T:
    """Call `function`, which needs much memory, in a Ray task; return its result.

    The task is on a node with CPUs, if one lives, but asks for none. Ray Data pins tasks of a
    shuffle to the node of their rows, each with one CPU: a part of it would block a node with one.

    Args:
        stage: its name, for the error.
        spills_to: folder of this machine on whose disk Ray puts objects that its memory cannot
            hold. Ray would try again without end if that disk is full.
        spare_bytes: the disk counts as full if less is free.

    Raises:
        MiniRecError, OSError: as `function` raised it, such as for a full disk; or the disk of
            `spills_to` is full.
        EngineError: the task, or a task that it started, died.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    largest = max(nodes, key=lambda node: (node["Resources"].get("CPU", 0), node["NodeID"]))
    place = NodeAffinitySchedulingStrategy(largest["NodeID"], soft=True)
    task = ray.remote(num_cpus=0, scheduling_strategy=place)(function).remote(*arguments)
    while not ray.wait([task], timeout=1)[0]:
        if spills_to is not None and shutil.disk_usage(spills_to).free < spare_bytes:
            ray.cancel(task, force=True)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spills_to))
    try:
        return ray.get(task)
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
            f"was short"
        ) from error
