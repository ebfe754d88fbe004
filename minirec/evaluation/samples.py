"""Examples for the report: kept and dropped samples, each with the reason in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from minirec.selection.learnability import lift
from minirec.store.tables import read_table

NEAR = 0.05
"""Cosine distance to a kept sample below which a sample is a near-duplicate."""


def corpus_tables(root: Path) -> dict[str, Any]:
    """The train split by sample_id, the titles by item_id, and planted labels by sample_id."""
    items = read_table(root / "corpus" / "items.parquet")
    truth = root / "corpus" / "truth.parquet"
    labels = read_table(truth).to_pydict() if truth.exists() else {"sample_id": [], "label": []}
    return {
        "train": read_table(root / "corpus" / "train.parquet").to_pandas().set_index("sample_id"),
        "titles": dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)),
        "labels": dict(zip(labels["sample_id"], labels["label"], strict=True)),
    }


def frame(tables: dict[str, Any]) -> pd.DataFrame:
    """Scores, features and selection of every scored train sample, indexed by sample_id.

    Adds ``kept``, ``hits`` (rollouts above chance), ``lift`` (of the screen if there are no
    rollouts) and ``nearest`` (cosine distance to the nearest other kept sample).
    """
    data = tables["scores"].set_index("sample_id")
    data = data.join(tables["features"].set_index("sample_id"), how="left")
    chosen = tables["selection"].set_index("sample_id")
    data = data.join(chosen[["rank", "group", "novelty"]], how="left")
    data["kept"] = data["rank"].notna()
    chance = tables["chance"]
    rolled = data["ndcg"].map(len) > 0
    mean = data["ndcg"].map(lambda gains: np.mean(gains, dtype=np.float64) if len(gains) else 0.0)
    data["lift"] = lift(mean.where(rolled, data["screen_ndcg"]), chance=chance)
    data["hits"] = data["ndcg"].map(lambda gains: int((np.asarray(gains, float) > chance).sum()))
    data["nearest"] = _nearest(np.stack(data["embedding"]), data["kept"].to_numpy())
    for name in ("mean_reward", "learnability", "representativeness", "value"):
        data[f"{name}_above"] = (data[name].rank(method="min") - 1) / len(data)
    return data


def _nearest(embedding: np.ndarray, kept: np.ndarray) -> np.ndarray:
    unit = embedding.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    rows = np.flatnonzero(kept)
    result = np.ones(len(unit), dtype=np.float32)
    for start in range(0, len(unit), 4096):
        part = np.arange(start, min(start + 4096, len(unit)))
        cosine = unit[part] @ unit[rows].T
        cosine[part[:, None] == rows[None, :]] = -1
        result[part] = 1 - cosine.max(axis=1, initial=-1)
    return result


def cause(
    row: pd.Series, *, method: str, min_lift: float | None, best: float, lowest_kept: float
) -> str:
    """Why a sample (a row of `frame`) was kept or dropped, as one of a few short names.

    Only the method ``value`` uses the scores. `best` is the mean reward of the sample with the
    highest learnability, `lowest_kept` the lowest value of a kept sample.
    """
    if row["kept"]:
        return "kept"
    if method != "value":
        return "not picked"
    if row["screened"]:
        return "screened"
    if min_lift is not None and row["lift"] < min_lift:
        return "below the least reward"
    if row["hits"] == 0:
        return "dead"
    if row["learnability"] < 0.2:
        return "too easy" if row["mean_reward"] > best else "too hard"
    if row["nearest"] < NEAR and row["value"] >= lowest_kept:
        return "near-duplicate"
    return "lower value"


def reason(row: pd.Series, why: str) -> str:
    """The reason in words, with its figures."""
    figures = (
        f"Learnability {row['learnability']:.2f} (above {_share(row, 'learnability')} of the "
        f"corpus), representativeness {row['representativeness']:.2f} (above "
        f"{_share(row, 'representativeness')})."
    )
    first = {
        "kept": "Picked by the method of the settings, which does not use novelty."
        if pd.isna(row["novelty"])
        else f"Picked for its value and {row['novelty']:.0%} of the largest remaining novelty.",
        "not picked": "The method of the settings, a baseline, chose other samples.",
        "screened": "Not rolled out: an answer without analysis ranks the target too far outside "
        f"the learnable band (lift {row['lift']:.2f}) for rollouts to be worth their cost.",
        "below the least reward": "Its rewards are below the minimum of the settings: the "
        "policy has nothing to learn from.",
        "dead": "No rollout ranked the target better than chance: nothing to reinforce.",
        "too easy": "The policy already ranks the target near the top: there is little to learn.",
        "too hard": "The policy rarely ranks the target near the top: its rewards teach little.",
        "near-duplicate": f"Valuable, but a kept sample is only {row['nearest']:.3f} away in "
        "cosine distance and replaces it.",
        "lower value": f"Its value times its novelty was below that of the kept samples "
        f"(nearest kept sample: {row['nearest']:.3f} away).",
    }[why]
    return f"{first} {figures}"


def _share(row: pd.Series, name: str) -> str:
    return f"{row[f'{name}_above']:.0%}"


def examples(
    tables: dict[str, Any], data: pd.DataFrame, selection: dict[str, Any]
) -> dict[str, Any]:
    """Kept and dropped examples, and how often each cause of dropping occurs.

    `selection` holds the settings of that section.
    """
    why = _causes(data, selection)
    kept = data[data["kept"]].sort_values("rank")
    places = np.unique(np.linspace(0, len(kept) - 1, 4).round().astype(int))
    shown_kept = [_example(tables, kept.iloc[i], "kept") for i in places]
    shown_dropped, causes = [], []
    for name, count in why[~data["kept"]].value_counts().items():
        causes.append({"name": name, "count": int(count), "share": count / len(data)})
        group = data[why == name].sort_values("value", ascending=False, kind="stable")
        shown_dropped += [
            _example(tables, group.iloc[i], str(name)) for i in range(min(2, len(group)))
        ]
    return {"kept": shown_kept, "dropped": shown_dropped, "causes": causes}


def _causes(data: pd.DataFrame, selection: dict[str, Any]) -> pd.Series:
    method, min_lift = selection.get("method", "value"), selection.get("min_lift")
    best = data.loc[data["learnability"].idxmax(), "mean_reward"]
    lowest = data.loc[data["kept"], "value"].min()
    return data.apply(
        cause, axis=1, method=method, min_lift=min_lift, best=best, lowest_kept=lowest
    )


LISTED = 4000
"""Maximum number of samples in the report's table, because a browser holds all of them."""


def listed(
    tables: dict[str, Any], data: pd.DataFrame, selection: dict[str, Any]
) -> list[dict[str, Any]]:
    """Samples for the searchable table: the first kept ones, and random others."""
    kept = data[data["kept"]].sort_values("rank").head(LISTED // 2)
    others = data[~data["kept"]]
    shown = pd.concat([kept, others.sample(min(len(others), LISTED - len(kept)), random_state=0)])
    why = _causes(data, selection).loc[shown.index]
    return [_listed(tables, shown.iloc[i], str(why.iloc[i])) for i in range(len(shown))]


def described(tables: dict[str, Any], row: pd.Series, why: str, reason: str) -> dict[str, Any]:
    """The fields that the table and the examples share; the name of `row` is the sample_id."""
    sample, title = tables["train"].loc[row.name], tables["titles"]
    return {
        "why": why,
        "reason": reason,
        "label": tables["labels"].get(int(row.name), ""),
        "history": [title.get(int(i), f"item {i}") for i in sample["history"]],
        "target": title.get(int(sample["target"]), f"item {sample['target']}"),
    }


def _listed(tables: dict[str, Any], row: pd.Series, why: str) -> dict[str, Any]:
    scores = ("learnability", "representativeness", "value")
    return {
        "id": int(row.name),
        "order": None if pd.isna(row["rank"]) else int(row["rank"]) + 1,
        **described(tables, row, why, reason(row, why)),
        "reward": round(float(row["mean_reward"]), 4),
        **{name: None if pd.isna(row[name]) else round(float(row[name]), 4) for name in scores},
        "rewards": [round(float(r), 4) for r in row["rewards"]],
        "completions": list(row["completions"]),
    }


def _example(tables: dict[str, Any], row: pd.Series, why: str) -> dict[str, Any]:
    rewards = np.asarray(row["rewards"], dtype=np.float64)
    completions = list(row["completions"])
    return {
        "sample_id": int(row.name),
        **described(tables, row, why, reason(row, why)),
        "rewards": [f"{r:.3f}" for r in rewards] or [f"{row['screen_reward']:.3f} (screen)"],
        "completion": completions[int(rewards.argmax())] if completions else "",
        "group": None if pd.isna(row["group"]) else int(row["group"]) + 1,
    }
