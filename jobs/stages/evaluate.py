"""Full ranking of valid and test for each policy and three references that need no LLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.fingerprint import rollout_settings
from jobs.stages.model import base_model, model_inputs
from jobs.stages.score import merged, score_on_kept, score_shards, scoring_spec
from minirec.config.run import Config
from minirec.corpus import schema
from minirec.corpus.table import load_samples, load_users
from minirec.evaluation import ranking, references
from minirec.store.files import write_json
from minirec.store.run import Cost, Run, each_file
from minirec.store.tables import read_table, write_table

if TYPE_CHECKING:
    from jobs.cluster.session import Session

SPLITS = ("valid", "test")
ByName = dict[str, Any]


def evaluate(run: Run, config: Config, session: Session, *, splits: Sequence[str] = SPLITS) -> bool:
    """Ranks of the target under each policy -> ranks.parquet, evaluation.json.

    A sweep leaves out the test split: nothing is chosen by it. Ranks of samples of train are in
    ranks.parquet only.
    """

    def body(cost: Cost) -> None:
        ranks, ids = _policy_ranks(run, config, session, cost, splits)
        others, users, groups = _references(run, splits)
        ranks |= others
        write_table(run.path("ranks.parquet"), _table(ranks, ids))
        summary = ranking.summarise(
            {policy: _only(by_split, splits) for policy, by_split in ranks.items()},
            users=users,
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
            "evaluation": _settings(config),
            "shard_size": config.scoring.shard_size,
            "model": config.model.model_dump(mode="json"),
            "rollout": rollout_settings(config),
            **({} if tuple(splits) == SPLITS else {"splits": list(splits)}),
        },
        inputs=[*model_inputs(config), "proxy", "train"],
        outputs=["evaluation.json", "ranks.parquet", "evaluation"],
        body=body,
        part_of=each_file,
    )


def _settings(config: Config) -> dict[str, Any]:
    """Without samples of train where there are none: what was made before is the same."""
    none = {"train_samples"} if config.evaluation.train_samples is None else None
    return config.evaluation.model_dump(mode="json", exclude=none)


def _only(by_split: ByName, splits: Sequence[str]) -> ByName:
    return {split: values for split, values in by_split.items() if split in splits}


def _policy_ranks(
    run: Run, config: Config, session: Session, cost: Cost, splits: Sequence[str]
) -> tuple[dict[str, ByName], ByName]:
    """Ranks by policy and split, and the sample_ids by split."""
    asked = [(policy, split) for policy in config.evaluation.policies for split in splits]
    if config.evaluation.train_samples:
        asked += [("base", "train"), ("trained", "train")]
    adapters = {"trained": run.path("policy", "adapter"), "proxy": run.path("proxy", "adapter")}
    specs = {
        (policy, split): scoring_spec(
            run,
            config,
            session,
            split=split,
            output=f"evaluation/{policy}-{split}",
            item_table=f"evaluation/{policy}.npy",
            adapter=adapters.get(policy),
            scoring=None,
            limit=config.evaluation.train_samples if split == "train" else None,
        )
        for policy, split in asked
    }
    asked_for, a = [*specs.values()], session.allocation
    if session.kept is None:
        score_shards(asked_for, config, a, label="evaluate", say=run.say)
    else:
        score_on_kept(asked_for, session.kept, config, a, say=run.say)
    ranks: dict[str, ByName] = {policy: {} for policy, _ in asked}
    ids: ByName = {
        split: read_table(run.path("corpus", f"{split}.parquet"))["sample_id"] for split in splits
    }
    for (policy, split), spec in specs.items():
        table = merged(spec)
        ranks[policy][split], ids[split] = table["rank"].to_numpy(), table["sample_id"]
        cost.rollouts += table.num_rows
        cost.generated_tokens += sum(table["rollout_tokens"].to_pylist())
    return ranks, ids


def _references(
    run: Run, splits: Sequence[str]
) -> tuple[dict[str, ByName], ByName, dict[str, ByName]]:
    """By split: ranks of the references, users of the samples, groups of the breakdown."""
    corpus = run.path("corpus")
    titles = read_table(corpus / "items.parquet")["title"].to_pylist()
    samples = load_samples(corpus, "train")
    train = references.interactions(
        load_users(corpus, "train"),
        history=[s.history for s in samples],
        target=[s.target for s in samples],
        items=len(titles),
    )
    known = references.Known(train, titles)
    ranks: dict[str, ByName] = {name: {} for name in references.REFERENCES}
    users, groups = {}, {}
    for split in splits:
        samples = load_samples(corpus, split)
        history, target = [s.history for s in samples], [s.target for s in samples]
        for name, by_split in ranks.items():
            by_split[split] = references.reference_ranks(
                name,
                known,
                history=history,
                target=target,
                excluded=[s.excluded for s in samples],
            )
        users[split] = load_users(corpus, split)
        groups[split] = ranking.sample_groups(target, history=history, train_counts=known.counts)
    return ranks, users, groups


def _table(ranks: dict[str, ByName], ids: ByName) -> pa.Table:
    parts = []
    for policy, by_split in ranks.items():
        for split, values in by_split.items():
            columns = {
                "policy": pa.array([policy] * len(values)),
                "split": pa.array([split] * len(values)),
                "sample_id": ids[split].combine_chunks(),
                "rank": pa.array(values, pa.int32()),
            }
            parts.append(pa.table(columns, schema=schema.RANKS))
    return pa.concat_tables(parts)
