"""A finished run with a collaborative prior, made in this process: nothing is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from actors.engines.engine import Adapter, engine_spec
from actors.scoring.scorer import ShardScorer
from actors.scoring.spec import ScoringSpec
from helpers.own_engine import OwnEngine
from helpers.small import SETTINGS
from helpers.tiny_model import build_adapter
from jobs.cluster.session import Session
from jobs.stage import prior_folder
from jobs.stages.model import MODEL
from jobs.stages.prepare import PREPARE
from minirec.config.reading import dump, load
from minirec.config.run import Config
from minirec.corpus import schema
from minirec.prior.prior import save_weights
from minirec.resources.allocation import Shape
from minirec.selection.live_record import as_selection
from minirec.store.files import atomic_dir, write_json
from minirec.store.run import Run
from minirec.store.tables import write_table

POLICIES = {"proxy": "proxy", "trained": "policy"}
"""Folders of the adapters."""
STAGES = {"proxy": "proxy", "trained": "train"}


def finish_in_process(run_dir: Path, *overrides: str) -> Run:
    """Finish prepare and model; weights and adapters are made up, the selection is arbitrary. With
    live selection the stage `train` has the selection and two steps that chose it.

    ``ranks.parquet`` has the ranks of the trained policy on test, from the scorer of `evaluate`.
    """
    file = run_dir.parent / f"{run_dir.name}.yaml"
    file.write_text(SETTINGS)
    config = load(file, [f"run_dir={run_dir}", *overrides])
    run = Run(run_dir, say=lambda line: None)
    session = Session(config)
    for stage in (PREPARE, MODEL):
        stage.run(run, config, session)
    _stage(run, "prior", ("prior",), lambda: _weights(run), inputs=["prepare"])
    (run_dir / "config.yaml").write_text(dump(config))
    for seed, (policy, stage) in enumerate(STAGES.items()):
        folder = POLICIES[policy]
        _stage(run, stage, (folder,), lambda f=folder, s=seed: _adapter(run, f, seed=s))
    if config.selection.mode == "live":
        _chosen_live(run)
    else:
        _stage(run, "select", ("selection.parquet",), lambda: _selection(run))
    outputs = ("ranks.parquet", "evaluation.json", "evaluation")
    _stage(run, "evaluate", outputs, lambda: _ranks(run, config), inputs=["train"])
    return run


def _stage(run, name, outputs, body, inputs=()):
    run.stage(name, settings={}, inputs=inputs, outputs=outputs, body=lambda cost: body())


def _weights(run: Run) -> None:
    with atomic_dir(run.path("prior")) as folder:
        save_weights(folder, [4.0, 3.0, 2.0])


def _adapter(run: Run, folder: str, *, seed: int) -> Adapter:
    adapter = build_adapter(str(run.path("model")), run.path(folder, "adapter"), seed=seed)
    save_weights(run.path(folder, "adapter"), [4.0, 3.0, 2.0], scale=0.5)
    return adapter


def _selection(run: Run) -> None:
    ids = [200, 3, 150, 60, 9, 310, 42, 17]
    zeros = {name: np.zeros(len(ids)) for name in schema.SELECTION.names}
    columns = zeros | {"rank": range(len(ids)), "sample_id": ids, "group": [0] * len(ids)}
    write_table(run.path("selection.parquet"), pa.table(columns, schema=schema.SELECTION))


def _chosen_live(run: Run) -> None:
    """Two steps of four prompts; sample 200 is in both."""
    ids = [200, 3, 150, 60, 9, 200, 42, 17]
    steps = [0] * 4 + [1] * 4
    numbers = dict.fromkeys(("lift", "rollout_lift", "reward"), np.full(len(ids), 0.5))
    columns = {"step": steps, "reason": ["in band"] * len(ids), "sample_id": ids} | numbers
    choices = pa.table(columns, schema=schema.CHOICES)
    write_table(run.path("policy", "choices.parquet"), choices)
    write_table(run.path("selection.parquet"), as_selection(choices))


def _ranks(run: Run, config: Config) -> None:
    torch.set_num_threads(1)
    model, adapter = str(run.path("model")), str(run.path("policy", "adapter"))
    length = config.model.max_prompt_tokens + config.rollout.max_new_tokens + 8
    spec = ScoringSpec(
        corpus=str(run.path("corpus")),
        split="test",
        output=str(run.path("evaluation", "trained-test")),
        item_table=str(run.path("evaluation", "trained.npy")),
        model_path=model,
        model=config.model,
        reward=config.reward,
        adapter=adapter,
        scoring=None,
        shard_size=64,
        prompts_per_call=16,
        seed=config.seed,
        pool=OwnEngine(engine_spec(config, model, length, shape=Shape(1, 0))),
        policy_adapter=Adapter(adapter),
        threads=1,
        prior=prior_folder(run, config, "policy"),
    )
    scorer = ShardScorer(spec)
    found = scorer.score(scorer.samples.take(scorer.rows))
    columns = {"policy": ["trained"] * len(found), "split": ["test"] * len(found)}
    columns |= {name: found[name].combine_chunks() for name in ("sample_id", "rank")}
    write_json(run.path("evaluation.json"), {"policies": {}})
    write_table(run.path("ranks.parquet"), pa.table(columns, schema=schema.RANKS))
