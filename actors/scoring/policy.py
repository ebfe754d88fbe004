"""The policy that scores, with the vectors of all items."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from actors.scoring.spec import ScoringSpec
from minirec.corpus.table import load_catalogue
from minirec.model.hub import downloaded
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, load_policy
from minirec.prior.prior import Prior
from minirec.rl.ranker import Ranker
from minirec.store.files import fetch
from minirec.store.remote import located
from minirec.store.tables import map_array, write_array


class LoadedPolicy:
    """A policy with its item table (V, d) float32; the specs of one policy share it."""

    def __init__(self, spec: ScoringSpec):
        self.catalogue = load_catalogue(located(spec.corpus))
        path = fetch(downloaded(spec.model_path))
        self.encoder = Encoder.load(path, spec.model, category=self.catalogue.category)
        self.policy = load_policy(
            path,
            spec.model,
            self.encoder.tokenizer,
            adapter=spec.adapter and fetch(spec.adapter),
            merge=spec.merges,
            device=spec.device,
        )
        table = self._table(located(spec.item_table)).to(spec.device)
        prior = Prior.load(located(spec.corpus), located(spec.prior)) if spec.prior else None
        scale = prior.scale if prior else 1
        self.ranker = Ranker(table, spec.model.temperature / scale, prior)

    @cached_property
    def item_tokens(self) -> int:
        """Tokens of all items."""
        return self.encoder.items(self.catalogue).tokens

    def _table(self, file: Path) -> Tensor:
        """The item table, encoded if there is no file yet."""
        if not file.exists():
            items = self.encoder.items(self.catalogue)
            write_array(file, item_table(self.policy, items).cpu().numpy())
        # A map of the file, so that the scorers of a machine share its memory.
        return torch.from_numpy(map_array(file))


def encode_items(spec: ScoringSpec) -> None:
    """Write the item table of the policy of a spec, so that scorers only read it."""
    torch.set_num_threads(spec.threads)
    LoadedPolicy(spec)
