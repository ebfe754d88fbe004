"""`minirec warm`: train a policy on forced answers before everything that rolls out (method,
section 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.fingerprint import live_settings, model_settings, training_settings, weight_settings
from jobs.stage import SELECTION, Stage, Work
from jobs.stages.model import model_inputs
from jobs.stages.train import drawn_ids, train_on
from minirec.store.run import Run

if TYPE_CHECKING:
    from minirec.config.run import Config


def _settings(run: Run, config: Config) -> dict[str, Any]:
    """No engine has a part in it, and of the reward only the weights of items."""
    warm: dict[str, Any] = {
        "samples": config.warm.samples,
        "training": training_settings(config.warm.training),
    }
    if config.warm.live:
        warm["live"] = live_settings(config)
    return {
        "seed": config.seed,
        "model": model_settings(config),
        "warm": warm,
        **weight_settings(config),
    }


def warm_order(run: Run, config: Config) -> list[int]:
    """The sample_ids of the warm start in the order of its training; live, it chooses from them."""
    from minirec.corpus.table import SampleFile
    from minirec.rng import seed_of

    samples = SampleFile(run.path("corpus"), "train")
    count = config.warm.count(len(samples))
    return drawn_ids(samples, count, seed=seed_of(config.seed, "warm"))


def _body(work: Work) -> None:
    from minirec.corpus.table import count_samples
    from minirec.trials.checks import check_goal, check_stages, check_warm

    run, config = work.run, work.config
    check_warm(config, count_samples(run.path("corpus"), "train"))
    order = warm_order(run, config)
    if config.warm.live:
        check_stages(config, "warm.training", config.warm.training, len(order))
        check_goal(config, count_samples(run.path("corpus"), "valid"))
    train_on(work, order, training=config.warm.training, folder="warm", live=config.warm.live)


WARM = Stage(
    name="warm",
    help="train on forced answers, without rollouts; what starts from it needs it first",
    inputs=model_inputs,
    outputs=("warm",),
    settings=_settings,
    body=_body,
    needed=lambda config: "warm" in config.earlier_policies,
    on_ray=True,
    trains=True,
    shared=True,
    charged=SELECTION,  # unless the policy starts from it too; see `report` and `compare`
)
