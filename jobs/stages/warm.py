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


def _body(work: Work) -> None:
    from minirec.corpus.table import SampleFile
    from minirec.rng import seed_of
    from minirec.trials.checks import check_warm

    run, config = work.run, work.config
    samples = SampleFile(run.path("corpus"), "train")
    check_warm(config, len(samples))
    count = config.warm.count(len(samples))
    order = drawn_ids(samples, count, seed=seed_of(config.seed, "warm"))
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
