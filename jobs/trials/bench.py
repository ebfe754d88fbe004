"""A bench, `minirec sweep` or `minirec compare`: many trials in Ray Tune that share the features.

A sweep searches for the smallest budget that is good enough. A comparison compares selection
methods at equal cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jobs.console import console, pulse, say
from jobs.fingerprint import rollout_settings, training_settings
from jobs.progress import reporting
from jobs.run import SHARED, holding, stages
from jobs.stages.gradients import gradient_inputs
from jobs.trials import shared
from jobs.trials.result import (
    Result,
    drop_outdated,
    ended,
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
from minirec.trials.trial import FOLDERS, FREE_ORDER, static, trials_of


@dataclass(frozen=True)
class Bench:
    """The differences between the two commands.

    changeable: settings of the section that may change, because finished trials do not use them.
    inputs: the stages that all its trials read.
    splits: ranked at the end of a trial.
    validations: whether the cost of a trial includes its validations.
    judge: fills in the columns that depend on other trials.
    publish: writes the page and prints the result.
    """

    changeable: frozenset[str]
    inputs: Callable[[Config], list[str]]
    splits: tuple[str, ...]
    validations: bool
    judge: Callable[[Result], list[Row]]
    publish: Callable[[Result], None]


def _shared_inputs(config: Config) -> list[str]:
    return ["prepare", *config.earlier_policies, "score"]


BENCHES = {
    "sweep": Bench(
        changeable=frozenset({"max_concurrent", "tolerance"}),
        inputs=lambda config: [*_shared_inputs(config), *gradient_inputs(config)],
        splits=("valid",),
        validations=True,
        judge=with_fronts,
        publish=publish_sweep,
    ),
    "compare": Bench(
        changeable=frozenset(
            {"methods", "variants", "tokens", "budget", "seeds", "max_concurrent", "references"}
        ),
        # Not gradients, which only some trials read: `less` may join what has finished.
        inputs=lambda config: _shared_inputs(config) if config.compare.methods else ["prepare"],
        splits=("valid", "test"),
        validations=False,
        judge=with_reached,
        publish=publish_comparison,
    ),
}


def run_bench(command: str, config: Config, *, overwrite: bool = False) -> Run:
    """Compute the shared features, run every trial, write trials.parquet and a page.

    Args:
        command: ``sweep`` or ``compare``; also the name of the stage and of its settings.
        overwrite: delete trials that were made with other settings.

    Raises:
        ConfigError: the settings vary nothing, or a value is refused.
        ArtifactError: the directory holds trials with other settings.
        EngineError: trials failed; the others have finished, and the result is written.
    """
    bench, folder = BENCHES[command], FOLDERS[command]
    config = static(config)
    _features(command, config, overwrite=overwrite)
    run = Run(config.run_dir, overwrite=overwrite, say=say)
    samples = count_samples(run.path("corpus"), "train")
    planned = trials_of(config, command, samples)
    names = {trial.name for trial in planned}
    inputs = bench.inputs(config)

    def judged(rows: list[Row]) -> Result:
        by_name = {row["trial"]: row for row in rows}
        found = Result(run, config, planned, [by_name[trial.name] for trial in planned])
        return replace(found, rows=bench.judge(found))

    def body(cost: Cost) -> None:
        from jobs.trials.tune import run_trials  # loads ray

        section = getattr(config, command)
        shared.note_settings(run, planned)
        shared.run_shared(run, planned)
        final, left_out = shared.limited(run, planned)
        trained = [trial for trial in final if trial.name not in left_out]
        errors = (
            {}
            if not trained
            else run_trials(
                run,
                config,
                trained,
                folder=folder,
                limit=section.max_concurrent,
                splits=bench.splits,
                asha=getattr(section, "asha", None),
            )
        )
        rows = rows_of(
            run,
            config,
            planned,
            errors,
            left_out=left_out,
            samples=samples,
            validations=bench.validations,
        )
        found = judged(rows)
        others = [row for row in whole_rows(run, folder) if row["trial"] not in names]
        write_rows(run, folder, found.rows + others)
        cost.rollouts = sum(row["own_rollouts"] for row in rows + others)
        cost.optimizer_steps = sum(row["steps"] for row in rows + others)
        if errors:
            bench.publish(found)
            raise EngineError(
                f"{len(errors)} of {len(rows)} trials failed, see the table for the causes; run "
                f"the same command to try them again"
            )

    before = {trial.name: ended(Run(trial.config.run_dir)) for trial in planned}
    with (
        holding(run),
        reporting(run, command, [command], trials=before) as begins,
        pulse(command),
    ):
        begins(command)
        if "gradients" not in inputs:
            drop_outdated(run, planned)
        shared.check_settings(run, planned)
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
            console.print(f"{command}: all trials have finished or were stopped; nothing to do")
        # Judge again, because an earlier command may have judged the rows among other trials.
        bench.publish(judged(read_rows(run, folder)))
    return run


def _features(command: str, config: Config, *, overwrite: bool) -> None:
    """Run the stages that the trials share; first refuse trials that cannot work."""
    if command == "compare" and not config.compare.methods:
        _prepared(command, config, overwrite=overwrite)
        return
    trials = trials_of(config, command, 1)
    less = any(t.config.selection.method == "less" for t in trials if t.variant is None)
    stages(
        # With the method `less`, scoring also computes gradients, also of validation samples.
        changed(config, {"selection.method": "less"}) if less else config,
        tuple(SHARED),
        overwrite=overwrite,
        check=lambda samples, valid: check_trials(
            trials_of(config, command, samples), samples, valid=valid
        ),
        recorded=config,
        start_of=command,
    )


def _prepared(command: str, config: Config, *, overwrite: bool) -> None:
    """Run only what all variants share; each of them says which other stages it needs."""
    stages(
        config,
        shared.OF_THE_RUN,
        overwrite=overwrite,
        check=lambda samples, valid: check_trials(
            trials_of(config, command, samples), samples, valid=valid
        ),
        start_of=command,
    )


def trial_of(path: str) -> str:
    """The path of the folder of the trial or shared stage that holds this file, or of the table."""
    parts = path.split("/")
    return "/".join(parts[: 3 if parts[1:2] == [shared.FOLDER] else 2])


def _settings(command: str, config: Config) -> dict[str, Any]:
    """The settings that the trials depend on."""
    section = getattr(config, command)
    return {
        "seed": config.seed,
        "order_of_free": FREE_ORDER,
        command: section.model_dump(mode="json", exclude=set(BENCHES[command].changeable)),
        "selection": config.selection.model_dump(mode="json", exclude={"shards", "device"}),
        "training": training_settings(config.training),
        "reward": config.reward.model_dump(mode="json"),
        "rollout": rollout_settings(config),
        "evaluation": {"bootstrap": config.evaluation.bootstrap},
    }
