"""Recommend for one history with the trained policy of a run."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.console import quiet
from minirec.artifacts import Run
from minirec.config import Config
from minirec.corpus.table import Catalogue, load_catalogue
from minirec.errors import ArtifactError, ConfigError
from minirec.settings import load

if TYPE_CHECKING:
    from actors.recommending import RecommenderSpec

NewItems = tuple[tuple[str, str, str], ...]


def recommend(
    run_dir: str, history: str, *, top: int, analysis: bool = True
) -> tuple[str, list[tuple[str, float]]]:
    """The analysis and the `top` items with their cosine, items of the history left out.

    Args:
        history: titles separated by commas, oldest first. A title that itself holds commas is
            found as long as it is written as in the catalogue.
        top: how many items.
        analysis: off: nothing is written before the items are ranked.

    Raises:
        ConfigError: a title is not in the catalogue (the nearest ones are named).
        ArtifactError: the run has no trained policy.
    """
    run, config = trained_run(run_dir)
    items = find_titles(history, load_catalogue(run.path("corpus")))
    quiet(config)
    import torch

    from actors.recommending import Recommender

    spec = recommender_spec(run, config, analysis=analysis, threads=os.cpu_count() or 1)
    spec = replace(spec, gpus=float(torch.cuda.is_available()))
    recommender = Recommender(spec)
    (found,) = recommender.recommend([items], top=[top])
    named = [recommender.titles[i] for i in found.items]
    return found.analysis, list(zip(named, found.cosines, strict=True))


def trained_run(run_dir: str) -> tuple[Run, Config]:
    """A run with a trained policy, and its settings.

    Raises:
        ArtifactError: it is no run directory, or nothing is trained.
    """
    run = Run(run_dir)
    if not run.path("config.yaml").exists():
        raise ArtifactError(f"{run.root} is no run directory; give the run_dir of `minirec run`")
    if run.done("train") is None:
        raise ArtifactError(
            f"{run.root} has no trained policy; run `minirec train run_dir={run_dir}` first"
        )
    return run, load(run.path("config.yaml"))


def find_titles(history: str, catalogue: Catalogue) -> list[int]:
    """Item ids of comma-separated titles; the longest run of parts that is a title wins."""
    by_title: dict[str, int] = {}
    for item, title in enumerate(catalogue.titles):
        by_title.setdefault(" ".join(title.lower().split()), item)
    parts = [" ".join(part.lower().split()) for part in history.split(",")]
    parts = [part for part in parts if part]
    if not parts:
        raise ConfigError(
            "the history is empty; give titles, e.g. --history 'Title one, Title two'"
        )
    found, start = [], 0
    while start < len(parts):
        for end in range(len(parts), start, -1):
            title = ", ".join(parts[start:end])
            if title in by_title:
                found.append(by_title[title])
                start = end
                break
        else:
            near = difflib.get_close_matches(parts[start], list(by_title), n=3, cutoff=0.3)
            names = "; ".join(catalogue.titles[by_title[n]] for n in near)
            advice = f"did you mean: {names}?" if near else "see corpus/items.parquet for titles"
            raise ConfigError(f"no item is titled {parts[start]!r}; {advice}")
    return found


def recommender_spec(
    run: Run, config: Config, *, analysis: bool, new_items: NewItems = (), threads: int = 1
) -> RecommenderSpec:
    """What a recommender of this run reads.

    Raises:
        ArtifactError: the trained policy was not evaluated, so its item vectors are missing.
    """
    from actors.recommending import RecommenderSpec

    return RecommenderSpec(
        corpus=str(run.path("corpus")),
        model=str(run.path("model")) if config.model.name == "demo" else config.model.name,
        adapter=str(run.path("policy", "adapter")),
        vectors=str(_item_table(run)),
        config=config,
        analysis=analysis,
        new_items=new_items,
        threads=threads,
    )


def _item_table(run: Run) -> Path:
    """Item vectors that `evaluate` made with the policy of the last `train`."""
    path = run.path("evaluation", "trained.npy")
    record = run.done("evaluate")
    if record is None or record["inputs"]["train"] != run.fingerprint("train"):
        raise ArtifactError(f"{run.root} is not evaluated since training; run `minirec evaluate`")
    if not path.exists():
        raise ArtifactError(
            f"{run.root} has no item vectors of the trained policy; run `minirec evaluate "
            f"--overwrite` with trained among evaluation.policies"
        )
    return path
