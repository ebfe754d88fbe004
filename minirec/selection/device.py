"""MaxMin whose products run on a torch device, such as a GPU; the picks are those of `maxmin`.

The greedy choice among the offered rows stays on the CPU. It is small, and needs one result before
it can ask for the next.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from minirec.selection.checks import Floats
from minirec.selection.diversity import ROWS, Ids, MaxMin, Shard, checked, greedy


def maxmin_on(
    device: str, embeddings: ArrayLike, *, scores: ArrayLike, budget: int, block: int = 256
) -> MaxMin:
    """`minirec.selection.diversity.maxmin` with products on this device of torch.

    The device holds the embeddings, and 70 MiB for the products with a block of 256 picks.

    Raises:
        ValueError: as `maxmin`, or torch may round float32 products to TF32, which the bounds of
            `Shard` do not include.
    """
    if torch.get_float32_matmul_precision() != "highest":
        raise ValueError(
            f"the precision of float32 products is {torch.get_float32_matmul_precision()}; MaxMin "
            f"needs torch.set_float32_matmul_precision('highest')"
        )
    vectors, weights = checked(embeddings, scores, budget=budget, block=block)
    shard = DeviceShard(vectors, weights, device=device)
    return greedy(lambda name, *args: [getattr(shard, name)(*args)], budget=budget, block=block)


class DeviceShard(Shard):
    """The whole pool, with its vectors on a device. The bounds are copied after each block."""

    def __init__(self, vectors: NDArray[np.floating], weights: Floats, *, device: str):
        """Args as `Shard`, and a device of torch."""
        super().__init__(vectors, weights)
        self._table = torch.from_numpy(self.vectors).to(device)
        self._inverse = torch.from_numpy(self.inverse).to(device)
        self._nearest = torch.from_numpy(self.nearest).to(device)
        self._picks: list[Tensor] = []

    def fold(self, rows: Ids, vectors: Floats) -> Floats:
        """See `Shard.fold`."""
        picks = torch.from_numpy(vectors).to(self._table.device)
        self._picks.append(picks)
        self.picks.append(vectors)
        chosen = picks.to(self._table.dtype)
        least = chosen.new_ones(len(rows))
        for start in range(0, len(self._table), ROWS):
            part = slice(start, start + ROWS)
            cosine = chosen @ self._table[part].T * self._inverse[part]
            # Row m holds the largest cosine with a pick before pick m; the last row includes all.
            nearest = torch.cat([self._nearest[part][None], cosine]).cummax(0).values
            least = torch.minimum(least, nearest[:-1].amin(1))
            self._nearest[part] = nearest[-1]
        self.nearest = self._nearest.cpu().numpy()
        self.free[rows] = False
        return 1 - least.double().cpu().numpy()

    def _refresh(self, rows: Ids) -> Floats:
        """See `Shard._refresh`."""
        vectors = self._table[self._at(rows)].double()
        vectors /= vectors.norm(dim=1, keepdim=True)
        stamps = self.stamp[rows]
        for number in range(stamps.min(initial=len(self._picks)), len(self._picks)):
            behind = np.flatnonzero(stamps <= number)
            mine = vectors if len(behind) == len(rows) else vectors[self._at(behind)]
            nearest = (mine @ self._picks[number].T).amax(1).cpu().numpy()
            self.exact[rows[behind]] = np.maximum(self.exact[rows[behind]], nearest)
        self.stamp[rows] = len(self._picks)
        return vectors.cpu().numpy()

    def _at(self, rows: Ids) -> Tensor:
        return torch.from_numpy(rows).to(self._table.device)
