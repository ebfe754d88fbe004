"""`minirec recommend --history`: recommend for one history with the trained policy of a run."""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.console import quiet
from jobs.stage import base_model, prior_folder
from minirec.config.reading import load
from minirec.config.run import Config
from minirec.corpus.ids import known_key
from minirec.corpus.prompts import comparable
from minirec.corpus.table import Catalogue, load_catalogue
from minirec.errors import ArtifactError, ConfigError
from minirec.store.files import read_json
from minirec.store.run import Run
from minirec.store.tables import read_table

REFRESHED = "refreshed"
"""Folder of the run directory that `minirec refresh` writes."""

if TYPE_CHECKING:
    from actors.serving.recommender import Recommendation, RecommenderSpec


def recommend(
    run_dir: str, history: str, *, top: int, analysis: bool = True
) -> tuple[Recommendation, list[str]]:
    """The best `top` items outside the history, and their titles.

    Args:
        history: titles or item keys, oldest first; see `find_titles`.
        analysis: whether the policy writes an analysis before it ranks.

    Raises:
        ConfigError: a title is unknown or ambiguous.
        ArtifactError: the run has no trained policy, or it was not evaluated.
    """
    run, config = finished_run(run_dir, "train")
    keys = read_table(run.path("corpus", "items.parquet"), ["key"])["key"].to_pylist()
    items = find_titles(history, load_catalogue(run.path("corpus")), keys)
    spec = local_spec(run, config, analysis=analysis)
    from actors.serving.recommender import Recommender

    recommender = Recommender(spec)
    (found,) = recommender.recommend([items], top=[top])
    return found, [recommender.titles[i] for i in found.items]


def local_spec(run: Run, config: Config, *, analysis: bool) -> RecommenderSpec:
    """The spec of a recommender in this process; raises as `recommender_spec`."""
    quiet(config)
    import torch

    threads, gpus = os.cpu_count() or 1, float(torch.cuda.is_available())
    return recommender_spec(run, config, analysis=analysis, threads=threads, gpus=gpus)


def finished_run(run_dir: str, *stages: str) -> tuple[Run, Config]:
    """A run and its settings; `ArtifactError` if one of the stages has not finished."""
    run = Run(run_dir)
    if not run.path("config.yaml").exists():
        raise ArtifactError(f"{run.root} is not a run directory; give the run_dir of `minirec run`")
    for stage in stages:
        if run.done(stage) is None:
            raise ArtifactError(
                f"{run.root} has not finished {stage}; run `minirec {stage} run_dir={run_dir}`"
            )
    return run, load(run.path("config.yaml"))


def prior_inputs(run: Run) -> dict[str, str]:
    """Fingerprints of the stages that a refreshed prior is made from."""
    return {stage: run.fingerprint(stage) for stage in ("prepare", "prior")}


def refreshed_counts(run: Run, config: Config) -> str | None:
    """Folder of the counts of `minirec refresh`; None: there are none, or no prior.

    Raises:
        ArtifactError: `prepare` or `prior` ran again after `minirec refresh`, or has not finished.
    """
    refreshed = run.path(REFRESHED)
    if config.model.prior == "none":
        return None
    inputs = prior_inputs(run)
    if not refreshed.exists():
        return None
    if read_json(refreshed / "prior.json")["facts"]["inputs"] != inputs:
        raise ArtifactError(
            f"{refreshed} was made from another corpus or other weights; run `minirec refresh "
            f"--run {run.root}` again, or delete the folder to rank without new events"
        )
    return str(refreshed)


def find_titles(history: str, catalogue: Catalogue, keys: Sequence[str]) -> list[int]:
    """Item ids of a history of titles or item keys, separated by commas.

    A title may contain commas: the longest match wins. `minirec.corpus.prompts.comparable` defines
    which titles are equal. `keys` are the V item keys of the catalogue.

    Raises:
        ConfigError: the history is empty, or a part matches no item or several items.
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
            part = written[start].strip()
            near = difflib.get_close_matches(comparable(part), list(by_title), n=3, cutoff=0.3)
            names = "; ".join(catalogue.titles[by_title[n][0]] for n in near)
            see = "see corpus/items.parquet for titles and keys"
            raise ConfigError(
                f"no item is titled {part!r}; {f'did you mean: {names}?' if near else see}"
            )
    return found


def _joined(parts: Sequence[str]) -> str:
    """A key with single blanks, as in the corpus, and no blanks around its commas."""
    return ",".join(" ".join(part.split()) for part in parts)


def _only(
    part: str, items: list[int], key: int | None, catalogue: Catalogue, keys: Sequence[str]
) -> int:
    """The one item among those with the title (`items`) and the one with the key (`key`)."""
    if key is not None and set(items) - {key}:
        raise ConfigError(
            f"{part!r} is the key of {catalogue.titles[key]!r}, and the title of the item with "
            f"the key {keys[next(i for i in items if i != key)]}; write the title of the first or "
            f"the key of the second"
        )
    if len(items) > 1:
        named = ", ".join(f"{keys[i]} ({catalogue.titles[i]})" for i in items[:5])
        raise ConfigError(
            f"{len(items)} items are titled {catalogue.titles[items[0]]!r}; give a key instead: "
            f"{named}"
        )
    return items[0] if key is None else key


def recommender_spec(
    run: Run,
    config: Config,
    *,
    analysis: bool,
    threads: float,
    gpus: float,
    new_items: tuple[tuple[str, str, str], ...] = (),
) -> RecommenderSpec:
    """The spec of a recommender.

    Raises:
        ArtifactError: the item vectors of `evaluate` are missing, or the refreshed prior is not of
            this run's corpus and weights.
    """
    from actors.serving.recommender import RecommenderSpec

    vectors = run.path("evaluation", "trained.npy")
    record = run.done("evaluate")
    if record is None or record["inputs"]["train"] != run.fingerprint("train"):
        raise ArtifactError(
            f"{run.root} was not evaluated after the last training; run `minirec evaluate "
            f"run_dir={run.root}`"
        )
    if not vectors.exists():
        raise ArtifactError(
            f"{run.root} has no item vectors of the trained policy; run `minirec evaluate "
            f"run_dir={run.root} --overwrite` with trained among evaluation.policies"
        )
    return RecommenderSpec(
        corpus=str(run.path("corpus")),
        model=base_model(run, config),
        adapter=str(run.path("policy", "adapter")),
        vectors=str(vectors),
        config=config,
        analysis=analysis,
        new_items=new_items,
        gpus=gpus,
        threads=max(1, int(threads)),
        prior=prior_folder(run, config, "policy"),
        refreshed=refreshed_counts(run, config),
    )
