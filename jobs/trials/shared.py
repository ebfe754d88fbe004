"""What the variants of a comparison share: each stage that several of them use is run once.

Each such stage has a folder of its own, ``comparison/shared/STAGE-HASH``. The hash covers its
settings and those of the stages that it reads, so variants that differ elsewhere have the same
folder. Corpus, base model and SASRec are those of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.cluster.session import Session
from jobs.run import SHARED, STAGES
from jobs.stage import SELECTION, Stage
from minirec.config.reading import changed
from minirec.config.run import Config
from minirec.errors import ArtifactError
from minirec.evaluation.pages import compact
from minirec.store.files import digest, read_json, remove, write_json
from minirec.store.remote import located
from minirec.store.run import Run, flatten
from minirec.trials.trial import FOLDERS, Trial
from minirec.trials.variants import EQUAL_TOKENS, SECTIONS

FOLDER = "shared"  # below that of the trials
OF_THE_RUN = ("prepare", "sasrec", "model")
SETTINGS = "settings.json"  # in the folder of the trials: the settings of each variant's trial
UNITS = ("rollouts", "seconds", "forward_tokens", "validation_forward_tokens")


@dataclass(frozen=True)
class Layer:
    """A finished or planned stage in its own folder.

    The run also reads the stages before it, each in its folder.
    """

    stage: Stage
    run: Run


def is_used(stage: Stage, trial: Trial) -> bool:
    """Whether a trial uses the output of a shared stage."""
    c = trial.config
    if stage.charged == SELECTION and trial.free:
        return stage.name == c.training.start
    return stage.needed(c)


def shared_config(trial: Trial) -> Config:
    """The settings of the shared stages of a trial: all seeds have the same."""
    return trial.config.model_copy(update={"seed": trial.features_seed})


def layers(run: Run, trial: Trial) -> list[Layer]:
    """The shared stages of a variant, in order; `run` holds `OF_THE_RUN`."""
    config, found = shared_config(trial), list[Layer]()
    keys = dict.fromkeys(OF_THE_RUN, "")
    here = run
    for stage in STAGES:
        if not stage.shared or stage.name in OF_THE_RUN or not is_used(stage, trial):
            continue
        inputs = {name: keys[name] for name in stage.inputs(config)}
        settings = flatten(stage.settings(here, config))
        keys[stage.name] = digest({"stage": stage.name, "settings": settings, "inputs": inputs})
        root = run.path(FOLDERS["compare"], FOLDER, f"{stage.name}-{keys[stage.name][:8]}")
        # Not what comes later, because scoring deletes old gradients.
        before = {*OF_THE_RUN, *(one.name for one in STAGES[: STAGES.index(stage)])}
        known = {name: outputs for name, outputs in SHARED.items() if name in before}
        here = Run(root, overwrite=run.overwrite, say=run.say, base=here, shared=known)
        found.append(Layer(stage, here))
    return found


def own(run: Run, trial: Trial) -> Run:
    """The run of a trial."""
    below = layers(run, trial) if trial.variant else []
    base = below[-1].run if below else run
    return Run(trial.config.run_dir, base=base, shared=SHARED)


def charge(run: Run, trial: Trial) -> dict[str, Any]:
    """`UNITS` of the shared stages whose output the trial uses."""
    if trial.variant:
        runs = {layer.stage.name: layer.run for layer in layers(run, trial)}
    else:
        runs = {stage.name: run for stage in STAGES if stage.shared and is_used(stage, trial)}
    counted = {stage.name for stage in STAGES if stage.charged == SELECTION}
    costs = [
        cost
        for name, place in runs.items()
        if name in counted
        for cost in place.costs()
        if cost["stage"] == name
    ]
    return {unit: sum(cost[unit] for cost in costs) for unit in UNITS}


def run_shared(run: Run, planned: Sequence[Trial]) -> None:
    """Run the shared stages of all variants that have not finished."""
    session, key, seen = None, "", set[str]()
    try:
        for trial in planned:
            for layer in layers(run, trial) if trial.variant else []:
                name = layer.run.root.name
                if name in seen:
                    continue
                seen.add(name)
                config = shared_config(trial)
                if session is None or engines_of(config) != key:
                    if session is not None:
                        session.close()
                    key = engines_of(config)
                    session = Session(config, keeps_worker=True)
                layer.stage.run(layer.run, config, session)
    finally:
        if session is not None:
            session.close()


def engines_of(config: Config) -> str:
    """A hash of the settings of engines and workers; with the same ones, trials share them."""
    model = config.model.model_dump(mode="json", exclude={"prior"})
    return digest({"model": model, "rollout": config.rollout.model_dump(mode="json")})


def limited(run: Run, planned: Sequence[Trial]) -> tuple[list[Trial], dict[str, str]]:
    """The trials, those at equal cost with what warm start, proxy and scoring have left them; and
    by name why some cannot be trained. The shared stages must have finished.
    """
    found, left_out = [], dict[str, str]()
    for trial in planned:
        if trial.table == EQUAL_TOKENS:
            total = trial.config.training.token_limit or 0
            spent = charge(run, trial)["forward_tokens"]
            if spent >= total:
                left_out[trial.name] = (
                    f"what precedes its training costs {compact(spent)} of {compact(total)} tokens"
                )
            else:
                values = {"training.token_limit": total - spent}
                trial = replace(trial, config=changed(trial.config, values))
        found.append(trial)
    return found, left_out


def check_settings(run: Run, planned: Sequence[Trial]) -> None:
    """Compare the settings of variants with those that their trials were made with.

    Raises:
        ArtifactError: a trial was made with other settings, and `run.overwrite` is off; otherwise
            it is deleted.
    """
    noted, wanted = _noted(run), _settings(planned)
    for trial in planned:
        before, now = noted.get(trial.name), wanted.get(trial.name)
        root = located(trial.config.run_dir)
        if None in (before, now) or before == now or not root.exists():
            continue
        assert before is not None and now is not None
        key = next(k for k in sorted({*now, *before}) if before.get(k) != now.get(k))
        if not run.overwrite:
            raise ArtifactError(
                f"the variant {trial.variant} was trained with {key}={before.get(key)}, now it is "
                f"{now.get(key)}; give the variant another name, or add --overwrite"
            )
        remove(root)


def note_settings(run: Run, planned: Sequence[Trial]) -> None:
    """Note the settings of the variants, for `check_settings`."""
    if wanted := _settings(planned):
        write_json(run.path(FOLDERS["compare"], SETTINGS), _noted(run) | wanted)


def _noted(run: Run) -> dict[str, dict[str, Any]]:
    path = run.path(FOLDERS["compare"], SETTINGS)
    return read_json(path) if path.exists() else {}


def _settings(planned: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """What a variant may set and the cost of its training, by trial."""
    sections = {*SECTIONS, "model"}
    return {
        trial.name: flatten(trial.config.model_dump(mode="json", include=sections))
        for trial in planned
        if trial.variant
    }
