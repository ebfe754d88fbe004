"""Projected LoRA gradients of the scored samples, where the selection uses them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.cluster.workers import Team, fit
from jobs.fingerprint import rollout_settings
from jobs.stages.model import base_model
from jobs.stages.score import merged, score_shards, scoring_spec
from jobs.training_log import follow
from minirec.config.run import Config
from minirec.errors import ArtifactError
from minirec.store.files import in_threads, intact
from minirec.store.remote import located
from minirec.store.run import Cost, Run, each_file
from minirec.store.tables import check_table, read_table, write_array

if TYPE_CHECKING:
    from actors.scoring.gradients import GradientShard
    from actors.scoring.scorer import ScoringSpec
    from jobs.cluster.session import Session


def gradients(run: Run, config: Config, session: Session) -> bool:
    """Gradients of the rollouts in ``features/`` -> gradients/part-*.parquet, validation.npy.

    The latter, only for `less`, is the mean gradient of validation samples, (dim,) float32.
    """

    def body(cost: Cost) -> None:
        shards = _shards(run.path("features"), run.path("gradients"), split="train")
        if validation:
            spec = _validation(run, config, session)
            score_shards([spec], config, session.allocation, label="validation", say=run.say)
            folder = run.path("gradients", "valid_gradients")
            shards += _shards(located(spec.output), folder, split="valid")
        _fit(run, config, session, shards)
        cost.extra = {"dimension": _dimension(shards[0])}
        if validation:
            table = merged(spec)
            cost.rollouts = table.num_rows * (1 + config.scoring.stages[-1])
            cost.generated_tokens = sum(table["rollout_tokens"].to_pylist())
            mean = _mean(run.path("gradients", "valid_gradients"), spec)
            write_array(run.path("gradients", "validation.npy"), mean)

    validation = validation_samples(run, config)
    base_model(run, config)
    t = config.training
    return run.stage(
        "gradients",
        settings={
            "seed": config.seed,
            "scoring": {
                "projection_dim": config.scoring.projection_dim,
                "validation_samples": validation,
            },
            "training": {
                "advantage_floor": t.advantage_floor,
                "scale_advantage": t.scale_advantage,
            },
            "rollout": rollout_settings(config),
        },
        inputs=["score"],
        outputs=["gradients"],
        body=body,
        part_of=each_file,
    )


def validation_samples(run: Run, config: Config) -> int:
    """How many are needed: none but for `less`, though gradients made with them serve as well."""
    samples = config.scoring.validation_samples
    made = (run.done("gradients") or {}).get("settings", {}).get("scoring.validation_samples")
    return samples if config.selection.method == "less" or made == samples else 0


def gradient_inputs(config: Config) -> list[str]:
    """The stage that `select` reads besides scoring, if its settings use gradients."""
    return ["gradients"] if config.selection.needs_lora_gradients else []


def _validation(run: Run, config: Config, session: Session) -> ScoringSpec:
    """Rollouts of validation samples by the proxy policy; none is screened."""
    return scoring_spec(
        run,
        config,
        session,
        split="valid",
        output="gradients/valid",
        item_table="features/item_table.npy",
        adapter=run.path("proxy", "adapter"),
        scoring=config.scoring.model_copy(
            update={"screen": None, "rollouts": config.scoring.stages[-1]}
        ),
        limit=config.scoring.validation_samples,
    )


def _shards(features: Path, output: Path, *, split: str) -> list[GradientShard]:
    from actors.scoring.gradients import GradientShard

    parts = sorted(features.glob("part-*.parquet"))
    if not parts:
        raise ArtifactError(f"{features} holds no part files; run `minirec score` first")
    return [GradientShard(split, str(part), str(output / part.name)) for part in parts]


def _fit(run: Run, config: Config, session: Session, shards: list[GradientShard]) -> None:
    """Let the workers of Ray Train write the files that are missing."""
    from actors.scoring.gradients import GradientSpec, gradient_loop

    outputs = [located(shard.output) for shard in shards]
    if all(in_threads(lambda path: intact(path, check_table, say=run.say), outputs)):
        return
    session.make_room("train", engines=False)
    workers, worker = session.allocation.training_workers, session.allocation.worker
    spec = GradientSpec(
        corpus=str(run.path("corpus")),
        shards=shards,
        item_table=str(run.path("features", "item_table.npy")),
        model_path=base_model(run, config),
        model=config.model,
        adapter=str(run.path("proxy", "adapter")),
        training=config.training,
        rollout_temperature=config.rollout.temperature,
        dim=config.scoring.projection_dim,
        micro_batch=config.scoring.gradient_micro_batch,
        seed=config.seed,
        threads=worker.cpus,
        zero_stage=config.resources.zero_stage,
    )
    folder = run.path("gradients")
    with follow("gradients", len(shards), lambda: (_there(outputs, folder), "shards"), at=folder):
        team = Team(config.training, workers, worker, run.path("ray"), "gradients")
        fit(session.kept, gradient_loop, spec, team)
    if missing := [output for output in outputs if not output.exists()]:
        raise ArtifactError(f"{missing[0]} is missing; run it again, which makes what is missing")


def _there(outputs: list[Path], folder: Path) -> int:
    """How many of the files are there, by one listing of the folder that holds all of them."""
    found = {str(path) for path in folder.rglob("part-*.parquet")}
    return sum(str(path) in found for path in outputs)


def _dimension(shard: GradientShard) -> int:
    return read_table(located(shard.output)).schema.field("gradient").type.list_size


def _mean(folder: Path, spec: ScoringSpec) -> np.ndarray:
    """Mean gradient (dim,) float32 of the validation samples, summed in float64."""
    table = merged(spec, folder=folder)
    column = table["gradient"].combine_chunks()
    values = column.flatten().to_numpy().reshape(len(column), -1)
    return values.mean(axis=0, dtype=np.float64).astype(np.float32)
