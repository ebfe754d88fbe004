"""`minirec score`: rollouts, rewards and head features of training samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.fingerprint import policy_settings
from jobs.stage import SELECTION, Stage, Work
from jobs.stages.model import model_inputs
from jobs.stages.proxy import proxy_order
from jobs.stages.warm import warm_order
from minirec.store.run import Run, each_file

if TYPE_CHECKING:
    from minirec.config.run import Config


def _settings(run: Run, config: Config) -> dict[str, Any]:
    """The settings that change results. Those of screen and doubt count only where they act."""
    from minirec.corpus import schema

    scoring = config.effective_scoring
    settings: dict[str, Any] = {
        "features_version": schema.VERSION,
        "rollouts": 0 if config.scoring.rollouts == 0 else scoring.rollouts,
        "shard_size": scoring.shard_size,
        "samples": scoring.samples,
    }
    if scoring.policy != "proxy":
        settings["policy"] = scoring.policy
    if scoring.screen:
        settings |= {name: getattr(scoring, name) for name in ("screen", "screen_band", "control")}
    if len(scoring.stages) > 1:
        settings["doubt"] = scoring.doubt
    return policy_settings(config) | {"scoring": settings}


def seen_samples(run: Run, config: Config, policy: str) -> frozenset[int]:
    """sample_ids that the proxy or the warm start was trained on, up to the weights that it kept;
    with those of the warm start if the proxy starts from it.
    """
    if policy == "warm":
        return _trained(run, config, "warm")
    before = config.proxy.training.start
    earlier = frozenset() if before == "base" else _trained(run, config, before)
    return earlier | _trained(run, config, "proxy")


def _trained(run: Run, config: Config, policy: str) -> frozenset[int]:
    from actors.training.live import CHOICES
    from actors.training.validation import best_step
    from jobs.training_log import read_log
    from minirec.store.tables import read_table

    training = (config.warm if policy == "warm" else config.proxy).training
    log = read_log(run.path(policy, "log.jsonl"))
    best = best_step(log) if training.patience else None
    steps = len(log) if best is None else best + 1
    if policy == "warm" and config.warm.live:
        choices = read_table(run.path(policy, CHOICES), ["step", "sample_id"])
        both = zip(choices["step"].to_pylist(), choices["sample_id"].to_pylist(), strict=True)
        return frozenset(sample for step, sample in both if step < steps)
    order = (warm_order if policy == "warm" else proxy_order)(run, config)
    return frozenset(order[: training.draws(steps) * training.labelled_per_step])


def _body(work: Work) -> None:
    from jobs.shards import forward_tokens, parts, score_shards, scoring_spec
    from minirec.corpus.table import count_samples
    from minirec.selection.from_run import known_lifts
    from minirec.selection.learnability import chance_level
    from minirec.selection.live_record import eligible
    from minirec.selection.screening import COLUMNS, savings
    from minirec.store.tables import read_table

    run, config, session, cost = work.run, work.config, work.session, work.cost
    scoring = config.effective_scoring
    if not any(run.path("features").glob("part-*.parquet")):
        run.remove("gradients", ["gradients"])  # they belong to the rollouts that were deleted
    samples = count_samples(run.path("corpus"), "train")
    spec = scoring_spec(
        run,
        config,
        session,
        split="train",
        output="features",
        item_table="features/item_table.npy",
        adapter=run.path(config.scoring.policy, "adapter"),
        scoring=scoring,
        limit=None if config.scoring.samples is None else config.scoring.count(samples),
        trained=seen_samples(run, config, config.scoring.policy),
    )
    score_shards([spec], config, session.allocation, label="score", say=run.say)
    items = read_table(run.path("corpus", "items.parquet"), ["item_id"]).num_rows
    found = savings(
        (part.to_pydict() for part in parts(spec, COLUMNS)),
        most=scoring.stages[-1],
        chance=chance_level(items, cutoff=config.reward.cutoff),
        band=scoring.screen_band,
    )
    cost.forward_tokens = forward_tokens(run.path("features"))
    if not config.scores_forced:
        cost.rollouts, cost.generated_tokens = found.rollouts, found.tokens
    if line := eligible([forced for _, forced, _ in known_lifts(run, config)], config.live.band):
        run.say(f"score: {line}")
    if found.samples < samples:
        cost.extra = {"samples": found.samples}
        run.say(f"score: {found.samples:,} of {samples:,} training samples, drawn at random")
    if found.rollouts < found.full:
        run.say(f"score: {found.sentence()}")


SCORE = Stage(
    name="score",
    help="roll out and score every training sample",
    inputs=lambda config: [*model_inputs(config), config.scoring.policy],
    outputs=("features",),
    settings=_settings,
    body=_body,
    needed=lambda config: config.scores,
    on_ray=True,
    part_of=each_file,
    shared=True,
    charged=SELECTION,
)
