"""A bench: features once, then many trials that share them (Ray Tune).

`minirec sweep` searches for the smallest budget that is good enough. `minirec compare` compares
selection methods at equal cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.console import console, pulse, say
from jobs.fingerprint import rollout_settings, without_runtime
from jobs.run import SHARED, holding, stages
from jobs.stages.gradients import gradient_inputs
from jobs.trials.result import (
    Result,
    drop_outdated,
    read_rows,
    rows_of,
    whole_rows,
    write_rows,
)
from jobs.trials.views import publish_comparison, publish_sweep, with_fronts, with_reached
from minirec.config.reading import changed
from minirec.config.run import Config
from minirec.corpus.table import count_samples
from minirec.errors import EngineError
from minirec.evaluation.outcomes import Row
from minirec.store.run import Cost, Run
from minirec.trials.checks import check_trials
from minirec.trials.trial import FOLDERS, FREE_ORDER, trials_of


@dataclass(frozen=True)
class Bench:
    """In what the two commands differ.

    changeable: settings of the section that finished trials do not depend on.
    inputs: stages that all its trials read.
    splits: ranked at the end of a trial.
    validations: whether they are part of a trial's cost.
    judge: fills in the columns of the rows that depend on other trials.
    publish: writes the page and shows the result.
    """

    changeable: frozenset[str]
    inputs: Callable[[Config], list[str]]
    splits: tuple[str, ...]
    validations: bool
    judge: Callable[[Result], list[Row]]
    publish: Callable[[Result], None]


BENCHES = {
    "sweep": Bench(
        changeable=frozenset({"max_concurrent", "tolerance"}),
        inputs=lambda config: ["prepare", "proxy", "score", *gradient_inputs(config)],
        splits=("valid",),
        validations=True,
        judge=with_fronts,
        publish=publish_sweep,
    ),
    "compare": Bench(
        changeable=frozenset({"methods", "budget", "seeds", "max_concurrent", "references"}),
        # Not gradients, which only some trials read: `less` may join what has finished.
        inputs=lambda config: ["prepare", "proxy", "score"],
        splits=("valid", "test"),
        validations=False,
        judge=with_reached,
        publish=publish_comparison,
    ),
}


def run_bench(command: str, config: Config, *, overwrite: bool = False) -> Run:
    """Features once, then every trial; writes trials.parquet and a page.

    Args:
        command: ``sweep`` or ``compare``; also the name of the stage and of its settings.
        config: of the bench.
        overwrite: delete trials that were made with other settings.

    Raises:
        ConfigError: there is nothing to vary, or a value is refused.
        ArtifactError: the directory holds trials with other settings.
        EngineError: trials failed; the others are finished, and the result is written.
    """
    bench, folder = BENCHES[command], FOLDERS[command]
    _features(command, config, overwrite=overwrite)
    run = Run(config.run_dir, overwrite=overwrite, say=say)
    samples = count_samples(run.path("corpus"), "train")
    planned = trials_of(config, command, samples)
    names = {trial.name for trial in planned}
    inputs = bench.inputs(config)

    def judged(rows: Sequence[Row]) -> Result:
        by_name = {row["trial"]: row for row in rows}
        found = Result(run, config, planned, [by_name[trial.name] for trial in planned])
        return replace(found, rows=bench.judge(found))

    def body(cost: Cost) -> None:
        from jobs.trials.tune import run_trials  # loads ray

        section = getattr(config, command)
        errors = run_trials(
            run,
            config,
            planned,
            folder=folder,
            limit=section.max_concurrent,
            splits=bench.splits,
            asha=getattr(section, "asha", None),
        )
        rows = rows_of(run, config, planned, errors, samples=samples, validations=bench.validations)
        found = judged(rows)
        others = [row for row in whole_rows(run, folder) if row["trial"] not in names]
        write_rows(run, folder, found.rows + others)
        cost.rollouts = sum(row["own_rollouts"] for row in rows + others)
        cost.optimizer_steps = sum(row["steps"] for row in rows + others)
        if errors:
            bench.publish(found)
            raise EngineError(
                f"{len(errors)} of {len(rows)} trials failed, for the causes in the table; the "
                f"same command tries them again"
            )

    with holding(run), pulse(command):
        if "gradients" not in inputs:
            drop_outdated(run, planned)
        ran = run.stage(
            command,
            settings=_settings(command, config),
            inputs=inputs,
            outputs=[folder],
            body=body,
            part_of=trial_of,
            outgrown=lambda: not names <= {row["trial"] for row in whole_rows(run, folder)},
        )
        if not ran:
            console.print(
                f"{command}: every trial has finished or was stopped before; nothing to do"
            )
        # Judged again, because the rows may be of commands with other trials.
        bench.publish(judged(read_rows(run, folder)))
    return run


def _features(command: str, config: Config, *, overwrite: bool) -> None:
    """What the trials share. Refuses trials that cannot work before anything starts."""
    less = any(t.config.selection.method == "less" for t in trials_of(config, command, 1))
    stages(
        # So that gradients come with scoring, and with them those of validation samples.
        changed(config, {"selection.method": "less"}) if less else config,
        tuple(SHARED),
        overwrite=overwrite,
        check=lambda samples: check_trials(trials_of(config, command, samples), samples),
        recorded=config,
    )


def trial_of(path: str) -> str:
    """The folder of the trial that a file belongs to, or the table; below the run."""
    return "/".join(path.split("/")[:2])


def _settings(command: str, config: Config) -> dict[str, Any]:
    """What the trials depend on; not how many run at a time, nor what is shown of them."""
    section = getattr(config, command)
    return {
        "seed": config.seed,
        "order_of_free": FREE_ORDER,
        command: section.model_dump(mode="json", exclude=set(BENCHES[command].changeable)),
        "selection": config.selection.model_dump(mode="json", exclude={"shards"}),
        "training": without_runtime(config.training.model_dump(mode="json")),
        "reward": config.reward.model_dump(mode="json"),
        "rollout": rollout_settings(config),
        "evaluation": {"bootstrap": config.evaluation.bootstrap},
    }
