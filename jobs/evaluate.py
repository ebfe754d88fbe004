"""Full ranking of valid and test for each policy and two references that need no LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.model import base_model, model_inputs
from jobs.score import merged, score_shards, scoring_spec
from jobs.session import Session
from jobs.train import rollout_settings
from minirec.artifacts import Cost, Run, read_table, write_json, write_table
from minirec.config import Config
from minirec.corpus import schema
from minirec.evaluation import ranking, references

SPLITS = ("valid", "test")


def evaluate(run: Run, config: Config, session: Session) -> bool:
    """Ranks of the target under each policy -> ranks.parquet, evaluation.json."""

    def body(cost: Cost) -> None:
        ranks = {
            policy: {s: _policy_ranks(run, config, session, cost, policy, s) for s in SPLITS}
            for policy in config.evaluation.policies
        }
        others, groups = _references(run)
        ranks |= others
        write_table(run.path("ranks.parquet"), _table(run, ranks))
        summary = ranking.summarise(
            ranks,
            groups=groups,
            cutoffs=config.evaluation.cutoffs,
            bootstrap=config.evaluation.bootstrap,
            seed=config.seed,
        )
        write_json(run.path("evaluation.json"), summary)

    base_model(run, config)
    return run.stage(
        "evaluate",
        settings={
            "seed": config.seed,
            "evaluation": config.evaluation.model_dump(mode="json"),
            "shard_size": config.scoring.shard_size,
            "model": config.model.model_dump(mode="json"),
            "rollout": rollout_settings(config),
        },
        inputs=[*model_inputs(config), "proxy", "train"],
        outputs=["evaluation.json", "ranks.parquet", "evaluation"],
        body=body,
    )


def _policy_ranks(
    run: Run, config: Config, session: Session, cost: Cost, policy: str, split: str
) -> np.ndarray:
    adapters = {"trained": "policy", "proxy": "proxy"}
    adapter = run.path(adapters[policy], "adapter") if policy in adapters else None
    spec = scoring_spec(
        run,
        config,
        session,
        split=split,
        output=f"evaluation/{policy}-{split}",
        adapter=adapter,
        rollouts=0,
    )
    score_shards(spec, config, label=f"evaluate {policy} {split}")
    table = merged(Path(spec.output), run.path("corpus", f"{split}.parquet"))
    cost.rollouts += table.num_rows
    return table["rank"].to_numpy()


def _references(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Ranks of the references, and the groups of the breakdown, both by split."""
    items = read_table(run.path("corpus", "items.parquet")).num_rows
    columns = read_table(run.path("corpus", "train.parquet")).to_pydict()
    train = references.interactions(
        columns["user"], history=columns["history"], target=columns["target"], items=items
    )
    ranks: dict[str, dict[str, Any]] = {"popularity": {}, "cooccurrence": {}}
    groups = {}
    for split in SPLITS:
        columns = read_table(run.path("corpus", f"{split}.parquet")).to_pydict()
        sample = {"history": columns["history"], "target": columns["target"]}
        ranks["popularity"][split] = references.popularity_ranks(train, **sample)
        ranks["cooccurrence"][split] = references.cooccurrence_ranks(train, **sample)
        groups[split] = ranking.sample_groups(**sample, train_counts=references.item_counts(train))
    return ranks, groups


def _table(run: Run, ranks: dict[str, dict[str, np.ndarray]]) -> pa.Table:
    parts = []
    for policy, by_split in ranks.items():
        for split, values in by_split.items():
            ids = read_table(run.path("corpus", f"{split}.parquet"))["sample_id"]
            columns = {
                "policy": pa.array([policy] * len(values)),
                "split": pa.array([split] * len(values)),
                "sample_id": ids.combine_chunks(),
                "rank": pa.array(values, pa.int32()),
            }
            parts.append(pa.table(columns, schema=schema.RANKS))
    return pa.concat_tables(parts)
