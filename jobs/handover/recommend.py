"""Recommend for one history with the trained policy of a run."""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.console import quiet
from minirec.config.reading import load
from minirec.config.run import Config
from minirec.corpus.ids import known_key
from minirec.corpus.prompts import comparable
from minirec.corpus.table import Catalogue, load_catalogue
from minirec.errors import ArtifactError, ConfigError
from minirec.store.run import Run
from minirec.store.tables import read_table

if TYPE_CHECKING:
    from actors.serving.recommender import RecommenderSpec

NewItems = tuple[tuple[str, str, str], ...]


def recommend(
    run_dir: str, history: str, *, top: int, analysis: bool = True
) -> tuple[str, list[tuple[str, float]]]:
    """The analysis and the `top` items with their cosine, items of the history left out.

    Args:
        history: titles or item keys separated by commas, oldest first, as `find_titles` reads
            them. A title may itself hold commas.
        top: how many items.
        analysis: off: nothing is written before the items are ranked.

    Raises:
        ConfigError: a title is not in the catalogue (the nearest ones are named), or several
            items have it.
        ArtifactError: the run has no trained policy.
    """
    run, config = trained_run(run_dir)
    keys = read_table(run.path("corpus", "items.parquet"), ["key"])["key"].to_pylist()
    items = find_titles(history, load_catalogue(run.path("corpus")), keys)
    quiet(config)
    import torch

    from actors.serving.recommender import Recommender

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


def find_titles(history: str, catalogue: Catalogue, keys: Sequence[str]) -> list[int]:
    """Item ids of a history that a person wrote.

    Args:
        history: titles or item keys, separated by commas. The longest run of parts that is a title
            or a key wins; titles are compared as `minirec.corpus.prompts.comparable` says.
        catalogue: V titles.
        keys: (V,) item keys.

    Raises:
        ConfigError: the history is empty, or a part names no item or several.
    """
    by_title: defaultdict[str, list[int]] = defaultdict(list)
    for item, title in enumerate(catalogue.titles):
        by_title[comparable(title)].append(item)
    by_key = {_joined(key.split(",")): item for item, key in enumerate(keys)}
    written = [part for part in history.split(",") if part.strip()]
    if not written:
        raise ConfigError(
            "the history is empty; give titles, e.g. --history 'Title one, Title two'"
        )
    found, start = [], 0
    while start < len(written):
        for end in range(len(written), start, -1):
            part = ",".join(written[start:end])
            key = by_key.get(known_key(_joined(written[start:end]), by_key))
            items = by_title.get(comparable(part), [])
            if items or key is not None:
                found.append(_only(part.strip(), items, key, catalogue, keys))
                start = end
                break
        else:
            raise _no_title(written[start].strip(), by_title, catalogue)
    return found


def _joined(parts: Sequence[str]) -> str:
    """A key of several parts with blanks as the corpus keeps them, and none around the commas."""
    return ",".join(" ".join(part.split()) for part in parts)


def _only(
    part: str, items: list[int], key: int | None, catalogue: Catalogue, keys: Sequence[str]
) -> int:
    """The item that has the title (`items`) or the key (`key`), if it is only one."""
    if key is not None and set(items) - {key}:
        raise ConfigError(
            f"{part!r} is the key of {catalogue.titles[key]!r}, and the title of the item with "
            f"the key {keys[next(i for i in items if i != key)]}; write the title of the first or "
            f"the key of the second"
        )
    if len(items) > 1:
        named = ", ".join(f"{keys[i]} ({catalogue.titles[i]})" for i in items[:5])
        raise ConfigError(
            f"{len(items)} items are titled {catalogue.titles[items[0]]!r}; give the key of one "
            f"instead of the title: {named}"
        )
    return items[0] if key is None else key


def _no_title(part: str, by_title: dict[str, list[int]], catalogue: Catalogue) -> ConfigError:
    near = difflib.get_close_matches(comparable(part), list(by_title), n=3, cutoff=0.3)
    names = "; ".join(catalogue.titles[by_title[n][0]] for n in near)
    advice = f"did you mean: {names}?" if near else "see corpus/items.parquet for titles and keys"
    return ConfigError(f"no item is titled {part!r}; {advice}")


def recommender_spec(
    run: Run, config: Config, *, analysis: bool, new_items: NewItems = (), threads: int = 1
) -> RecommenderSpec:
    """What a recommender of this run reads.

    Raises:
        ArtifactError: the trained policy was not evaluated, so its item vectors are missing.
    """
    from actors.serving.recommender import RecommenderSpec

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
