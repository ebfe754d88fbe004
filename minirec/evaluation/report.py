"""One self-contained HTML file about a finished run."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from minirec.config.reading import load
from minirec.corpus.split import same_time_sentences
from minirec.errors import ArtifactError
from minirec.evaluation import kept_live, kept_static, plots, quality
from minirec.evaluation.choosing import charged, choosing
from minirec.evaluation.headline import headline, shortcuts_sentence
from minirec.evaluation.pages import template
from minirec.evaluation.policies import label
from minirec.store.files import read_json
from minirec.store.remote import located
from minirec.store.run import Run

SHOWN = ("trained", "prior", "base")
"""Policies whose figures stand at the top, with the best reference."""


def render(run_root: Path) -> str:
    """The report of a finished run as one HTML page that needs no network.

    All texts of the corpus and the policy are escaped.

    Raises:
        ArtifactError: an artifact is missing or corrupted; the message names it.
    """
    root = located(run_root)
    corpus = read_json(root / "corpus" / "corpus.json")
    config = _config(root / "config.yaml")
    live = config.get("selection", {}).get("mode") == "live"
    chosen = (kept_live if live else kept_static).sections(root, config)
    evaluation = read_json(root / "evaluation.json")
    run = Run(root)
    costs = charged(run, live=live)
    page = template("report.html.j2")
    script = (Path(__file__).parent / "samples.js").read_text(encoding="utf-8")
    return page.render(
        name=root.name,
        headline=headline(evaluation),
        shortcuts=shortcuts_sentence(corpus["shortcuts"]) if "shortcuts" in corpus else None,
        config=yaml.safe_dump(config, sort_keys=False),
        corpus=_flat({key: value for key, value in corpus.items() if key != "shortcuts"}),
        task=same_time_sentences(corpus),
        notes=corpus["notes"],
        facts=_facts(chosen, evaluation),
        chosen=chosen,
        choosing=choosing(run, load(root / "config.yaml")),
        places=quality.places(evaluation),
        quality=quality.metrics(evaluation),
        paired=quality.paired(evaluation),
        breakdown=quality.breakdown(evaluation),
        weighted=config.get("reward", {}).get("item_weight"),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        costs=costs,
        sides=_sides(root, config),
        plots=_plots(root, evaluation, costs),
    )


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ArtifactError(f"{path} is missing; run `minirec run` in this directory again")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _log(folder: Path) -> pd.DataFrame:
    """The training log of a folder; empty if it does not exist."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return pd.DataFrame([json.loads(line) for line in lines if line.strip()])


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} ")
        elif not isinstance(value, list):
            rows.append((prefix + key, f"{value:,}" if isinstance(value, int) else str(value)))
    return rows


def _facts(chosen: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures at the top; `chosen` is what `kept_static` or `kept_live` found."""
    split = "test" if any("test" in s for s in evaluation["policies"].values()) else "valid"
    figures = []
    for metric, tests in (("value@10", evaluation.get("value")), ("NDCG@10", evaluation)):
        best = (tests or {}).get("best_reference", {}).get("name")
        figures += [
            {"name": label(name), "metric": metric, **splits[split][metric.lower()]}
            for name, splits in quality.in_order(evaluation)
            if tests and split in splits and (best is None or name in {*SHOWN, best})
        ]
    return {
        "samples": chosen["samples"],
        "kept": chosen["kept"],
        "share": chosen["kept"] / chosen["samples"],
        "split": split,
        "users": evaluation["users"][split],
        "figures": figures,
        "gain": evaluation.get("value", evaluation).get("paired", {}).get("trained", {}).get(split),
    }


def _sides(root: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds that engines and trainer worked and waited, for each training stage."""
    rows = []
    for stage, folder in (("proxy", "proxy"), ("train", "policy")):
        log = _log(root / folder)
        if "wait_seconds" not in log:
            continue
        section = config.get("proxy", {}) if stage == "proxy" else config
        total = log[["seconds", "rollout_seconds", "wait_seconds", "idle_seconds"]].sum()
        rows.append(
            {
                "stage": stage,
                "staleness": section.get("training", {}).get("staleness", 0),
                "seconds": total["seconds"],
                "rollout": total["rollout_seconds"],
                "training": total["seconds"] - total["wait_seconds"],
                "waited": total["wait_seconds"],
                "idle": total["idle_seconds"],
            }
        )
    return rows


def _plots(
    root: Path, evaluation: dict[str, Any], costs: list[dict[str, Any]]
) -> dict[str, Markup]:
    """Section -> its plots."""
    drawn = {"quality": _quality_plots(evaluation)}
    if costs:
        drawn["cost"] = plots.draw(
            "cost",
            "Bars: seconds of each stage",
            plots.bars,
            names=[row["stage"] for row in costs],
            values=[row["seconds"] for row in costs],
            title="Time by stage",
            xlabel="seconds",
        )
    for name in ("warm", "proxy", "policy"):
        log = _log(root / name)
        if len(log):
            drawn[name] = _learning(name, log)
    return drawn


def _quality_plots(evaluation: dict[str, Any]) -> Markup:
    tables = quality.metrics(evaluation)
    shown = [("value@10", "value")] if "value" in evaluation else []
    return Markup("").join(
        _quality_plot(table, metric, f"{prefix}-{table['split']}")
        for metric, prefix in (*shown, ("NDCG@10", "quality"))
        for table in tables
    )


def _quality_plot(table: dict[str, Any], metric: str, name: str) -> Markup:
    """The intervals of one metric on one split; `table` is one of `quality.metrics`."""
    names = [policy for policy, _ in table["rows"]]
    found = [metrics[metric.lower()] for _, metrics in table["rows"]]
    ends: dict[str, Any] = {part: [m[part] for m in found] for part in ("mean", "low", "high")}
    title = f"{metric}, {table['split']} split"
    label = ", ".join(f"{n} {m:.3f}" for n, m in zip(names, ends["mean"], strict=True))
    return plots.draw(name, f"{title}: {label}", plots.intervals, names=names, title=title, **ends)


def _learning(name: str, log: pd.DataFrame) -> Markup:
    titles = {
        "reward": "Mean reward",
        "loss": "Loss",
        "dead_groups": "Groups without signal",
        "token_entropy": "Entropy of written tokens",
        "kl_start": "KL to the start",
    }
    figures = {column: log.dropna(subset=column) for column in titles if column in log}
    return Markup("").join(
        plots.draw(
            f"{name}-{column}",
            f"{titles[column]} of the {name} by optimizer step",
            plots.curve,
            steps=rows["step"].to_numpy(),
            values=rows[column].to_numpy(np.float64),
            title=titles[column],
        )
        for column, rows in figures.items()
    )
