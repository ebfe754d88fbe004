"""What a stage is: its inputs, its outputs, its settings and its body.

To add one, declare a `Stage` in a file of its own in jobs/stages/ and add it to `STAGES` in
jobs/run.py. The declarations are imported by each command, also by `minirec --help`. So a file in
jobs/stages/ imports ray, torch, numpy, pyarrow and the like inside functions only.
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
"""What the cost of a stage can be charged to."""


@dataclass(frozen=True)
class Work:
    """What the body of a stage gets: where it writes, with which settings, on which engines.

    settings: those of the fingerprint.
    cost: the body fills in its rollouts, tokens and steps.
    """

    run: Run
    config: Config
    session: Session
    settings: dict[str, Any]
    cost: Cost


def base_model(run: Run, config: Config) -> str:
    """Path or name of the base model; the stage `model` builds the demo model."""
    return str(run.path("model")) if config.model.name == "demo" else config.model.name


def always(config: Config) -> bool:
    """`Stage.needed` of a stage that every run needs."""
    return True


@dataclass(frozen=True)
class Stage:
    """One step of a run, whose output is kept in the run directory.

    name: of the stage, its command and its records.
    help: one line for `minirec --help`.
    inputs: the names of the stages that it reads.
    outputs: the paths below the run directory that the body makes.
    settings: what the output depends on, as a nested dict. It enters the fingerprint: a finished
        stage with other settings is refused. Settings that change only the speed stay out.
    body: makes the outputs.
    needed: whether a run with these settings needs the stage. Its own command runs it in any case.
    comes_with: commands for these stages run this one too, if it is needed.
    on_ray: the command joins the cluster at its start, before other stages work for hours.
    part_of: for a body that makes each missing part; see `Run.stage`.
    shared: all trials of a sweep or comparison use the same output.
    charged: what the cost is charged to, `SELECTION` or `POLICY`; None: to nothing.
    """

    name: str
    help: str
    inputs: Callable[[Config], Sequence[str]]
    outputs: tuple[str, ...]
    settings: Callable[[Run, Config], dict[str, Any]]
    body: Callable[[Work], None]
    needed: Callable[[Config], bool] = always
    comes_with: tuple[str, ...] = ()
    on_ray: bool = False
    part_of: Callable[[str], str] | None = None
    shared: bool = False
    charged: str | None = None

    def run(self, run: Run, config: Config, session: Session) -> bool:
        """Run the body unless the output is complete; returns whether it ran. See `Run.stage`."""
        settings = self.settings(run, config)
        return run.stage(
            self.name,
            settings=settings,
            inputs=self.inputs(config),
            outputs=self.outputs,
            body=lambda cost: self.body(Work(run, config, session, settings, cost)),
            part_of=self.part_of,
            charged=self.charged,
        )

    def compare(self, run: Run, config: Config) -> None:
        """Compare the finished stage with the settings; see `Run.compare`."""
        run.compare(self.name, settings=self.settings(run, config), inputs=self.inputs(config))
