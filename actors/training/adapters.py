"""The adapters that a training publishes for its engines, and those it leaves behind."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from actors.engines.engine import Adapter
from minirec.model.recommender import Policy
from minirec.store.files import atomic_dir, fetch, remove

BEHIND = "behind"


class Adapters:
    """The newest adapter and the one before it; all ranks hold one and make the same calls.

    But for `clear` and `save_behind`, which are those of rank 0.

    Attributes:
        newest: of the last optimizer step; None: the base weights.
        behind: the one before it, with which rollouts may be under way.
    """

    def __init__(self, folder: Path, engine: Any, *, sharded: bool, start: str | None) -> None:
        """Args:
        folder: of the training.
        engine: DeepSpeed's, around the policy; `sharded` under ZeRO stage 3.
        start: the adapter to go on with.
        """
        self.folder = folder
        self.newest = Adapter(start) if start else None
        self.behind = self.newest
        self._engine = engine
        self._sharded = sharded
        # A rollout engine keeps what it has loaded from a path; on a GPU, a repeated step differs.
        self._attempt = secrets.token_hex(4)

    def publish(self, version: int) -> None:
        """Write the policy into a new directory; the next call of the pool carries it."""
        path = self._path(version)
        self._save(path)
        if dist.get_rank() == 0:
            # Two are kept: rollouts under way may be drawn with the one before.
            for old in sorted(path.parent.glob(f"v*-{self._attempt}"))[:-2]:
                remove(old)
        self.behind, self.newest = self.newest, Adapter(str(path))

    def save_best(self, step: int) -> None:
        """Keep the policy as it is after `step`, the best so far."""
        self._save(self._best(step))

    def finish(self, best: int | None) -> None:
        """Write the final adapter: the one kept after step `best`, or the policy as it is."""
        final = self.folder / "adapter"
        if best is None:
            self._save(final)
        elif dist.get_rank() == 0:
            _copy(fetch(str(self._best(best))), final)

    def save_behind(self, checkpoint: Path) -> None:
        """Add the one before the newest: a restart draws the next step's rollouts with it."""
        if self.behind:
            shutil.copytree(fetch(self.behind.path), checkpoint / BEHIND)

    def restore(self, step: int, checkpoint: Path) -> None:
        """Publish the loaded policy as after `step` steps, and take back what was behind it."""
        if (checkpoint / BEHIND).exists():
            path = self._path(step - 1)
            if dist.get_rank() == 0:
                _copy(checkpoint / BEHIND, path)
            self.newest = Adapter(str(path))
        self.publish(step)

    def clear(self) -> None:
        """Remove what a former attempt published."""
        remove(self.folder / "adapters")

    def _path(self, version: int) -> Path:
        return self.folder / "adapters" / f"v{version:06d}-{self._attempt}"

    def _best(self, step: int) -> Path:
        return self.folder / "best" / f"step-{step:06d}"

    def _save(self, path: Path) -> None:
        import deepspeed

        policy: Policy = self._engine.module
        lora = [p for p in policy.parameters() if p.requires_grad]
        with deepspeed.zero.GatheredParameters(lora, enabled=self._sharded):
            if dist.get_rank() == 0:
                with atomic_dir(path) as folder:
                    # Not "auto", which asks the hub at each save whether the vocabulary changed.
                    policy.lm.save_pretrained(folder, save_embedding_layers=False)


def _copy(source: str | Path, target: Path) -> None:
    with atomic_dir(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
