"""Samples of a live selection for the report, each with the reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from minirec.evaluation.samples import LISTED, described

OFTEN, ONCE = "trained repeatedly", "trained once"
WORDS = {
    "in band": "all its known lifts were in the band",
    "value": "its value was among the highest of those measured",
    "unknown": "none of its lifts was known yet",
    "nearest": "its lifts were outside the band, but too few candidates were inside",
    "alive": "its rollouts had differed in reward before",
    "retried": "its rollouts had all earned the same, and it was tried again",
    "influence": "its influence on the validation samples was among the highest of its pool",
}
"""Why a sample was taken, in words."""
NEVER = {
    "not reached": "The training ended before the stream of samples reached it.",
    "hopeless": "Its last lift, {lift:.3f}, is below the band: the policy cannot learn from it "
    "yet.",
    "solved": "Its last lift, {lift:.3f}, is above the band: the policy already ranks its target "
    "near the top.",
    "not measured": "The stream reached it, but its lift was not measured, and enough other "
    "candidates were learnable.",
    "less influence": "The others of its pool had more influence on the validation samples.",
    "not needed": "Its last lift, {lift:.3f}, is in the band, but its steps took other candidates "
    "or the training ended first.",
}
"""Why a sample was never trained, in words."""
SHOWN = 3
"""Examples of each kind that was trained, and trainings that a reason lists."""


@dataclass(frozen=True)
class LiveTables:
    """What the sections read.

    train: the train split by sample_id. titles: by item_id. labels: planted, by sample_id.
    choices: `schema.CHOICES`. lifts: `schema.LIFTS`. band: lowest and highest lift to train.
    rule: as in `LiveConfig`.
    """

    train: pd.DataFrame
    titles: dict[int, str]
    labels: dict[int, str]
    choices: pd.DataFrame
    lifts: pd.DataFrame
    band: tuple[float, float]
    rule: str = "band"


def frame(tables: LiveTables) -> pd.DataFrame:
    """Every train sample by sample_id: what was known at the end, and its trainings.

    Adds ``times``, ``step`` (the first one), ``order`` (among the samples that were trained),
    ``reward`` (the mean), ``rows`` (its rows of the choices) and ``why``, as `cause` says.
    """
    data = tables.lifts.set_index("sample_id").loc[tables.train.index]
    by_sample = tables.choices.groupby("sample_id")
    found = by_sample.agg(step=("step", "first"), reward=("reward", "mean"))
    data = data.join(found)
    data["times"] = by_sample.size().reindex(data.index, fill_value=0)
    order = tables.choices["sample_id"].drop_duplicates().tolist()
    data["order"] = pd.Series(range(len(order)), index=order).reindex(data.index)
    data["rows"] = pd.Series({i: rows.tolist() for i, rows in by_sample.indices.items()}).reindex(
        data.index
    )
    data["why"] = data.apply(cause, axis=1, band=tables.band, rule=tables.rule)
    return data


def cause(row: pd.Series, *, band: tuple[float, float], rule: str = "band") -> str:
    """How often a sample (a row of `frame`) was trained, or why never, as a short name."""
    if row["times"]:
        return OFTEN if row["times"] > 1 else ONCE
    if rule == "influence":
        return "less influence" if row["reached"] else "not reached"
    if (lift := _outermost(row, band)) is not None:
        return "hopeless" if lift < band[0] else "solved" if lift > band[1] else "not needed"
    return "not measured" if row["reached"] else "not reached"


def _outermost(row: pd.Series, band: tuple[float, float]) -> float | None:
    """The known lift that is farthest outside the band; None if none is known."""
    known = [float(row[name]) for name in ("lift", "rollout_lift") if not pd.isna(row[name])]
    return max(known, key=lambda lift: max(band[0] - lift, lift - band[1]), default=None)


def reason(tables: LiveTables, row: pd.Series) -> str:
    """The reason in words, with its figures."""
    if not row["times"]:
        lift = _outermost(row, tables.band)
        return NEVER[row["why"]].format(lift=lift)
    told = [_training(tables.choices.iloc[at]) for at in row["rows"][:SHOWN]]
    more = len(row["rows"]) - SHOWN
    rest = [f"And in {more} more step{'s' if more > 1 else ''}."] if more > 0 else []
    return " ".join([*told, *rest])


def _training(choice: pd.Series) -> str:
    """A sentence about one training of a sample."""
    lift = "" if pd.isna(choice["lift"]) else f" ({choice['lift']:.3f} right after the prompt)"
    text = f"Step {choice['step'] + 1}: {WORDS[choice['reason']]}{lift}"
    if not pd.isna(choice["rollout_lift"]):
        text += f"; its rollouts then had a mean lift of {choice['rollout_lift']:.3f}"
    return f"{text}."


def examples(tables: LiveTables, data: pd.DataFrame) -> dict[str, Any]:
    """Samples that were trained often, once and never, and how many there are of each kind."""
    often = data[data["why"] == OFTEN].sort_values(["times", "order"], ascending=[False, True])
    once = data[data["why"] == ONCE].sort_values("order")
    never = data[data["times"] == 0]
    last = max(0, len(once) - 1)
    places = np.unique(np.linspace(0, last, SHOWN).round().astype(int))[: len(once)]
    counts = data["why"].value_counts()
    return {
        "often": [_example(tables, row) for _, row in often.head(SHOWN).iterrows()],
        "once": [_example(tables, once.iloc[i]) for i in places],
        "never": [
            _example(tables, row)
            for why in NEVER
            for _, row in never[never["why"] == why].head(1).iterrows()
        ],
        "causes": [
            {"name": name, "count": int(counts[name]), "share": counts[name] / len(data)}
            for name in (OFTEN, ONCE, *NEVER)
            if name in counts
        ],
    }


def listed(tables: LiveTables, data: pd.DataFrame) -> list[dict[str, Any]]:
    """Samples for the searchable table: the first trained ones, and random others."""
    trained = data[data["times"] > 0].sort_values("order").head(LISTED // 2)
    others = data[data["times"] == 0]
    drawn = others.sample(min(len(others), LISTED - len(trained)), random_state=0)
    return [_listed(tables, row) for _, row in pd.concat([trained, drawn]).iterrows()]


def _described(tables: LiveTables, row: pd.Series) -> dict[str, Any]:
    shared = {"train": tables.train, "titles": tables.titles, "labels": tables.labels}
    return described(shared, row, row["why"], reason(tables, row))


def _listed(tables: LiveTables, row: pd.Series) -> dict[str, Any]:
    return {
        "id": int(row.name),
        "order": None if pd.isna(row["order"]) else int(row["order"]) + 1,
        **_described(tables, row),
        "times": int(row["times"]),
        "step": None if pd.isna(row["step"]) else int(row["step"]) + 1,
        **{
            name: None if pd.isna(row[name]) else round(float(row[name]), 4)
            for name in ("lift", "rollout_lift", "reward")
        },
        "rewards": [],
        "completions": [],
    }


def _example(tables: LiveTables, row: pd.Series) -> dict[str, Any]:
    return {"sample_id": int(row.name), "times": int(row["times"]), **_described(tables, row)}
