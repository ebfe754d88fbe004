"""Curriculum GRPO on the selection; the proxy is the same on a random subset."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.rollout import resolve_adapter, resolve_engine
from jobs.console import bar
from jobs.model import base_model, model_inputs
from jobs.tracking import tracking
from jobs.workers import Team, fit
from minirec.artifacts import (
    Cost,
    Run,
    check_folder,
    intact,
    is_remote,
    read_json,
    read_table,
    remove,
    write_json,
)
from minirec.config import Config, TrainingConfig
from minirec.corpus.table import SampleFile
from minirec.errors import ArtifactError, ConfigError, EngineError

if TYPE_CHECKING:
    from jobs.session import Session


def training_steps(training: TrainingConfig, samples: int) -> int:
    """Optimizer steps for a selection of `samples`."""
    if training.steps is not None:
        return training.steps
    return math.ceil(training.epochs * samples / training.prompts_per_step)


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


def rollout_settings(config: Config) -> dict[str, Any]:
    """The rollout settings that change results; the others only change speed.

    Two engines draw other tokens from the same seed, and an adapter that is merged gives other
    last digits than an active one.
    """
    r = config.rollout
    return {
        "engine": resolve_engine(r),
        "adapter": resolve_adapter(config),
        "temperature": r.temperature,
        "max_new_tokens": r.max_new_tokens,
        "prompts_per_call": r.prompts_per_call,
    }


def without_runtime(section: dict[str, Any]) -> dict[str, Any]:
    """Training settings without those that a restart may change (deadlines, failures).

    A start from the base, staleness 0 and no validation are left out too: what was trained before
    there was a choice is the same.
    """
    runtime = {"max_failures", "step_deadline_s"}
    former = {"start": "base", "staleness": 0, "patience": None}
    runtime |= {key for key, value in former.items() if section.get(key) == value}
    if section.get("validation_steps") is None:
        runtime |= {"validation_steps", "validation_samples", "validation_seed"}
    return {
        key: without_runtime(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if key not in runtime
    }


def _fit(
    run: Run,
    config: Config,
    session: Session,
    cost: Cost,
    name: str,
    training: TrainingConfig,
    order: list[int],
) -> None:
    from actors.checkpoints import newest_checkpoint
    from actors.training import STOP, TrainingSpec, train_loop

    model_path = base_model(run, config)
    folder = run.path(name)
    steps = training_steps(training, len(order))
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
                return _last_step(log)

            with follow(name, steps, state, at=folder):
                team = Team(spec.training, workers, a.worker, run.path("ray"), name)
                fit(session, train_loop, spec, team)
    if not (folder / "adapter").exists():
        raise EngineError(f"training was told to stop by {folder / STOP}")
    for leftover in ("checkpoints", "adapters", "best"):
        remove(folder / leftover)
    log = read_log(folder / "log.jsonl")
    cost.rollouts = spent(log, "rollouts")
    cost.generated_tokens = spent(log, "tokens")
    cost.optimizer_steps = len(log)


def spent(log: list[dict[str, Any]], what: str) -> int:
    """Rollouts or tokens of a training log, those of validation with them."""
    return sum(entry[what] + entry.get(f"validation_{what}", 0) for entry in log)


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


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a training log, one per step; empty if there is none yet.

    Raises:
        ArtifactError: the log is damaged.
    """
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError:
        raise ArtifactError(
            f"{path} is damaged; delete the folder {path.parent} and run the same command again"
        ) from None


def _last_step(log: list[dict[str, Any]]) -> tuple[int, str]:
    """Steps in a training log, which rank 0 replaces at each step, and the last reward."""
    if not log:
        return 0, ""
    return log[-1]["step"] + 1, f"reward {log[-1]['reward']:.3f}"


def poll_s(at: Path) -> float:
    """Seconds between two looks at what is written there: of an object store, each is paid for."""
    return 10.0 if is_remote(at) else 0.5


@contextmanager
def follow(
    name: str, total: int, state: Callable[[], tuple[int, str]], *, at: Path
) -> Iterator[None]:
    """A bar that asks for the number of steps done and a word about them, which it reads `at`."""
    every_s = poll_s(at)
    stop = threading.Event()

    def show() -> None:
        # A damaged log of a former attempt is replaced by the next step, and a store that
        # fails here fails again where it matters.
        with suppress(Exception):
            done, text = state()
            if done:
                progress.update(done, text)

    def ask() -> None:
        while not stop.wait(every_s):
            show()

    with bar(name, total) as progress:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        show()  # the last steps
