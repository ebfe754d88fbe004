"""MaxMin over shards of the pool, each in a Ray actor (method, section 5).

For cores, or the memory of other machines, that one process does not use. Actors rather than
tasks, since a shard keeps its bounds from round to round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from numpy.typing import ArrayLike

from minirec.errors import EngineError
from minirec.selection.checks import lengths
from minirec.selection.diversity import MaxMin, Shard, checked, greedy


def sharded_maxmin(
    embeddings: ArrayLike,
    *,
    scores: ArrayLike,
    budget: int,
    shards: int,
    block: int = 256,
    deadline_s: float = 600,
) -> MaxMin:
    """The picks of `minirec.selection.diversity.maxmin`, made by `shards` actors of one CPU each.

    Args:
        embeddings, scores, budget, block: as there.
        shards: actors, 1 or more, at most N are started; changes the speed, not the picks.
        deadline_s: seconds that one round may take, the start of the actors included.

    Raises:
        ValueError: as there, or `shards` is below 1.
        EngineError: a shard died or exceeded the deadline.
    """
    vectors, weights = checked(embeddings, scores, budget=budget, block=block)
    lengths("embeddings", vectors)
    count = len(vectors)
    if shards < 1:
        raise ValueError(f"shards is {shards}; expected 1 or more")
    shards = min(shards, count)
    edges = [count * number // shards for number in range(shards + 1)]
    # Not where the caller is: a trial's placement group has no room for them.
    remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Shard)
    actors = [
        remote.remote(vectors[start:end], weights[start:end], first=start)
        for start, end in zip(edges, edges[1:], strict=False)
    ]

    def ask(name: str, *arguments: Any) -> Sequence[Any]:
        shared = [ray.put(argument) for argument in arguments]
        try:
            return ray.get(
                [getattr(actor, name).remote(*shared) for actor in actors], timeout=deadline_s
            )
        except ray.exceptions.GetTimeoutError as error:
            raise EngineError(
                f"{shards} shards of the selection gave no answer in {deadline_s:g} s, start "
                f"included; {ray.available_resources().get('CPU', 0):g} of Ray's "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs are free, each shard takes one; "
                f"lower selection.shards"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise EngineError(
                f"a shard of the selection died ({error.__class__.__name__}); run it again, with "
                f"more shards if memory was short"
            ) from error

    try:
        return greedy(ask, budget=budget, block=block)
    finally:
        for actor in actors:
            ray.kill(actor)
