"""`minirec train`: train on the selection. `train_on` also trains the proxy and the warm start."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.fingerprint import (
    feedback_settings,
    live_settings,
    policy_settings,
    training_settings,
)
from jobs.stage import POLICY, Stage, Work, base_model, prior_folder
from jobs.stages.model import model_inputs
from minirec.errors import ConfigError, EngineError
from minirec.store.files import check_folder, intact, read_json, remove, write_json
from minirec.store.run import Run

if TYPE_CHECKING:
    from actors.pool.handle import PoolHandle
    from minirec.config.run import Config
    from minirec.config.training import TrainingConfig
    from minirec.corpus.table import SampleFile

LIVE = "selection.parquet"
"""What live selection trained; static selection writes a file of this name before the training."""


def learning_rate(training: TrainingConfig, config: Config) -> float:
    """The configured rate, or a default: larger for the tiny demo model."""
    if training.learning_rate is not None:
        return training.learning_rate
    return 2e-3 if config.model.name == "demo" else 1e-4


def train_on(
    work: Work,
    order: list[int],
    *,
    training: TrainingConfig,
    folder: str,
    live: bool = False,
    lifts: Sequence[tuple[int, float, float]] = (),
    arms: Sequence[int] = (),
) -> None:
    """Train on samples in this order; write ``adapter`` and ``log.jsonl`` into the folder.

    An interrupted training continues from its newest undamaged checkpoint.

    Args:
        order: sample_ids of the train split.
        folder: ``warm``, ``proxy`` or ``policy``, below the run directory.
        live: each step chooses its samples from all in `order`; writes ``choices.parquet``.
        lifts, arms: known lifts and clusters of samples, see `TrainingSpec`.

    Raises:
        EngineError: a worker failed too often, engine and trainer disagree, or a stop file ended
            the training.
    """
    from actors.engines.engine import resolve_prompts_per_call
    from actors.pool.saved import Replay
    from actors.training.checkpoints import newest_checkpoint
    from actors.training.log import mismatch
    from actors.training.loop import STOP, train_loop
    from actors.training.spec import TrainingSpec
    from jobs.cluster.workers import Team, fit
    from jobs.tracking import tracking
    from jobs.training_log import LogReader, follow, last_step, read_log, spent, validating

    run, config, session = work.run, work.config, work.session
    model_path = base_model(run, config)
    path = run.path(folder)
    chosen = live and folder == "policy"
    size = config.selection.count(len(order)) if chosen else len(order)
    steps = training.steps_on(size)
    beside = "train" if folder == "policy" else folder
    pool: PoolHandle | Replay | None = None
    if not training.rolls_out:
        session.make_room(beside, engines=False)
    elif folder == "policy" and config.rollout.replay:
        session.make_room(beside, engines=False)
        pool = Replay(config.rollout.replay)
    else:
        pool = session.pool(model_path, beside=beside)
    a = session.allocation
    workers = a.workers(beside)
    spec = TrainingSpec(
        corpus=str(run.path("corpus")),
        folder=str(path),
        model_path=model_path,
        model=config.model,
        reward=config.reward,
        training=training.model_copy(update={"learning_rate": learning_rate(training, config)}),
        order=order,
        steps=steps,
        seed=config.seed,
        rollout_temperature=config.rollout.temperature,
        longest=config.rollout.max_new_tokens,
        prompts_per_call=resolve_prompts_per_call(config),
        pool=pool,
        saves_rollouts=config.rollout.save,
        start=None if training.start == "base" else str(run.path(training.start, "adapter")),
        threads=a.worker.cpus,
        zero_stage=config.resources.zero_stage,
        prior=prior_folder(run, config, training.start),
        live=config.live if live else None,
        selection=config.selection if live or arms else None,
        lifts=lifts,
        arms=arms,
        history=config.corpus.history,
    )
    if not intact(path / "adapter", check_folder, say=run.say):
        _check_checkpoints(path, workers, spec.zero_stage)
        newest_checkpoint(path, say=run.say)  # reports damaged ones, which workers skip silently
        with tracking(run, config, folder) as tracked:
            reader = LogReader(path / "log.jsonl")

            def state() -> tuple[int, str]:
                log = reader.read()
                tracked.update(log)
                return last_step(log)

            with follow(folder, steps, state, at=path):
                team = Team(spec.training, workers, a.worker, run.path("ray"), folder)
                fit(session.worker(), train_loop, spec, team)
    if not (path / "adapter").exists():
        why = mismatch(read_log(path / "log.jsonl"), training.max_log_ratio)
        raise EngineError(why or f"the file {path / STOP} stopped the training")
    for leftover in ("checkpoints", "adapters", "best"):
        remove(path / leftover)
    log = read_log(path / "log.jsonl")
    work.cost.rollouts = spent(log, "rollouts")
    work.cost.generated_tokens = spent(log, "tokens")
    work.cost.forward_tokens = sum(entry["forward_tokens"] for entry in log)
    work.cost.validation_forward_tokens = sum(validating(e, "forward_tokens") for e in log)
    work.cost.optimizer_steps = len(log)


def drawn_ids(samples: SampleFile, count: int, *, seed: int) -> list[int]:
    """The sample_ids of `count` rows, in the order in which they are drawn at random."""
    rows = random.Random(seed).sample(range(len(samples)), count)
    ascending = sorted(rows)
    ids = dict(zip(ascending, samples.ids(ascending), strict=True))
    return [ids[row] for row in rows]


def start_inputs(training: TrainingConfig) -> list[str]:
    """The stage whose adapter a training starts from, if any."""
    return [] if training.start == "base" else [training.start]


def _check_checkpoints(folder: Path, workers: int, zero_stage: int) -> None:
    """Refuse checkpoints that were sharded differently. The fingerprint does not cover this."""
    path = folder / "workers.json"
    now = {"workers": workers, "zero_stage": zero_stage}
    before = read_json(path) if path.exists() else now
    same = before["zero_stage"] == zero_stage and (not zero_stage or before["workers"] == workers)
    if not same and any((folder / "checkpoints").glob("step-*")):
        raise ConfigError(
            f"the half-finished training in {folder} has checkpoints of {before['workers']} "
            f"workers with ZeRO {before['zero_stage']}, now there are {workers} with ZeRO "
            f"{zero_stage}; set resources.training_workers={before['workers']} and "
            f"resources.zero_stage={before['zero_stage']}, or delete {folder / 'checkpoints'} to "
            f"start again"
        )
    write_json(path, now)


def _body(work: Work) -> None:
    from minirec.store.tables import read_table

    run, config = work.run, work.config
    if config.selection.mode == "live":
        _train_live(work)
        return
    selection = read_table(run.path("selection.parquet")).sort_by("rank")
    order = selection["sample_id"].to_pylist()
    paced = config.selection.curriculum == "self_paced"
    arms = selection["group"].to_pylist() if paced else ()
    train_on(work, order, training=config.training, folder="policy", arms=arms)


def _train_live(work: Work) -> None:
    from minirec.corpus.table import count_samples
    from minirec.selection.from_run import known_lifts, train_ids
    from minirec.selection.live_record import as_selection, summary
    from minirec.store.tables import read_table, write_table
    from minirec.trials.checks import check_goal, check_live

    run, config = work.run, work.config
    ids = train_ids(run)
    check_live(config, len(ids))
    check_goal(config, count_samples(run.path("corpus"), "valid"))
    lifts = known_lifts(run, config) if config.live.scores else ()
    train_on(work, ids.tolist(), training=config.training, folder="policy", live=True, lifts=lifts)
    choices = read_table(run.path("policy", "choices.parquet"))
    write_table(run.path(LIVE), as_selection(choices))
    live = config.live
    for line in summary(choices, samples=len(ids), band=live.band, rule=live.rule):
        run.say(f"train: {line}")


def _settings(run: Run, config: Config) -> dict[str, Any]:
    settings = policy_settings(config) | {"training": training_settings(config.training)}
    settings |= config.selection.pacing() | feedback_settings(config)
    if config.selection.mode == "live":
        settings["live"] = live_settings(config) | {"budget": config.selection.budget}
    if config.rollout.replay:
        from actors.pool.saved import identity

        settings["replay"] = identity(config.rollout.replay)
    return settings


def _inputs(config: Config) -> list[str]:
    chosen = ["select"] if config.selection.mode == "static" else []
    if config.selection.mode == "live" and config.live.scores:
        chosen = ["score"]
    return [*model_inputs(config), *chosen, *start_inputs(config.training)]


TRAIN = Stage(
    name="train",
    help="train the policy on the subset",
    inputs=_inputs,
    outputs=("policy",),
    also=lambda config: (LIVE,) if config.selection.mode == "live" else (),
    settings=_settings,
    body=_body,
    on_ray=True,
    trains=True,
    charged=POLICY,
)
