"""`minirec compare`: selection methods at equal cost, over budgets and seeds (Ray Tune)."""

from __future__ import annotations

from typing import Any

from jobs.console import pulse, say
from jobs.fingerprint import rollout_settings, without_runtime
from jobs.run import SHARED, holding, stages
from jobs.trials.compare_result import (
    drop_outdated,
    publish,
    read_rows,
    rows_of,
    whole_rows,
    write_rows,
)
from jobs.trials.sweep import trial_of
from jobs.trials.tune import forget, run_trials
from minirec.config.reading import changed
from minirec.config.run import Config
from minirec.corpus.table import count_samples
from minirec.errors import EngineError
from minirec.store.run import Cost, Run
from minirec.trials.checks import check_trials
from minirec.trials.comparison import FREE_ORDER, contenders

FOLDER = "comparison"
FREE_TO_CHANGE = {"methods", "budget", "seeds", "max_concurrent", "references"}


def compare(config: Config, *, overwrite: bool = False) -> Run:
    """Features once, then every trial; writes comparison.parquet and comparison.html.

    Raises:
        ConfigError: nothing to compare, or a value that is refused.
        ArtifactError: the directory holds a comparison with other settings.
        EngineError: trials failed; the others are finished, and the result is written.
    """
    run = Run(config.run_dir, overwrite=overwrite, say=say)
    planned = contenders(config, folder=run.path(FOLDER))  # refuses before anything starts
    less = any(trial.config.selection.method == "less" for trial in planned)
    # So that gradients come with scoring, and with them those of validation samples.
    made = changed(config, {"selection.method": "less"}) if less else config
    stages(
        made,
        tuple(SHARED),
        overwrite=overwrite,
        check=lambda n: check_trials(planned, n),
        recorded=config,
    )
    samples = count_samples(run.path("corpus"), "train")

    names = {trial.name for trial in planned}

    def body(cost: Cost) -> None:
        results = run_trials(
            run,
            config,
            planned,
            limit=config.compare.max_concurrent,
            folder=FOLDER,
            splits=("valid", "test"),
        )
        rows = rows_of(results, planned, run, config, samples=samples)
        others = [row for row in whole_rows(run, FOLDER) if row["trial"] not in names]
        write_rows(run, rows + others)
        cost.rollouts = sum(row["own_rollouts"] for row in rows + others)
        cost.optimizer_steps = sum(row["steps"] for row in rows + others)
        failed = [row for row in rows if row["status"] == "failed"]
        if failed:
            publish(run, config, planned, rows)
            raise EngineError(
                f"{len(failed)} of {len(rows)} trials failed, for the causes in the table; the "
                f"same command tries them again"
            )
        forget(run, FOLDER)

    with holding(run), pulse("compare"):
        drop_outdated(run, planned)
        run.stage(
            "compare",
            settings=_settings(config),
            # Not gradients, which only some trials read: `less` may join what has finished.
            inputs=["prepare", "proxy", "score"],
            outputs=[FOLDER, "comparison.parquet"],
            body=body,
            part_of=trial_of,
            outgrown=lambda: not names <= {row["trial"] for row in whole_rows(run, FOLDER)},
        )
        publish(run, config, planned, read_rows(run))
    return run


def _settings(config: Config) -> dict[str, Any]:
    """What the trials depend on; not which there are, how many work at a time, or what is shown."""
    return {
        "seed": config.seed,
        "order_of_free": FREE_ORDER,
        "compare": config.compare.model_dump(mode="json", exclude=FREE_TO_CHANGE),
        "selection": config.selection.model_dump(mode="json", exclude={"shards"}),
        "training": without_runtime(config.training.model_dump(mode="json")),
        "reward": config.reward.model_dump(mode="json"),
        "rollout": rollout_settings(config),
        "evaluation": {"bootstrap": config.evaluation.bootstrap},
    }
