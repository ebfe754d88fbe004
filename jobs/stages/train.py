"""Curriculum GRPO on the selection; the proxy is the same on a random subset."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cluster.workers import Team, fit
from jobs.fingerprint import rollout_settings, without_runtime
from jobs.stages.model import base_model, model_inputs
from jobs.tracking import tracking
from jobs.training_log import follow, last_step, read_log, spent
from minirec.config.run import Config, TrainingConfig
from minirec.corpus.table import SampleFile
from minirec.errors import ConfigError, EngineError
from minirec.store.files import check_folder, intact, read_json, remove, write_json
from minirec.store.run import Cost, Run
from minirec.store.tables import read_table

if TYPE_CHECKING:
    from jobs.cluster.session import Session


def learning_rate(training: TrainingConfig, config: Config) -> float:
    """The configured rate, or the default of the model: LoRA of a tiny model bears far more."""
    if training.learning_rate is not None:
        return training.learning_rate
    return 2e-3 if config.model.name == "demo" else 1e-4


def proxy(run: Run, config: Config, session: Session) -> bool:
    """Train the proxy policy on a random subset (method, section 2) -> proxy/adapter."""

    def body(cost: Cost) -> None:
        samples = SampleFile(run.path("corpus"), "train")
        drawn = min(config.proxy.samples, len(samples))
        rows = random.Random(config.seed).sample(range(len(samples)), drawn)
        rising = sorted(rows)
        ids = dict(zip(rising, samples.ids(rising), strict=True))
        order = [ids[row] for row in rows]
        _fit(run, config, session, cost, "proxy", config.proxy.training, order)

    return _stage(run, config, "proxy", config.proxy.model_dump(mode="json"), [], body)


def train(run: Run, config: Config, session: Session) -> bool:
    """Train the policy on selection.parquet in its order -> policy/adapter."""

    def body(cost: Cost) -> None:
        order = read_table(run.path("selection.parquet")).sort_by("rank")["sample_id"].to_pylist()
        _fit(run, config, session, cost, "policy", config.training, order)

    inputs = ["select"] + (["proxy"] if config.training.start == "proxy" else [])
    return _stage(run, config, "train", config.training.model_dump(mode="json"), inputs, body)


def _stage(
    run: Run,
    config: Config,
    name: str,
    section: dict[str, Any],
    inputs: list[str],
    body: Callable[[Cost], None],
) -> bool:
    base_model(run, config)
    return run.stage(
        name,
        settings={
            "seed": config.seed,
            {"train": "training"}.get(name, name): without_runtime(section),
            "model": config.model.model_dump(mode="json"),
            "reward": config.reward.model_dump(mode="json"),
            "rollout": rollout_settings(config),
        },
        inputs=model_inputs(config) + inputs,
        outputs=["policy" if name == "train" else name],
        body=body,
    )


def _fit(
    run: Run,
    config: Config,
    session: Session,
    cost: Cost,
    name: str,
    training: TrainingConfig,
    order: list[int],
) -> None:
    from actors.training.checkpoints import newest_checkpoint
    from actors.training.loop import STOP, train_loop
    from actors.training.spec import TrainingSpec

    model_path = base_model(run, config)
    folder = run.path(name)
    steps = training.steps_on(len(order))
    pool = session.pool(model_path, beside="proxy" if name == "proxy" else "train")
    a = session.allocation
    workers = a.proxy_workers if name == "proxy" else a.training_workers
    spec = TrainingSpec(
        corpus=str(run.path("corpus")),
        folder=str(folder),
        model_path=model_path,
        model=config.model,
        reward=config.reward,
        training=training.model_copy(update={"learning_rate": learning_rate(training, config)}),
        order=order,
        steps=steps,
        seed=config.seed,
        rollout_temperature=config.rollout.temperature,
        prompts_per_call=config.rollout.prompts_per_call,
        pool=pool,
        start=str(run.path("proxy", "adapter")) if training.start == "proxy" else None,
        threads=a.worker.cpus,
        zero_stage=config.resources.zero_stage,
    )
    if not intact(folder / "adapter", check_folder, say=run.say):
        _check_checkpoints(folder, workers, spec.zero_stage)
        newest_checkpoint(folder, say=run.say)  # says what the workers then do not find
        with tracking(run, config, name) as tracked:

            def state() -> tuple[int, str]:
                log = read_log(folder / "log.jsonl")
                tracked.update(log)
                return last_step(log)

            with follow(name, steps, state, at=folder):
                team = Team(spec.training, workers, a.worker, run.path("ray"), name)
                fit(session.kept, train_loop, spec, team)
    if not (folder / "adapter").exists():
        raise EngineError(f"training was told to stop by {folder / STOP}")
    for leftover in ("checkpoints", "adapters", "best"):
        remove(folder / leftover)
    log = read_log(folder / "log.jsonl")
    cost.rollouts = spent(log, "rollouts")
    cost.generated_tokens = spent(log, "tokens")
    cost.optimizer_steps = len(log)


def _check_checkpoints(folder: Path, workers: int, zero_stage: int) -> None:
    """Refuse to go on from checkpoints that are sharded in another way.

    ZeRO shards memory and leaves the arithmetic as it is, so it is in no fingerprint.
    """
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
            f"begin again"
        )
    write_json(path, now)
