"""Checks of selections and trials, after the samples are counted."""

from __future__ import annotations

from collections.abc import Sequence

from minirec.config.run import Config
from minirec.config.training import TrainingConfig
from minirec.errors import ConfigError
from minirec.trials.trial import Trial


def check(config: Config, samples: int, *, valid: int | None = None) -> None:
    """Raise if the selection or the warm start cannot work with these numbers of samples.

    Args:
        samples: of the train split.
        valid: of the validation split; None: unknown.

    Raises:
        ConfigError: the budget exceeds the samples, there are more groups than samples, the order
            needs rewards that are missing, or a step of the warm start needs more samples, or the
            rule influence more validation samples.
    """
    if valid is not None:
        check_goal(config, valid)
    if "warm" in config.earlier_policies:
        check_warm(config, samples)
        if config.warm.live:
            check_stages(config, "warm.training", config.warm.training, config.warm.count(samples))
    s = config.selection
    if s.mode == "live":
        check_live(config, samples)
        return
    budget, scored = s.count(samples), config.scoring.count(samples)
    if s.method == "full":
        if scored < samples and s.curriculum != "shuffled":
            raise ConfigError(
                f"selection.curriculum {s.curriculum} orders by reward, but only {scored} of "
                f"{samples} training samples have one (scoring.samples); set "
                f"selection.curriculum=shuffled"
            )
    elif budget > scored:
        fewer = "scored " if scored < samples else ""
        raise ConfigError(
            f"selection.budget {budget} exceeds the {scored} {fewer}training samples; lower the "
            f"budget{' or raise scoring.samples' if fewer else ''}"
        )
    if s.curriculum_groups > budget:
        raise ConfigError(
            f"selection.groups {s.groups} exceeds the budget of {budget} samples; "
            f"lower groups or raise selection.budget"
        )


def check_live(config: Config, samples: int) -> None:
    """Raise `ConfigError` if a step of live selection needs more samples than there are."""
    prompts = config.training.prompts_per_step
    if samples < prompts:
        raise ConfigError(
            f"a step of live selection takes training.prompts_per_step {prompts} different "
            f"samples, but there are {samples:,} training samples; lower it"
        )
    check_stages(config, "training", config.training, samples)


def check_stages(config: Config, name: str, training: TrainingConfig, samples: int) -> None:
    """Raise `ConfigError` if the rule influence has nothing to choose from `samples`.

    Args:
        name: of the settings of this training.
    """
    live = config.live
    stage = live.stage_steps * training.labelled_per_step
    if live.rule == "influence" and samples <= stage:
        raise ConfigError(
            f"live.rule influence chooses {stage:,} samples for live.stage_steps "
            f"{live.stage_steps} steps of {name} with {training.labelled_per_step} samples each, "
            f"but there are only {samples:,} training samples; lower live.stage_steps"
        )


def check_goal(config: Config, valid: int) -> None:
    """Raise `ConfigError` if the rule influence leaves none of `valid` samples to validate."""
    live = config.live
    if live.rule == "influence" and valid <= live.validation_samples:
        raise ConfigError(
            f"live.rule influence compares with live.validation_samples {live.validation_samples}, "
            f"which leaves none of the {valid:,} validation samples to validate with; lower it"
        )


def check_warm(config: Config, samples: int) -> None:
    """Raise `ConfigError` if the warm start has fewer samples than one step needs."""
    try:
        config.check_warm(samples)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_learns(config: Config, name: str, training: TrainingConfig) -> None:
    """Raise `ConfigError` if a training compares rollouts that are all equal."""
    try:
        config.check_learns(name, training)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_trials(
    trials: Sequence[Trial], samples: int, *, valid: int | None = None, exact: bool = True
) -> None:
    """Raise if a trial cannot work, or if two trials are the same.

    `samples` is the size of the train split, `valid` that of the validation split. If they are
    estimates (not `exact`), equal trials are no error, because different budgets may look the same.

    Raises:
        ConfigError: names the trial.
    """
    first: dict[str, str] = {}
    for trial in trials:
        try:
            check(trial.config, samples, valid=valid)
        except ConfigError as error:
            raise ConfigError(f"trial {trial.name}: {error}") from None
        count = trial.config.selection.count(samples)
        selection = trial.config.selection.model_copy(update={"budget": count})
        what = trial.config.model_copy(update={"run_dir": "", "selection": selection})
        twin = first.setdefault(what.model_dump_json(), trial.name)
        if exact and twin != trial.name:
            why = f": both budgets are {count:,} of {samples:,} samples"
            raise ConfigError(
                f"trials {twin} and {trial.name} are the same{'' if trial.variant else why}; "
                f"remove one"
            )
