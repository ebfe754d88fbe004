"""`minirec evaluate`: rank the targets of the splits, by policies and by references without LLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.fingerprint import model_settings, rollout_settings, weight_settings
from jobs.stage import Stage, Work, prior_folder
from jobs.stages.model import model_inputs
from jobs.stages.sasrec import RANKS, sasrec_inputs
from minirec.store.files import write_json
from minirec.store.run import Run, each_file

if TYPE_CHECKING:
    import pyarrow as pa

    from actors.scoring.spec import ScoringSpec
    from minirec.config.run import Config

SPLITS = ("valid", "test")
ALONE = "trained_alone"
"""The trained policy without the collaborative prior."""
ByName = dict[str, Any]


def evaluation(splits: Sequence[str]) -> Stage:
    """The stage for some splits. A sweep leaves out test, so that test chooses nothing."""
    return Stage(
        name="evaluate",
        help="rank valid and test over the full catalogue",
        inputs=_inputs,
        outputs=("evaluation.json", "ranks.parquet", "evaluation"),
        settings=partial(_settings, splits=splits),
        body=partial(_body, splits=splits),
        on_ray=True,
        part_of=each_file,
    )


def _inputs(config: Config) -> list[str]:
    """The proxy counts as an input even where it is not evaluated."""
    earlier = {"proxy", *config.evaluation.policies}
    return [
        *model_inputs(config),
        *(policy for policy in config.earlier_policies if policy in earlier),
        "train",
        *sasrec_inputs(config),
    ]


def _settings(run: Run, config: Config, *, splits: Sequence[str]) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "evaluation": config.evaluation.model_dump(mode="json", exclude=_unused(config)),
        "splits": list(splits),
        "shard_size": config.scoring.shard_size,
        "model": model_settings(config),
        "rollout": rollout_settings(config),
        **weight_settings(config),
    }


def _unused(config: Config) -> set[str]:
    """Settings of the evaluation without an effect."""
    evaluation = config.evaluation
    rerank = {"rerank"} if evaluation.rerank == "none" else set()
    return rerank | (set() if evaluation.orders else {"orders", "orders_keep"})


def _body(work: Work, *, splits: Sequence[str]) -> None:
    """Write ranks.parquet, which may have samples of train, and evaluation.json without them."""
    from minirec.evaluation import policies, ranking
    from minirec.store.tables import write_table

    run, config = work.run, work.config
    ranks, ids, orders = _policy_ranks(work, splits)
    others, users, groups = _references(run, config, splits)
    ranks |= others
    if config.sasrec.epochs:
        ranks["sasrec"] = _sasrec(run, splits)
    write_table(run.path("ranks.parquet"), _table(ranks, ids))
    shown = {
        policy: {split: values for split, values in by_split.items() if split in splits}
        for policy, by_split in ranks.items()
    }
    summary = ranking.summarise(
        shown,
        users=users,
        groups=groups,
        cutoffs=config.evaluation.cutoffs,
        bootstrap=config.evaluation.bootstrap,
        seed=config.seed,
        references=policies.REFERENCES,
        factors=_factors(run, config, splits),
    )
    write_json(run.path("evaluation.json"), summary | ({"orders": orders} if orders else {}))


def _policy_ranks(
    work: Work, splits: Sequence[str]
) -> tuple[dict[str, ByName], ByName, dict[str, ByName]]:
    """Ranks by policy and split, the sample_ids by split, and by policy and split what other orders
    of the histories change."""
    from jobs.shards import merged, score_on_kept, score_shards, scoring_spec
    from minirec.store.tables import read_table

    run, config, session, cost = work.run, work.config, work.session, work.cost
    earlier = config.earlier_policies
    policies = [p for p in config.evaluation.policies if p in ("base", "trained", *earlier)]
    if left_out := set(config.evaluation.policies) - {*policies}:
        run.say(f"evaluate: this run trains no {' and no '.join(sorted(left_out))}, left out")
    asked = [(policy, split) for policy in policies for split in splits]
    if config.evaluation.train_samples:
        asked += [("base", "train"), ("trained", "train")]
    adapters = {"trained": run.path("policy", "adapter")}
    adapters |= {policy: run.path(policy, "adapter") for policy in earlier}
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
    wanted, a = [*specs.values()], session.allocation
    if session.kept is None:
        score_shards(wanted, config, a, label="evaluate", say=run.say)
    else:
        score_on_kept(wanted, session.kept, config, a, label="evaluate", say=run.say)
    ranks: dict[str, ByName] = {policy: {} for policy, _ in asked}
    ids: ByName = {
        split: read_table(run.path("corpus", f"{split}.parquet"))["sample_id"] for split in splits
    }
    orders: dict[str, ByName] = {}
    for (policy, split), spec in specs.items():
        table = merged(spec)
        if spec.orders:
            orders.setdefault(policy, {})[split] = _order_figures(run, config, split, table)
        ranks[policy][split], ids[split] = table["rank"].to_numpy(), table["sample_id"]
        if policy == "trained" and spec.prior:
            ranks.setdefault(ALONE, {})[split] = table["rank_alone"].to_numpy()
        cost.rollouts += table.num_rows * _greedy(spec) if config.rollout.analysis else 0
        cost.generated_tokens += sum(table["rollout_tokens"].to_pylist())
    return ranks, ids, orders


def _greedy(spec: ScoringSpec) -> int:
    """Completions of each sample; `rise` can end earlier where a shortlist is short."""
    from minirec.evaluation.orders import ROUNDS

    return 1 + spec.orders + (ROUNDS if spec.rerank == "rise" else 0)


def _order_figures(run: Run, config: Config, split: str, table: pa.Table) -> dict[str, Any]:
    import numpy as np

    from minirec.corpus.table import load_users
    from minirec.evaluation.orders import order_figures

    top, place, rank = (
        np.array(table[name].to_pylist()) for name in ("order_top", "order_place", "order_rank")
    )
    return order_figures(
        top,
        place,
        rank,
        users=load_users(run.path("corpus"), split),
        slots=table["order_slots"].to_pylist(),
        resamples=config.evaluation.bootstrap,
        seed=config.seed,
    )


def _references(
    run: Run, config: Config, splits: Sequence[str]
) -> tuple[dict[str, ByName], ByName, dict[str, ByName]]:
    """Ranks of the references by split, users by split, groups of the samples by split."""
    from minirec.corpus.table import load_samples, load_users
    from minirec.evaluation import ranking, references
    from minirec.prior.prior import Prior, weights_in

    corpus = run.path("corpus")
    known = Prior.of(corpus).known
    functions = dict(references.REFERENCES)
    if folder := prior_folder(run, config):
        functions["prior"] = partial(references.weighted_parts, weights=weights_in(folder)[1])
    ranks: dict[str, ByName] = {name: {} for name in functions}
    users, groups = {}, {}
    for split in splits:
        samples = load_samples(corpus, split)
        history, target = [s.history for s in samples], [s.target for s in samples]
        excluded = [s.excluded for s in samples]
        for name, by_split in ranks.items():
            by_split[split] = references.reference_ranks(
                functions[name], known, history=history, target=target, excluded=excluded
            )
        users[split] = load_users(corpus, split)
        groups[split] = ranking.sample_groups(target, history=history, train_counts=known.users)
    return ranks, users, groups


def _factors(run: Run, config: Config, splits: Sequence[str]) -> ByName | None:
    """Factors (N,) of the targets by split; None: items have no weights."""
    from minirec.corpus.weights import target_factors

    if (column := config.reward.item_weight) is None:
        return None
    return {split: target_factors(run.path("corpus"), split, column) for split in splits}


def _sasrec(run: Run, splits: Sequence[str]) -> ByName:
    """Ranks of SASRec by split."""
    from minirec.store.tables import read_table

    table = read_table(run.path("sasrec", RANKS)).to_pandas()
    return {split: table["rank"][table["split"] == split].to_numpy() for split in splits}


def _table(ranks: dict[str, ByName], ids: ByName) -> pa.Table:
    import pyarrow as pa

    from minirec.corpus import schema

    parts = []
    for policy, by_split in ranks.items():
        for split, values in by_split.items():
            repeated = {"policy": [policy] * len(values), "split": [split] * len(values)}
            columns = repeated | {"sample_id": ids[split].combine_chunks(), "rank": values}
            parts.append(pa.table(columns, schema=schema.RANKS))
    return pa.concat_tables(parts)


EVALUATE = evaluation(SPLITS)
