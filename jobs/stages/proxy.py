"""`minirec proxy`: train the proxy policy on a random subset (method, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.fingerprint import feedback_settings, policy_settings, training_settings
from jobs.stage import SELECTION, Stage, Work
from jobs.stages.model import model_inputs
from jobs.stages.train import drawn_ids, start_inputs, train_on
from minirec.store.run import Run

if TYPE_CHECKING:
    from minirec.config.run import Config


def proxy_order(run: Run, config: Config) -> list[int]:
    """The sample_ids of the proxy, in the order of its training."""
    from minirec.corpus.table import SampleFile

    samples = SampleFile(run.path("corpus"), "train")
    count = min(config.proxy.samples, len(samples))
    return drawn_ids(samples, count, seed=config.seed)


def _body(work: Work) -> None:
    order = proxy_order(work.run, work.config)
    train_on(work, order, training=work.config.proxy.training, folder="proxy")


PROXY = Stage(
    name="proxy",
    help="train the proxy policy on a small random subset",
    inputs=lambda config: [*model_inputs(config), *start_inputs(config.proxy.training)],
    outputs=("proxy",),
    settings=lambda run, config: {
        **policy_settings(config),
        **feedback_settings(config),
        "proxy": {
            "samples": config.proxy.samples,
            "training": training_settings(config.proxy.training),
        },
    },
    body=_body,
    needed=lambda config: "proxy" in config.earlier_policies,
    on_ray=True,
    trains=True,
    shared=True,
    charged=SELECTION,
)
