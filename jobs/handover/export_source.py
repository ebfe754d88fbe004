"""What an export reads from a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.handover.recommend import refreshed_counts
from jobs.stage import base_model, prior_folder
from jobs.stages.proxy import PROXY
from jobs.stages.train import TRAIN
from jobs.stages.warm import WARM
from minirec.config.run import Config
from minirec.corpus.table import Catalogue, Sample, load_catalogue
from minirec.store.files import fetch, read_json
from minirec.store.run import Run

if TYPE_CHECKING:
    from minirec.model.recommender import Encoder, Policy

PolicyName = Literal["warm", "proxy", "trained"]
STAGE = {"warm": WARM, "proxy": PROXY, "trained": TRAIN}


class Source:
    """What an export reads from a run."""

    def __init__(self, run: Run, config: Config, policy: PolicyName):
        from minirec.model.recommender import Encoder

        self.run, self.config, self.name = run, config, policy
        self.catalogue: Catalogue = load_catalogue(run.path("corpus"))
        self.base = fetch(base_model(run, config))
        self.adapter = fetch(str(run.path(*STAGE[policy].outputs, "adapter")))
        self.encoder: Encoder = Encoder.load(
            self.base, config.model, category=self.catalogue.category
        )

    @cached_property
    def policy(self) -> Policy:
        """The policy with its merged adapter, on the CPU; loaded where the export needs it."""
        from minirec.model.recommender import load_policy

        return load_policy(
            self.base, self.config.model, self.encoder.tokenizer, adapter=self.adapter
        )

    def save_merged(self, folder: Path) -> None:
        self.policy.lm.save_pretrained(folder)
        self.encoder.tokenizer.save_pretrained(folder)

    def save_items(self, folder: Path) -> None:
        """items.npy, (V, d) float32 unit vectors, and items.jsonl.

        The vectors are those that a stage of the run has encoded with these weights, if any.
        """
        import numpy as np

        from minirec.export import formats
        from minirec.model.passes import item_table
        from minirec.store.tables import read_array

        c = self.catalogue
        if stored := encoded(self.run, self.config, self.name):
            vectors = read_array(stored)
        else:
            vectors = item_table(self.policy, self.encoder.items(c)).numpy()
        np.save(folder / "items.npy", vectors)
        formats.write(folder / "items.jsonl", formats.items_of(c))

    def save_factors(self, folder: Path) -> None:
        """factors.npy, (V,) float32: the factor of each item in the reward, if items have weights.

        `Scorer` in reward.py reads it.
        """
        import numpy as np

        from minirec.corpus.weights import load_factors

        factors = load_factors(self.run.path("corpus"), self.config.reward.item_weight)
        if factors is not None:
            np.save(folder / "factors.npy", factors.astype(np.float32))

    @property
    def prior(self) -> str | None:
        """Folder of the weights of the prior with this policy; None: no prior."""
        return prior_folder(self.run, self.config, STAGE[self.name].outputs[0])

    @property
    def temperature(self) -> float:
        """Temperature of the softmax, divided by the policy's weight beside the prior."""
        from minirec.prior.prior import weights_in

        return self.config.model.temperature / (weights_in(self.prior)[0] if self.prior else 1)

    def save_prior(self, folder: Path) -> tuple[dict[str, float] | None, bool]:
        """prior.npz and prior.py; returns the weights by part, and whether `refresh` added events.

        Without a prior nothing is written, and the weights are None.
        """
        from minirec.prior import counts, serving

        if self.prior is None:
            return None, False
        refreshed = refreshed_counts(self.run, self.config)
        prior = serving.load(self.run.path("corpus"), self.prior, refreshed=refreshed)
        prior.counts.save(folder / serving.FILE)
        shutil.copy(str(counts.__file__), folder / "prior.py")
        return dict(zip(counts.PARTS, prior.weights, strict=True)), refreshed is not None

    def save_sample_prior(self, folder: Path, samples: Sequence[Sample]) -> None:
        """prior.npz, the scores of the prior for each sample at its own time, if there is a prior.

        Refreshed counts are not used, because they hold the samples' own targets.
        """
        from minirec.export.formats import write_prior
        from minirec.prior.prior import Prior
        from minirec.store.remote import located

        if self.prior is not None:
            prior = Prior.load(self.run.path("corpus"), located(self.prior))
            write_prior(folder / "prior.npz", prior, samples)

    def evaluation(self, policy: PolicyName | None = None) -> dict[str, Any] | None:
        """Metrics of a policy by split; None: not evaluated since its training.

        `policy`: default: that of the export.
        """
        name = policy or self.name
        record = self.run.done("evaluate")
        stage = STAGE[name].name
        if record is None or record["inputs"].get(stage) != self.run.fingerprint(stage):
            return None
        found: dict[str, Any] = read_json(self.run.path("evaluation.json"))["policies"]
        return found.get(name)


def encoded(run: Run, config: Config, policy: PolicyName) -> Path | None:
    """File of the item vectors of these weights: of `evaluate`, or of `score`; None if neither has
    encoded them since the policy was trained."""
    files = {"evaluate": run.path("evaluation", f"{policy}.npy")}
    if config.scoring.policy == policy:
        files["score"] = run.path("features", "item_table.npy")
    trained = STAGE[policy].name
    for stage, file in files.items():
        inputs = (run.done(stage) or {"inputs": {}})["inputs"]
        if inputs.get(trained) == run.fingerprint(trained) and file.exists():
            return file
    return None
