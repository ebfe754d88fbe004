"""One self-contained HTML file about a finished run."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from markupsafe import Markup

from minirec.config.scoring import ScoringConfig
from minirec.corpus.split import same_time_sentences
from minirec.errors import ArtifactError
from minirec.evaluation import plots, quality
from minirec.evaluation.headline import headline, shortcuts_sentence
from minirec.evaluation.pages import template
from minirec.evaluation.policies import label
from minirec.evaluation.samples import examples, frame, listed
from minirec.selection import screening
from minirec.selection.learnability import chance_level
from minirec.store.files import read_json
from minirec.store.remote import located
from minirec.store.run import Run
from minirec.store.tables import read_table

SHOWN = ("trained", "prior", "base")
"""Policies whose figures stand at the top, with the best reference."""
SCORED_BY = {"proxy": "proxy policy", "warm": "policy of the warm start"}
"""The policy whose rollouts were scored, by `scoring.policy`."""


def render(run_root: Path) -> str:
    """The report of a finished run as one HTML page that needs no network.

    All texts of the corpus and the policy are escaped.

    Raises:
        ArtifactError: an artifact is missing or corrupted; the message names it.
    """
    root = located(run_root)
    corpus = read_json(root / "corpus" / "corpus.json")
    config = _config(root / "config.yaml")
    tables = _tables(root, config)
    data = frame(tables)
    evaluation = read_json(root / "evaluation.json")
    costs = _costs(root)
    page = template("report.html.j2")
    script = (Path(__file__).parent / "samples.js").read_text(encoding="utf-8")
    selection = config.get("selection", {})
    scoring = ScoringConfig.model_validate(config.get("scoring", {}))
    analysis = config.get("rollout", {}).get("max_new_tokens") != 0
    analysis = analysis and scoring.rollouts != 0
    scoring = scoring if analysis else scoring.without_analysis()
    return page.render(
        name=root.name,
        headline=headline(evaluation),
        shortcuts=shortcuts_sentence(corpus["shortcuts"]) if "shortcuts" in corpus else None,
        config=yaml.safe_dump(config, sort_keys=False),
        corpus=_flat({key: value for key, value in corpus.items() if key != "shortcuts"}),
        task=same_time_sentences(corpus),
        notes=corpus["notes"],
        facts=_facts(data, tables, evaluation, policy=scoring.policy),
        times="several times" if analysis else "once, without an analysis",
        places=quality.places(evaluation),
        quality=quality.metrics(evaluation),
        paired=quality.paired(evaluation),
        breakdown=quality.breakdown(evaluation),
        examples=examples(tables, data, selection),
        weighted=config.get("reward", {}).get("item_weight"),
        listed=listed(tables, data, selection),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        planted=_planted(tables),
        costs=costs,
        charged=_charged(costs),
        sides=_sides(root, config),
        saved=screening.savings(
            [tables["features"]],
            most=scoring.stages[-1],
            chance=tables["chance"],
            band=scoring.screen_band,
        ),
        plots=_plots(root, data, evaluation, costs, SCORED_BY[scoring.policy]),
    )


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ArtifactError(f"{path} is missing; run `minirec run` in this directory again")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _tables(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    parts = sorted((root / "features").glob("part-*.parquet"))
    if not parts:
        raise ArtifactError(f"{root / 'features'} has no part files; run `minirec score` first")
    columns = ["sample_id", "rewards", "completions", "embedding", "screen_reward"]
    columns += screening.COLUMNS
    items = read_table(root / "corpus" / "items.parquet")
    cutoff = int(config.get("reward", {}).get("cutoff", 1000))
    truth = root / "corpus" / "truth.parquet"
    labels = read_table(truth).to_pydict() if truth.exists() else {"sample_id": [], "label": []}
    return {
        "train": read_table(root / "corpus" / "train.parquet").to_pandas().set_index("sample_id"),
        "titles": dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)),
        "scores": read_table(root / "scores.parquet").to_pandas(),
        "selection": read_table(root / "selection.parquet").to_pandas(),
        "features": pa.concat_tables([read_table(p).select(columns) for p in parts]).to_pandas(),
        "chance": chance_level(len(items), cutoff=cutoff),
        "labels": dict(zip(labels["sample_id"], labels["label"], strict=True)),
    }


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


def _facts(
    data: pd.DataFrame, tables: dict[str, Any], evaluation: dict[str, Any], *, policy: str
) -> dict[str, Any]:
    """Facts of the run; `policy` is that of `scoring.policy`."""
    kept, dead = data["kept"], (data["hits"] == 0) & ~data["screened"]
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
        "samples": len(tables["train"]),
        "scored": len(data),
        "kept": len(tables["selection"]),
        "share": len(tables["selection"]) / len(tables["train"]),
        "dead": float(dead.mean()),
        "dead_kept": float(dead[kept].mean()),
        "chance": tables["chance"],
        "scored_by": SCORED_BY[policy],
        "split": split,
        "users": evaluation["users"][split],
        "figures": figures,
        "gain": evaluation.get("value", evaluation).get("paired", {}).get("trained", {}).get(split),
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


def _costs(root: Path) -> list[dict[str, Any]]:
    """Cost of each stage, and whether it counts as a cost of selection.

    The warm start does not, if the policy starts from it: it would be needed without selection.
    """
    run = Run(root)
    used = {"select", *run.made_from("select")}
    used -= {"warm"} & {*(run.done("train") or {"inputs": {}})["inputs"]}
    return [
        row | {"charged": row["charged"] == "selection" and row["stage"] in used}
        for row in run.costs()
    ]


def _charged(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Cost of selection, and its share of all seconds."""
    mine = [row for row in costs if row["charged"]]
    total = sum(row["seconds"] for row in costs)
    seconds = sum(row["seconds"] for row in mine)
    return {
        "stages": ", ".join(row["stage"] for row in mine),
        "seconds": seconds,
        "rollouts": sum(row["rollouts"] for row in mine),
        "tokens": sum(row["generated_tokens"] for row in mine),
        "share": seconds / total if total else 0.0,
        "total": total,
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
    root: Path,
    data: pd.DataFrame,
    evaluation: dict[str, Any],
    costs: list[dict[str, Any]],
    scored_by: str,
) -> dict[str, Markup]:
    """Section -> its plots."""
    drawn = {
        "rewards": _reward_plots(data, scored_by),
        "scores": _score_plots(data),
        "quality": _quality_plots(evaluation),
    }
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
    titles = {"reward": "Mean reward", "loss": "Loss", "dead_groups": "Groups without signal"}
    return Markup("").join(
        plots.draw(
            f"{name}-{column}",
            f"{title} of the {name} by optimizer step",
            plots.curve,
            steps=log["step"].to_numpy(),
            values=log[column].to_numpy(np.float64),
            title=title,
        )
        for column, title in titles.items()
        if column in log
    )
