"""MaxMin selection over shards of the pool, each in a Ray actor (method, section 5).

This uses several cores, or the memory of other machines. Shards are actors because they keep their
bounds between rounds.
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
    """The picks of `minirec.selection.diversity.maxmin`, computed by actors of one CPU each.

    Args:
        embeddings, scores, budget, block: as for `maxmin`.
        shards: number of actors, at most one per row; it does not change the picks.
        deadline_s: longest time of a round, with the start of the actors.

    Raises:
        ValueError: as `maxmin`, or `shards` is below 1.
        EngineError: a shard died or exceeded the deadline.
    """
    vectors, weights = checked(embeddings, scores, budget=budget, block=block)
    lengths("embeddings", vectors)
    count = len(vectors)
    if shards < 1:
        raise ValueError(f"shards is {shards}; expected 1 or more")
    shards = min(shards, count)
    edges = [count * number // shards for number in range(shards + 1)]
    # SPREAD, because the placement group of a trial has no room for them.
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
                f"{shards} shards of the selection did not start and answer in {deadline_s:g} s; "
                f"{ray.available_resources().get('CPU', 0):g} of Ray's "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs are free, each shard takes one; "
                f"lower selection.shards"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise EngineError(
                f"a shard of the selection died ({error.__class__.__name__}); run it again, with "
                f"more selection.shards if memory ran out"
            ) from error

    try:
        return greedy(ask, budget=budget, block=block)
    finally:
        for actor in actors:
            ray.kill(actor)
