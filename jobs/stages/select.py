"""`minirec select`: choose and order a subset from the features (method, sections 3 to 6)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from jobs.stage import SELECTION, Stage, Work
from jobs.stages.gradients import gradient_inputs
from minirec.errors import ConfigError

if TYPE_CHECKING:
    from jobs.cluster.session import Session
    from minirec.config.selection import SelectionConfig
    from minirec.selection.pipeline import Diversity, Say


def _diversity(settings: SelectionConfig, session: Session, say: Say) -> Diversity:
    """MaxMin in this process, on its GPU, or sharded over actors; all pick the same samples."""
    from minirec.selection.diversity import maxmin

    if settings.device == "cuda":
        import torch

        from minirec.selection.device import maxmin_on

        if not torch.cuda.is_available():
            raise ConfigError(
                "selection.device=cuda needs a GPU on the machine of the command, but torch sees "
                "none; set selection.device=cpu"
            )
        return partial(maxmin_on, "cuda")
    if settings.shards == 1:
        return maxmin
    from actors.scoring.maxmin import sharded_maxmin

    shards = session.room_for(settings.shards)
    if shards < settings.shards:
        say(f"select: {max(1, shards)} of {settings.shards} shards; the other CPUs are in use")
    return partial(sharded_maxmin, shards=shards) if shards > 1 else maxmin


def _body(work: Work) -> None:
    from minirec.corpus.table import count_samples
    from minirec.selection.from_run import select
    from minirec.trials.checks import check

    run, config = work.run, work.config
    check(config, count_samples(run.path("corpus"), "train"))
    diversity = _diversity(config.selection, work.session, run.say)
    work.cost.extra = select(run, config, diversity=diversity)


def _unscored(work: Work) -> None:
    from minirec.selection.from_run import select_unscored

    work.cost.extra = select_unscored(work.run, work.config)


SELECT = Stage(
    name="select",
    help="choose and order the subset",
    inputs=lambda config: ["prepare", "score", *gradient_inputs(config)],
    outputs=("scores.parquet", "selection.parquet"),
    settings=lambda run, config: {
        "seed": config.seed,
        "selection": config.selection.choosing(),
        "reward": config.reward.settings(),
    },
    body=_body,
    needed=lambda config: config.selection.mode == "static",
    charged=SELECTION,
)
UNSCORED = replace(SELECT, inputs=lambda config: ["prepare"], body=_unscored)
"""For a variant of a comparison that nothing is scored for."""
