"""What a corpus asks of a recommender: the next visit, or also the rest of a basket."""

from __future__ import annotations

from typing import Any

from minirec.corpus.split import Samples


def facts(samples: Samples, same_time: str) -> dict[str, Any]:
    """The entry ``same_time`` of ``corpus.json``: the setting and what it meant here.

    ``shared``: split -> samples whose user has another event at the target's time. ``left_out``:
    events that are no target for want of an earlier one.
    """
    return {"setting": same_time, "shared": samples.same_time, "left_out": samples.left_out}


def sentences(corpus: dict[str, Any]) -> str:
    """The share of samples that have other events of their user at their time, and what became of
    these.

    Args:
        corpus: the contents of ``corpus.json``.
    """
    found = corpus["same_time"]
    shares = {
        split: found["shared"][split] / max(1, samples)
        for split, samples in corpus["samples"].items()
    }
    if not any(shares.values()) and not found["left_out"]:
        return "No sample shares its time with another event of its user."
    said = (
        f"{shares['train']:.0%} of the train and {shares['test']:.0%} of the test samples share "
        f"their time with another event of their user."
    )
    if found["setting"] == "keep":
        return (
            f"{said} Those placed before the target stand in its history (corpus.same_time=keep): "
            f"the task is the next event, which may be the rest of a basket."
        )
    return (
        f"{said} None of these stands in the other's history or ranking "
        f"(corpus.same_time=exclude): the task is the next visit. {found['left_out']:,} events "
        f"with too few earlier ones are no targets."
    )
