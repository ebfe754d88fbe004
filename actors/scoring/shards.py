"""The shards of several specs, scored by Ray Train workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

from actors.process import deadline
from actors.scoring.scorer import Scorer, ScoringSpec
from minirec.store.remote import located


@dataclass(frozen=True)
class ShardsSpec:
    """What Ray Train workers need that score in the place of Ray Data's; picklable.

    shards: number of the spec and shard; deadline_s: of one shard.
    """

    specs: list[ScoringSpec]
    shards: list[tuple[int, int]]
    deadline_s: float


def score_loop(config: dict[str, ShardsSpec]) -> None:
    """Body of Ray Train workers, each of which scores every n-th shard that is not there yet."""
    spec = config["spec"]
    scorer = Scorer(spec.specs)
    for number, shard in spec.shards[dist.get_rank() :: dist.get_world_size()]:
        one = spec.specs[number]
        if one.part(shard).exists() and located(one.item_table).exists():
            continue  # done before a worker was started again
        with deadline(spec.deadline_s):
            scorer.write(number, shard)
