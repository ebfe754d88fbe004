"""The sections of the report about what live selection trained, when and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from minirec.config.live import LiveConfig
from minirec.evaluation import plots
from minirec.evaluation.live_samples import WORDS, LiveTables, examples, frame, listed
from minirec.evaluation.samples import corpus_tables
from minirec.selection.live_record import PARTS, REASONS
from minirec.store.tables import read_table

COLUMNS = [
    ("times", "times trained"),
    ("step", "first step"),
    ("lift", "lift"),
    ("rollout_lift", "lift of rollouts"),
    ("reward", "mean reward"),
]
"""The numbers in the table of samples: name, and title."""
BINS = 24
"""Points of a line over the training."""


def sections(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The values of ``kept_live.html.j2``, and what other sections need.

    Raises:
        ArtifactError: an artifact is missing or corrupted; the message names it.
    """
    settings = LiveConfig.model_validate(config.get("live", {}))
    tables = LiveTables(
        **corpus_tables(root),
        choices=read_table(root / "policy" / "choices.parquet").to_pandas(),
        lifts=read_table(root / "policy" / "lifts.parquet").to_pandas(),
        band=settings.band,
        rule=settings.rule,
    )
    data, choices = frame(tables), tables.choices
    return {
        "template": "kept_live.html.j2",
        "samples": len(data),
        "kept": int((data["times"] > 0).sum()),
        "prompts": len(choices),
        "settings": settings,
        "parts": _parts(choices),
        "reasons": reasons(choices),
        "planted": planted(choices, tables.labels, data.index),
        "examples": examples(tables, data),
        "listed": listed(tables, data),
        "columns": COLUMNS,
        "plots": {"lifts": _lift_plots(tables, data), "reasons": _reason_plot(choices)},
    }


def part_of(steps: pd.Series) -> pd.Series:
    """The quarter 0..3 of the training to which each step belongs."""
    return PARTS * steps // (steps.max() + 1)


def _parts(choices: pd.DataFrame) -> list[str]:
    """The steps of each quarter in words; a training of few steps has fewer quarters."""
    ends = choices["step"].groupby(part_of(choices["step"])).agg(["min", "max"]) + 1
    return [
        f"step {low}" if low == high else f"steps {low}–{high}"
        for low, high in ends.itertuples(index=False)
    ]


def reasons(choices: pd.DataFrame) -> list[dict[str, Any]]:
    """For each reason that occurs: words, prompts, their share, and the share in each quarter."""
    part = part_of(choices["step"])
    return [
        {
            "name": why,
            "words": WORDS[why],
            "count": int(taken.sum()),
            "share": float(taken.mean()),
            "parts": taken.groupby(part).mean().tolist(),
        }
        for why in REASONS
        if (taken := choices["reason"] == why).any()
    ]


def planted(
    choices: pd.DataFrame, labels: dict[int, str], corpus: pd.Index
) -> list[dict[str, Any]]:
    """The planted label of samples and prompts: shares of the corpus, of all prompts, and of the
    prompts of each quarter; empty without labels."""
    if not labels:
        return []
    label = pd.Series([labels.get(int(i), "unlabelled") for i in corpus], index=corpus)
    trained = label.loc[choices["sample_id"]].reset_index(drop=True)
    part = part_of(choices["step"]).reset_index(drop=True)
    return [
        {
            "label": name,
            "count": int((label == name).sum()),
            "corpus": float((label == name).mean()),
            "prompts": float((trained == name).mean()),
            "parts": (trained == name).groupby(part).mean().tolist(),
        }
        for name in sorted(label.unique())
    ]


def _lift_plots(tables: LiveTables, data: pd.DataFrame) -> Markup:
    """Histograms of lifts; empty where none is known."""
    choices, drawn = tables.choices, Markup("")
    chosen, corpus = choices["lift"].dropna(), data["lift"].dropna()
    if len(chosen):
        drawn += plots.draw(
            "lifts",
            "Histogram of lifts, of the measured samples and of the trained prompts",
            plots.histogram,
            corpus=corpus,
            kept=chosen,
            names=("samples measured", "prompts trained"),
            marks=tables.band,
            title="Lift right after the prompt",
            xlabel="lift",
        )
    part, rolled = part_of(choices["step"]), choices["rollout_lift"]
    first, last = (rolled[part == end].dropna() for end in (part.min(), part.max()))
    if len(first) and len(last):
        drawn += plots.draw(
            "rollout-lifts",
            "Histogram of the mean lift of the rollouts of each prompt, at both ends of training",
            plots.histogram,
            corpus=first,
            kept=last,
            names=("first quarter", "last quarter"),
            marks=tables.band,
            title="Lift of the rollouts of trained prompts",
            xlabel="mean lift of a prompt",
        )
    return drawn


def _reason_plot(choices: pd.DataFrame) -> Markup:
    """A line for each reason over the steps of the training."""
    steps = int(choices["step"].max()) + 1
    bins = np.unique(np.linspace(0, steps, min(BINS, steps) + 1).round().astype(int))
    place = np.searchsorted(bins, choices["step"], side="right") - 1
    series = {}
    for row in reasons(choices):
        share = (choices["reason"] == row["name"]).groupby(place).mean()
        middle = (bins[share.index] + bins[share.index + 1] + 1) / 2
        series[row["name"]] = (middle, 100 * share.to_numpy())
    return plots.draw(
        "reasons",
        "Why prompts were taken, by optimizer step",
        plots.lines,
        series=series,
        shown=["in band"],
        title="Why prompts were taken",
        xlabel="optimizer step",
        ylabel="% of prompts",
    )
