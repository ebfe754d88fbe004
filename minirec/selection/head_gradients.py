"""Gradient and Hessian-vector product of the recommendation head, in closed form.

The head loss is ``f(h) = -log softmax(W u / tau)_y`` with ``u = h / |h|``. Method, section 4, with
P = I - u u^T and c = df/du = (sum_v p_v w_v - w_y) / tau:

    g  = P c / |h|
    du = P g / |h|
    dc = W^T dp / tau,  dp = p * (W du / tau - p . (W du / tau))
    Hg = (P dc - du (u.c) - u (du.c)) / |h| - P c (u.g) / |h|^2

g is orthogonal to u, so P g = g and the last term is 0. The catalogue is read in blocks, so memory
is O(B d + B block). If it fits into one block, its softmax is kept, which saves one of five matrix
products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minirec.rl.cells import Cells

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class HeadFeatures(NamedTuple):
    """Gradient (B, d), its Hessian-vector product (B, d), and |p - onehot(y)| (B,)."""

    gradient: Tensor
    hvp: Tensor
    el2n: Tensor


def head_gradient(
    hidden: Tensor,
    *,
    items: Tensor,
    target: Tensor,
    temperature: float = 0.02,
    mask: Tensor | Cells | None = None,
    prior: Tensor | Cells | None = None,
    block: int = 16384,
) -> Tensor:
    """Gradient of the head loss by `hidden`. Arguments and errors as in `head_features`.

    Returns:
        (B, d) float32, or float64 for float64 input.
    """
    return _Head(hidden, items, target, temperature, mask, prior, block).gradient()


def head_features(
    hidden: Tensor,
    *,
    items: Tensor,
    target: Tensor,
    temperature: float = 0.02,
    mask: Tensor | Cells | None = None,
    prior: Tensor | Cells | None = None,
    block: int = 16384,
) -> HeadFeatures:
    """Gradient, Hessian-vector product and EL2N, with shared work done once (method, section 4).

    EL2N (Paul et al. 2021; method, section 8) is the length of the error of the softmax.

    Args:
        hidden: (B, d) last hidden states, not normalised; half precision becomes float32.
        items: (V, d) unit-norm item vectors, on the same device.
        target: (B,) int64 rows of `items`.
        temperature: tau, above 0.
        mask: (B, V) bool, True for an excluded item. The target is never excluded.
        prior: (B, V) added to the scores, constant in `hidden`. Both may be dense or `Cells`.
        block: items processed at a time; limits the memory.

    Raises:
        ValueError: shapes do not fit, a target is outside 0..V-1, `hidden` holds NaN, infinity or a
            row of length 0, `items` holds NaN or infinity, or `temperature` is not positive.
    """
    head = _Head(hidden, items, target, temperature, mask, prior, block)
    gradient = head.gradient()
    return HeadFeatures(gradient, head.hvp(gradient), head.el2n())


def rollout_gradient(
    hidden: Tensor,
    *,
    advantage: Tensor,
    sample: Tensor,
    samples: int,
    items: Tensor,
    target: Tensor,
    temperature: float = 0.02,
    mask: Tensor | Cells | None = None,
    prior: Tensor | Cells | None = None,
) -> Tensor:
    """Head gradients of a sample's rollouts, weighted by advantages: sum_j A_ij g_ij.

    Method, section 4. It is 0 if all rollouts have the same reward. `hidden` (T, d), `advantage`
    A_ij (T,), `sample` (T,) int64 in 0..samples-1, `target`, `mask` and `prior` have one row per
    rollout; the rest, the dtype and the errors are as in `head_features`. Returns (samples, d).
    """
    each = head_gradient(
        hidden, items=items, target=target, temperature=temperature, mask=mask, prior=prior
    )
    total = each.new_zeros(samples, each.shape[1])
    return total.index_add_(0, sample, advantage[:, None].to(each.dtype) * each)


class _Head:
    """Softmax over the catalogue at u, with the sums that the features share."""

    def __init__(
        self,
        hidden: Tensor,
        items: Tensor,
        target: Tensor,
        temperature: float,
        mask: Tensor | Cells | None,
        prior: Tensor | Cells | None,
        block: int,
    ):
        _check(hidden, items, target, temperature, mask)
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.items, self.target, self.mask, self.prior = items, target, mask, prior
        self.tau, self.block = temperature, block
        hidden = hidden.detach().to(self.dtype)
        self.length = hidden.norm(dim=1, keepdim=True)
        self.u = hidden / self.length
        self.kept: Tensor | None = None  # softmax (B, V), if the catalogue is one block
        self._softmax()
        self.c = (self.mean - items[target].to(self.dtype)) / self.tau

    def gradient(self) -> Tensor:
        return self._project(self.c) / self.length

    def hvp(self, gradient: Tensor) -> Tensor:
        du = gradient / self.length
        moved = torch.zeros_like(du)  # sum_v p_v a_v w_v with a = W du / tau
        mean_a = torch.zeros_like(self.length)  # sum_v p_v a_v
        for items, p in self._probabilities():
            weight = _product(du / self.tau, items).mul_(p)
            moved += _product(weight, items.T)
            mean_a += weight.sum(dim=1, keepdim=True)
        dc = (moved - mean_a * self.mean) / self.tau
        along = (self.u * self.c).sum(dim=1, keepdim=True)
        turn = du * along + self.u * (du * self.c).sum(dim=1, keepdim=True)
        return (self._project(dc) - turn) / self.length

    def el2n(self) -> Tensor:
        return (self.squares + self.others**2).sqrt()[:, 0]

    def _project(self, vectors: Tensor) -> Tensor:
        return vectors - self.u * (self.u * vectors).sum(dim=1, keepdim=True)

    def _softmax(self) -> None:
        """log Z (B, 1) and sum_v p_v w_v (B, d), with a running maximum.

        Also sum_v p_v and sum_v p_v^2 (B, 1) without the target, whose probability may be nearly 1.
        """
        top = torch.full_like(self.length, -torch.inf)
        total, others, squares = (torch.zeros_like(top) for _ in range(3))
        mean = torch.zeros_like(self.u)
        for start, items, scores in self._blocks():
            new = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            # The maximum of a block with only excluded items is -inf.
            safe = new.masked_fill(new.isinf(), 0)
            shrink = (top - safe).exp()
            weight = scores.sub_(safe).exp_()
            total = total * shrink + weight.sum(dim=1, keepdim=True)
            rows, columns = self._own(start, weight.shape[1])
            own = weight[rows, columns].clone()
            weight[rows, columns] = 0
            others = others * shrink + weight.sum(dim=1, keepdim=True)
            squares = squares * shrink**2 + weight.norm(dim=1, keepdim=True) ** 2
            weight[rows, columns] = own
            mean = mean.mul_(shrink).add_(_product(weight, items.T))
            top = new
        if len(self.items) <= self.block:
            self.kept = weight.div_(total)
        self.log_z, self.mean = top + total.log(), mean / total
        self.others, self.squares = others / total, squares / total**2
        bad = ~self.log_z.isfinite()[:, 0]
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"scores of hidden row {row} sum to {float(self.log_z[row]):g}; expected finite "
                f"items"
            )

    def _probabilities(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Items (b, d) and their probabilities (B, b)."""
        if self.kept is not None:
            yield self.items.to(self.dtype), self.kept
            return
        for _, items, scores in self._blocks():
            yield items, scores.sub_(self.log_z).exp_()

    def _own(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the targets in a block of `count` items."""
        column = self.target - start
        rows = ((column >= 0) & (column < count)).nonzero()[:, 0]
        return rows, column[rows]

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First item, items (b, d) and scores (B, b) of each block; -inf for excluded items."""
        for start in range(0, len(self.items), self.block):
            items = self.items[start : start + self.block].to(self.dtype)
            scores = _product(self.u / self.tau, items)
            if self.prior is not None:
                scores += _columns(self.prior, start, self.block)
            if self.mask is not None:
                mask = _columns(self.mask, start, self.block)
                mask[self._own(start, mask.shape[1])] = False
                scores.masked_fill_(mask, -torch.inf)
            yield start, items, scores


def _columns(values: Tensor | Cells, start: int, count: int) -> Tensor:
    """A new tensor of at most `count` columns of (B, V)."""
    if isinstance(values, Cells):
        return values.columns(start, start + count)
    return values[:, start : start + count].clone()


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left (B, k) times the transpose of right (n, k), which may be a view.

    On a CPU that is not from Intel, MKL float32 products have half the speed of oneDNN
    (docs/lab/selection-speed.md). torch.compile uses this operation for linear layers; it has no
    public name.
    """
    if ONEDNN is None or left.device.type != "cpu" or left.dtype != torch.float32:
        return left @ right.T
    return ONEDNN(left, right, None, "none", [], "")


def _check(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    temperature: float,
    mask: Tensor | Cells | None,
) -> None:
    if hidden.ndim != 2 or items.ndim != 2 or hidden.shape[1] != items.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and items {tuple(items.shape)}; "
            f"expected (B, d) and (V, d) with the same d"
        )
    if target.shape != hidden.shape[:1] or target.dtype != torch.int64:
        raise ValueError(
            f"target is {target.dtype} {tuple(target.shape)}; expected int64 ({len(hidden)},)"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature:g}; expected a positive number")
    shape = (len(hidden), len(items))
    kind = mask.dtype if isinstance(mask, Tensor) else torch.bool
    if mask is not None and (mask.shape != shape or kind != torch.bool):
        raise ValueError(f"mask is {kind} {tuple(mask.shape)}; expected bool {shape}")
    outside = (target < 0) | (target >= len(items))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(f"target row {row} is {int(target[row])}; expected 0..{len(items) - 1}")
    length = hidden.detach().to(torch.promote_types(hidden.dtype, torch.float32)).norm(dim=1)
    bad = ~length.isfinite() | (length == 0)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"hidden row {row} has length {float(length[row]):g}; expected finite and above 0"
        )
