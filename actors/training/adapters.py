"""Writes the LoRA adapters of a training: for the engines, the best one, and the final one."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from actors.engines.engine import Adapter
from actors.training.validation import START
from minirec.model.recommender import Policy
from minirec.prior.prior import save_weights
from minirec.rl.start import TRAINED
from minirec.store.files import atomic_dir, fetch, remove

BEHIND = "behind"


class Adapters:
    """The newest published adapter and the one before it.

    Every rank has an instance and makes the same calls, but only rank 0 calls `clear` and
    `save_behind`.

    Attributes:
        newest: adapter after the last optimizer step; None: the base weights.
        behind: the adapter before it, which engines may still use.
    """

    def __init__(self, folder: Path, engine: Any, *, sharded: bool, start: str | None) -> None:
        """Args:
        folder: folder of the training.
        engine: DeepSpeed engine around the policy.
        sharded: whether the engine shards the weights (ZeRO stage 3).
        start: folder of the adapter that training starts from.
        """
        self.folder = folder
        self.start = start
        self.newest = Adapter(start) if start else None
        self.behind = self.newest
        self._engine = engine
        self._sharded = sharded
        # An engine does not reload a path that it has loaded, and on a GPU the weights of a
        # repeated step differ. So each attempt uses new paths.
        self._attempt = secrets.token_hex(4)

    def publish(self, version: int) -> None:
        """Write the policy into a new directory; the next calls to the pool name it."""
        path = self._path(version)
        self._save(path)
        if dist.get_rank() == 0:
            # Keep two, since engines may still use the previous one.
            for old in sorted(path.parent.glob(f"v*-{self._attempt}"))[:-2]:
                remove(old)
        self.behind, self.newest = self.newest, Adapter(str(path))

    def save_best(self, step: int) -> None:
        """Save the policy after `step`, the best so far."""
        self._save(self._best(step))

    def finish(self, best: int | None, weights: Sequence[float]) -> None:
        """Write the final adapter: the one saved after step `best`; None: the current policy.

        `START` is the adapter that training started from. `weights` of the policy and of the parts
        of the prior are added, if there are any.
        """
        final = self.folder / "adapter"
        if best is None:
            self._save(final, weights)
        elif dist.get_rank() == 0:
            kept = self.start if best == START else str(self._best(best))
            assert kept is not None
            _copy(fetch(kept), final, weights)

    def save_behind(self, checkpoint: Path) -> None:
        """Add `behind` to a checkpoint: a restart needs it for the next step's rollouts."""
        if self.behind:
            shutil.copytree(fetch(self.behind.path), checkpoint / BEHIND)

    def restore(self, step: int, checkpoint: Path) -> None:
        """Publish the loaded policy as version `step`, and restore the adapter before it."""
        if (checkpoint / BEHIND).exists():
            path = self._path(step - 1)
            if dist.get_rank() == 0:
                _copy(checkpoint / BEHIND, path)
            self.newest = Adapter(str(path))
        self.publish(step)

    def clear(self) -> None:
        """Remove what an earlier attempt published."""
        remove(self.folder / "adapters")

    def _path(self, version: int) -> Path:
        return self.folder / "adapters" / f"v{version:06d}-{self._attempt}"

    def _best(self, step: int) -> Path:
        return self.folder / "best" / f"step-{step:06d}"

    def _save(self, path: Path, weights: Sequence[float] = ()) -> None:
        import deepspeed

        policy: Policy = self._engine.module
        lora = [p for p in policy.parameters() if p.requires_grad]
        with deepspeed.zero.GatheredParameters(lora, enabled=self._sharded):
            if dist.get_rank() == 0:
                with atomic_dir(path) as folder:
                    # The default "auto" would ask the hub for the vocabulary at each save.
                    policy.lm.save_pretrained(
                        folder, save_embedding_layers=False, selected_adapters=[TRAINED]
                    )
                    _add(weights, folder)


def _copy(source: str | Path, target: Path, weights: Sequence[float] = ()) -> None:
    with atomic_dir(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        _add(weights, folder)


def _add(weights: Sequence[float], folder: Path) -> None:
    if weights:
        scale, *parts = weights
        save_weights(folder, parts, scale=scale)
