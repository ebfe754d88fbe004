"""What a stage is: its inputs, its outputs, its settings and its body.

To add a stage, declare a `Stage` in a new file of jobs/stages/ and add it to `STAGES` in
jobs/run.py. Every command imports the declarations, even `minirec --help`. So a file in
jobs/stages/ imports ray, torch, numpy and pyarrow only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minirec.store.run import Cost, Run

if TYPE_CHECKING:
    from jobs.cluster.session import Session
    from minirec.config.run import Config

SELECTION = "selection"
POLICY = "policy"
"""The values of `Stage.charged`."""


@dataclass(frozen=True)
class Work:
    """The argument of a stage's body.

    settings: the settings in the fingerprint.
    cost: the body sets its rollouts, tokens and steps.
    """

    run: Run
    config: Config
    session: Session
    settings: dict[str, Any]
    cost: Cost


def base_model(run: Run, config: Config) -> str:
    """Path or name of the base model; the stage `model` may make it."""
    return str(run.path("model")) if config.model.built else config.model.name


def prior_folder(run: Run, config: Config, policy: str = "base") -> str | None:
    """Folder of the weights of the collaborative prior; None: the policy has no prior.

    Args:
        policy: ``base``, or the folder of a training, which keeps the weights with its adapter.
    """
    if config.model.prior == "none":
        return None
    return str(run.path("prior") if policy == "base" else run.path(policy, "adapter"))


@dataclass(frozen=True)
class Stage:
    """One step of a run. Its output is kept in the run directory.

    name: also the name of its command and its records.
    help: one line for `minirec --help`.
    inputs: names of the stages whose output it reads.
    outputs: paths that the body writes, below the run directory.
    also: further outputs with some settings.
    settings: what the output depends on, as a nested dict. It enters the fingerprint: a finished
        stage with other settings is refused. Leave out settings that change only the speed.
    body: writes the outputs.
    needed: whether a run with these settings needs the stage. Its own command always runs it.
    comes_with: the commands of these stages also run this one, if it is needed.
    on_ray: the command joins the cluster before it runs any stage, so that a missing cluster is
        reported at once.
    part_of: for a body that writes only the missing parts; see `Run.stage`.
    extends: for a body that can add to a finished output; see `Run.stage`.
    shared: all trials of a sweep or comparison use the same output.
    charged: whose cost this is, `SELECTION` or `POLICY`; None: not counted for either.
    trains: it uses training workers (`Session.worker`). A local command with several such stages
        keeps one worker for all of them.
    """

    name: str
    help: str
    inputs: Callable[[Config], Sequence[str]]
    outputs: tuple[str, ...]
    settings: Callable[[Run, Config], dict[str, Any]]
    body: Callable[[Work], None]
    also: Callable[[Config], tuple[str, ...]] = lambda config: ()
    needed: Callable[[Config], bool] = lambda config: True
    comes_with: tuple[str, ...] = ()
    on_ray: bool = False
    part_of: Callable[[str], str] | None = None
    extends: Callable[[dict[str, Any], dict[str, Any]], bool] | None = None
    shared: bool = False
    charged: str | None = None
    trains: bool = False

    def run(self, run: Run, config: Config, session: Session) -> bool:
        """Run the body unless the output is complete; returns whether it ran. See `Run.stage`."""
        settings = self.settings(run, config)
        return run.stage(
            self.name,
            settings=settings,
            inputs=self.inputs(config),
            outputs=(*self.outputs, *self.also(config)),
            body=lambda cost: self.body(Work(run, config, session, settings, cost)),
            part_of=self.part_of,
            extends=self.extends,
            charged=self.charged,
        )

    def compare(self, run: Run, config: Config) -> None:
        """Refuse a finished stage that has other settings; see `Run.compare`."""
        run.compare(
            self.name,
            settings=self.settings(run, config),
            inputs=self.inputs(config),
            extends=self.extends,
        )
