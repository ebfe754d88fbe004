"""`minirec gradients`: projected LoRA gradients of the scored samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.fingerprint import rollout_settings
from jobs.stage import SELECTION, Stage, Work, base_model, prior_folder
from minirec.errors import ArtifactError
from minirec.store.files import in_threads, intact
from minirec.store.remote import located
from minirec.store.run import Run, each_file

if TYPE_CHECKING:
    from actors.scoring.gradients import GradientShard
    from actors.scoring.spec import ScoringSpec
    from jobs.cluster.session import Session
    from minirec.config.run import Config


def _settings(run: Run, config: Config) -> dict[str, Any]:
    t = config.training
    return {
        "seed": config.seed,
        "scoring": {
            "projection_dim": config.scoring.projection_dim,
            "validation_samples": validation_samples(run, config),
        },
        "training": {"advantage_floor": t.advantage_floor, "scale_advantage": t.scale_advantage},
        "rollout": rollout_settings(config),
    }


def _body(work: Work) -> None:
    """Write gradients/part-*.parquet.

    For `less`, also write validation.npy: the mean gradient of validation samples, (dim,) float32.
    """
    import numpy as np

    from jobs.shards import forward_tokens, merged, score_shards
    from minirec.store.tables import write_array

    run, config, session, cost = work.run, work.config, work.session, work.cost
    shards = _shards(run.path("features"), run.path("gradients"), split="train")
    validation = work.settings["scoring"]["validation_samples"]
    folder = run.path("gradients", "valid_gradients")
    if validation:
        spec = _validation(run, config, session)
        score_shards([spec], config, session.allocation, label="validation", say=run.say)
        shards += _shards(located(spec.output), folder, split="valid")
    _fit(run, config, session, shards)
    cost.forward_tokens = forward_tokens(run.path("gradients"))
    if validation:
        table = merged(spec)
        if config.rollout.analysis:
            cost.rollouts = table.num_rows * (1 + config.scoring.stages[-1])
        cost.generated_tokens = sum(table["rollout_tokens"].to_pylist())
        cost.forward_tokens += forward_tokens(located(spec.output)) + forward_tokens(folder)
        column = merged(spec, folder=folder)["gradient"].combine_chunks()
        values = column.flatten().to_numpy().reshape(len(column), -1)
        mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        write_array(run.path("gradients", "validation.npy"), mean)


def validation_samples(run: Run, config: Config) -> int:
    """Number of validation samples. Only `less` needs them.

    If the finished gradients have them, they stay: other selections can use these gradients too.
    """
    samples = config.scoring.validation_samples
    made = (run.done("gradients") or {}).get("settings", {}).get("scoring.validation_samples")
    return samples if config.selection.method == "less" or made == samples else 0


def gradient_inputs(config: Config) -> list[str]:
    """The stage `gradients`, if `select` reads it."""
    return ["gradients"] if config.selection.needs_lora_gradients else []


def _validation(run: Run, config: Config, session: Session) -> ScoringSpec:
    """Rollouts of validation samples by the policy that scores, without screening."""
    from jobs.shards import scoring_spec

    return scoring_spec(
        run,
        config,
        session,
        split="valid",
        output="gradients/valid",
        item_table="features/item_table.npy",
        adapter=run.path(config.scoring.policy, "adapter"),
        scoring=config.scoring.model_copy(
            update={"screen": None, "rollouts": config.effective_scoring.stages[-1]}
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
    """Write the missing files in workers of Ray Train."""
    from actors.scoring.gradients import GradientSpec, gradient_loop
    from jobs.cluster.workers import Team, fit
    from jobs.training_log import follow
    from minirec.store.tables import check_table

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
        adapter=str(run.path(config.scoring.policy, "adapter")),
        training=config.training,
        rollout_temperature=config.rollout.temperature,
        dim=config.scoring.projection_dim,
        micro_batch=config.scoring.gradient_micro_batch,
        seed=config.seed,
        threads=worker.cpus,
        zero_stage=config.resources.zero_stage,
        prior=prior_folder(run, config, config.scoring.policy),
        item_weight=config.reward.item_weight,
    )
    folder = run.path("gradients")
    with follow("gradients", len(shards), lambda: (_there(outputs, folder), "shards"), at=folder):
        team = Team(config.training, workers, worker, run.path("ray"), "gradients")
        fit(session.worker(), gradient_loop, spec, team)
    if missing := [output for output in outputs if not output.exists()]:
        raise ArtifactError(f"{missing[0]} is missing; run the same command again to write it")


def _there(outputs: list[Path], folder: Path) -> int:
    """Number of files that exist, by one listing of the folder that holds them all."""
    found = {str(path) for path in folder.rglob("part-*.parquet")}
    return sum(str(path) in found for path in outputs)


GRADIENTS = Stage(
    name="gradients",
    help="projected LoRA gradients; `score` makes them where the selection uses them",
    inputs=lambda config: ["score"],
    outputs=("gradients",),
    settings=_settings,
    body=_body,
    needed=lambda config: config.needs_lora_gradients,
    comes_with=("score",),
    on_ray=True,
    trains=True,
    part_of=each_file,
    shared=True,
    charged=SELECTION,
)
