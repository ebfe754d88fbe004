"""`minirec sweep`: trials over budgets and settings that share one scoring (Ray Tune)."""

from __future__ import annotations

from typing import Any

from jobs.console import pulse, say
from jobs.fingerprint import rollout_settings, without_runtime
from jobs.run import SHARED, holding, stages
from jobs.stages.gradients import gradient_inputs
from jobs.trials.sweep_result import publish, read_rows, rows_of, write_rows
from jobs.trials.tune import forget, run_trials
from minirec.config.run import Config
from minirec.corpus.table import count_samples
from minirec.errors import EngineError
from minirec.store.run import Cost, Run
from minirec.trials.checks import check_trials
from minirec.trials.sweep import trials_of


def sweep(config: Config, *, overwrite: bool = False) -> Run:
    """Features once, then every trial; writes sweep.parquet, sweep.html and best.yaml.

    Raises:
        ConfigError: nothing to vary, or a value that is refused.
        ArtifactError: the directory holds a sweep with other settings.
        EngineError: trials failed; the others are finished, and the result is written.
    """
    trials_of(config, 1)  # refuses before anything starts
    stages(
        config,
        tuple(SHARED),
        overwrite=overwrite,
        check=lambda n: check_trials(trials_of(config, n), n),
    )
    run = Run(config.run_dir, overwrite=overwrite, say=say)
    samples = count_samples(run.path("corpus"), "train")
    planned = trials_of(config, samples)
    options = config.sweep

    def body(cost: Cost) -> None:
        results = run_trials(run, config, planned, limit=options.max_concurrent, asha=options.asha)
        rows = rows_of(results, planned, run, samples=samples)
        write_rows(run, config, planned, rows)
        cost.rollouts = sum(row["own_rollouts"] for row in rows)
        cost.optimizer_steps = sum(row["steps"] for row in rows)
        failed = [row["trial"] for row in rows if row["status"] == "failed"]
        if failed:
            publish(run, config, planned, rows)
            raise EngineError(
                f"{len(failed)} of {len(rows)} trials failed, for the causes in the table; the "
                f"same command tries them again"
            )
        forget(run)

    with holding(run), pulse("sweep"):
        ran = run.stage(
            "sweep",
            settings=_settings(config),
            inputs=["prepare", "proxy", "score", *gradient_inputs(config)],
            outputs=["trials", "sweep.parquet"],
            body=body,
            part_of=trial_of,
        )
        # Also where nothing ran: the tolerance may be another.
        publish(run, config, planned, read_rows(run), again=not ran)
    return run


def trial_of(path: str) -> str:
    """The folder of the trial that a file belongs to, or the file itself; below the run."""
    return "/".join(path.split("/")[:2])


def _settings(config: Config) -> dict[str, Any]:
    """What the trials depend on; not how many work at a time, nor what is made of them."""
    return {
        "seed": config.seed,
        "sweep": config.sweep.model_dump(mode="json", exclude={"max_concurrent", "tolerance"}),
        "selection": config.selection.model_dump(mode="json", exclude={"shards"}),
        "training": without_runtime(config.training.model_dump(mode="json")),
        "reward": config.reward.model_dump(mode="json"),
        "rollout": rollout_settings(config),
        "evaluation": {"bootstrap": config.evaluation.bootstrap},
    }
