"""What a train sample knows of its user's future: the next targets in the train split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from minirec.corpus.table import Sample
from minirec.store.tables import read_table


def following(corpus: Path, *, horizon: int) -> dict[int, list[int]]:
    """The targets of the next ``horizon - 1`` train samples of the same user, by sample_id.

    Only samples with a later time count, so that events of one time do not know each other. The
    file of the train split alone is read: targets of valid and test are never among them. An item
    is listed once, and never if it is the target itself.
    """
    names = ["sample_id", "user", "target", "time"]
    table = read_table(corpus / "train.parquet", names)
    user = table["user"].combine_chunks().dictionary_encode().indices.to_numpy()
    ids, target, time = (table[name].to_numpy() for name in ("sample_id", "target", "time"))
    order = np.lexsort((ids, time, user))
    found: dict[int, list[int]] = {}
    for place, row in enumerate(order.tolist()):
        later: list[int] = []
        for other in order[place + 1 :]:
            if user[other] != user[row] or len(later) == horizon - 1:
                break
            item = int(target[other])
            if time[other] > time[row] and item != target[row] and item not in later:
                later.append(item)
        found[int(ids[row])] = later
    return found


def with_following(
    samples: Mapping[int, Sample], corpus: Path, *, horizon: int
) -> dict[int, Sample]:
    """The samples with their following items; those that are excluded from its ranking are left
    out. With a horizon of 1 the samples are unchanged."""
    if horizon == 1:
        return dict(samples)
    later = following(corpus, horizon=horizon)
    return {
        number: replace(
            sample, following=[i for i in later[number] if i not in set(sample.excluded)]
        )
        for number, sample in samples.items()
    }
