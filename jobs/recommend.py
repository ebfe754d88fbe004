"""Recommend for one history with the trained policy of a run."""

from __future__ import annotations

import difflib
from pathlib import Path

from jobs.console import quiet
from minirec.allocation import Shape
from minirec.artifacts import Run, fetch, read_array
from minirec.config import Config
from minirec.corpus.table import Catalogue, load_catalogue
from minirec.errors import ArtifactError, ConfigError
from minirec.settings import load


def recommend(run_dir: str, history: str, *, top: int) -> tuple[str, list[tuple[str, float]]]:
    """The analysis and the `top` items with their cosine, items of the history left out.

    Args:
        history: titles separated by commas, oldest first. A title that itself holds commas is
            found as long as it is written as in the catalogue.

    Raises:
        ConfigError: a title is not in the catalogue (the nearest ones are named).
        ArtifactError: the run has no trained policy.
    """
    run = Run(run_dir)
    if not run.path("config.yaml").exists():
        raise ArtifactError(f"{run.root} is no run directory; give the run_dir of `minirec run`")
    if run.done("train") is None:
        raise ArtifactError(f"{run.root} has no trained policy; run `minirec train` first")
    config = load(run.path("config.yaml"))
    catalogue = load_catalogue(run.path("corpus"))
    items = find_titles(history, catalogue)
    return _rank(run, config, catalogue, items, top)


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
            item = by_title.get(", ".join(parts[start:end]))
            if item is not None:
                found.append(item)
                start = end
                break
        else:
            near = difflib.get_close_matches(parts[start], list(by_title), n=3, cutoff=0.3)
            names = "; ".join(catalogue.titles[by_title[n]] for n in near)
            advice = f"did you mean: {names}?" if near else "see corpus/items.parquet for titles"
            raise ConfigError(f"no item is titled {parts[start]!r}; {advice}")
    return found


def _rank(
    run: Run, config: Config, catalogue: Catalogue, history: list[int], top: int
) -> tuple[str, list[tuple[str, float]]]:
    quiet(config)
    import torch

    from actors.rollout import engine_spec
    from actors.training import adapter_at
    from actors.transformers_engine import TransformersEngine
    from minirec.model.recommender import Encoder, load_policy
    from minirec.rl.reward import item_scores

    name = str(run.path("model")) if config.model.name == "demo" else config.model.name
    path, adapter = fetch(name), fetch(str(run.path("policy", "adapter")))
    encoder = Encoder.load(path, config.model, category=catalogue.category)
    prompt = encoder.prompt([catalogue.titles[i] for i in history])
    length = config.model.max_prompt_tokens + config.rollout.max_new_tokens + 8
    # One prompt does not pay for starting vLLM; both engines give the same greedy completion.
    shape = Shape(config.resources.cpus_per_engine, float(torch.cuda.is_available()))
    engine = TransformersEngine(engine_spec(config, path, length, shape=shape))
    greedy = engine.generate([prompt], n=1, seeds=[0], greedy=True, adapter=adapter_at(adapter))
    said = greedy[0][0]
    policy = load_policy(path, config.model, encoder.tokenizer, adapter=adapter)
    with torch.no_grad():
        hidden = policy([prompt + encoder.finish(said.token_ids, stopped=said.stopped)])[0]
    table = torch.from_numpy(read_array(_item_table(run)))
    cosines = item_scores(hidden, items=table, temperature=1.0)[0]
    cosines[torch.tensor(sorted(set(history)))] = -torch.inf
    best = cosines.topk(min(top, len(catalogue) - len(set(history))))
    named = [
        (catalogue.titles[i], round(v, 4))
        for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return said.text, named


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
