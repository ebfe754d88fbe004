"""The sections of the report about a selection that was made before the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from minirec.config.scoring import ScoringConfig
from minirec.errors import ArtifactError
from minirec.evaluation import plots
from minirec.evaluation.samples import corpus_tables, examples, frame, listed
from minirec.selection import screening
from minirec.selection.learnability import chance_level
from minirec.store.tables import read_table

SCORED_BY = {"proxy": "proxy policy", "warm": "policy of the warm start"}
"""The policy whose rollouts were scored, by `scoring.policy`."""
COLUMNS = [
    ("reward", "mean reward"),
    ("learnability", "learnability"),
    ("representativeness", "representativeness"),
    ("value", "value"),
]
"""The numbers in the table of samples: name, and title."""


def sections(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The values of ``kept_static.html.j2``, and what other sections need.

    Raises:
        ArtifactError: an artifact is missing or corrupted; the message names it.
    """
    tables = _tables(root, config)
    data = frame(tables)
    selection = config.get("selection", {})
    scoring = ScoringConfig.model_validate(config.get("scoring", {}))
    analysis = config.get("rollout", {}).get("max_new_tokens") != 0 and scoring.rollouts != 0
    scoring = scoring if analysis else scoring.without_analysis()
    kept, dead = data["kept"], (data["hits"] == 0) & ~data["screened"]
    scored_by = SCORED_BY[scoring.policy]
    return {
        "template": "kept_static.html.j2",
        "samples": len(tables["train"]),
        "kept": len(tables["selection"]),
        "scored": len(data),
        "dead": float(dead.mean()),
        "dead_kept": float(dead[kept].mean()),
        "chance": tables["chance"],
        "scored_by": scored_by,
        "times": "several times" if analysis else "once, without an analysis",
        "examples": examples(tables, data, selection),
        "listed": listed(tables, data, selection),
        "columns": COLUMNS,
        "planted": _planted(tables),
        "saved": screening.savings(
            [tables["features"]],
            most=scoring.stages[-1],
            chance=tables["chance"],
            band=scoring.screen_band,
        ),
        "plots": {"rewards": _reward_plots(data, scored_by), "scores": _score_plots(data)},
    }


def _tables(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    parts = sorted((root / "features").glob("part-*.parquet"))
    if not parts:
        raise ArtifactError(f"{root / 'features'} has no part files; run `minirec score` first")
    columns = ["sample_id", "rewards", "completions", "embedding", "screen_reward"]
    columns += screening.COLUMNS
    cutoff = int(config.get("reward", {}).get("cutoff", 1000))
    tables = corpus_tables(root)
    return {
        **tables,
        "scores": read_table(root / "scores.parquet").to_pandas(),
        "selection": read_table(root / "selection.parquet").to_pandas(),
        "features": pa.concat_tables([read_table(p, columns) for p in parts]).to_pandas(),
        "chance": chance_level(len(tables["titles"]), cutoff=cutoff),
    }


def _planted(tables: dict[str, Any]) -> list[dict[str, Any]]:
    labels, corpus = tables["labels"], tables["train"].index
    if not labels:
        return []
    label = pd.Series([labels.get(int(i), "unlabelled") for i in corpus], index=corpus)
    kept = corpus.isin(tables["selection"]["sample_id"])
    return [
        {
            "label": name,
            "count": int((label == name).sum()),
            "corpus": float((label == name).mean()),
            "selection": float((label[kept] == name).mean()),
        }
        for name in sorted(label.unique())
    ]


def _reward_plots(data: pd.DataFrame, scored_by: str) -> Markup:
    kept = data[data["kept"]].sort_values("rank")
    return plots.draw(
        "rewards",
        "Histogram of the mean reward of each sample, corpus and selection",
        plots.histogram,
        corpus=data["mean_reward"],
        kept=kept["mean_reward"],
        title=f"Mean reward of the {scored_by}",
        xlabel="mean reward of a sample",
    ) + plots.draw(
        "order",
        f"Mean reward of the {scored_by} on the kept samples in training order",
        plots.curriculum,
        rank=kept["rank"],
        reward=kept["mean_reward"],
        group=kept["group"],
    )


def _score_plots(data: pd.DataFrame) -> Markup:
    kept = data[data["kept"]]
    return Markup("").join(
        plots.draw(
            name,
            f"Histogram of {name}, corpus and selection",
            plots.histogram,
            corpus=data[name],
            kept=kept[name],
            title=name.capitalize(),
            xlabel=name,
        )
        for name in ("learnability", "representativeness", "value")
    )
