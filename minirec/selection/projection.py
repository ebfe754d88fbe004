"""Per-sample gradients of LoRA matrices, projected without forming them (method, section 4).

The gradient of a linear matrix W (out x in) by one sequence is G = sum over tokens t of
outer(delta_t, x_t). Its projection is P_out G P_in^T = sum over t of outer(P_out delta_t, P_in
x_t). Hooks project x in the forward and delta in the backward pass, so one pass gives the vectors
of many sequences (LoGra, arXiv 2405.13954; GraSS, arXiv 2505.18976).

A projection has random orthonormal rows times sqrt(n / k): E<Pg, Pg'> = <g, g'>, and at k = n it is
exact. The gradient of a matrix is nearly of rank one, so this projection has a much larger error
than a dense one of the same size. Therefore OVERSAMPLE times as many numbers are computed and added
with random signs in `dim` buckets, as in GraSS: this is also unbiased, and has the variance of a
dense projection. The seed and the matrix names fix all random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minirec.rng import seed_of

SIDES = ("lora_A", "lora_B")
OVERSAMPLE = 32


@dataclass
class Matrix:
    """A LoRA matrix W (out, in), and its numbers start .. start + k_out * k_in of a gradient.

    left (k_out, out) and right (k_in, in) have the dtype of W; None is the identity.
    """

    name: str
    module: nn.Linear
    left: Tensor | None
    right: Tensor | None
    k_out: int
    k_in: int
    start: int

    @property
    def part(self) -> slice:
        return slice(self.start, self.start + self.k_out * self.k_in)


class Sketch(NamedTuple):
    """Random bucket (n,) int64 and sign (n,), 1 or -1, of each number."""

    bucket: Tensor
    sign: Tensor


class Projector:
    """Projected gradients of all LoRA matrices of a model, sample by sample."""

    def __init__(self, model: nn.Module, *, dim: int, seed: int, oversample: int = OVERSAMPLE):
        """Args:
            model: holds peft LoRA layers; DeepSpeed may have sharded its parameters.
            dim: maximum size of a vector.
            seed: fixes projections and sketch.
            oversample: numbers before the sketch, as a multiple of `dim`, divided among the
                matrices in proportion to their sizes. 1: no sketch.

        Raises:
            ValueError: the model has no LoRA matrix, or `dim` leaves a matrix without a number.
        """
        found = lora_matrices(model)
        if not found:
            raise ValueError("the model has no linear LoRA matrix; load an adapter with peft")
        sizes = [m.out_features * m.in_features for m in found.values()]
        if dim * oversample * min(sizes) < sum(sizes):
            least = math.ceil(sum(sizes) / min(sizes) / oversample)
            raise ValueError(
                f"a dimension of {dim} leaves some of the {len(found)} LoRA matrices without a "
                f"number; raise it to {least} or more"
            )
        numbers = min(dim * oversample, sum(sizes))
        self.matrices: list[Matrix] = []
        self.width = 0  # numbers before the sketch
        for (name, module), size in zip(found.items(), sizes, strict=True):
            out, into = module.out_features, module.in_features
            k_out, k_in = side_lengths(out, into, share=numbers * size // sum(sizes))
            left = projection(k_out, out, seed=seed_of(seed, name, "out"), like=module.weight)
            right = projection(k_in, into, seed=seed_of(seed, name, "in"), like=module.weight)
            self.matrices.append(Matrix(name, module, left, right, k_out, k_in, self.width))
            self.width += k_out * k_in
        self.dim = min(dim, self.width)
        self.sketch = self._sketch(seed) if self.dim < self.width else None

    def _sketch(self, seed: int) -> Sketch:
        bucket, sign = [], []
        for matrix in self.matrices:
            size = (matrix.k_out * matrix.k_in,)
            generator = torch.Generator().manual_seed(seed_of(seed, matrix.name, "sketch"))
            bucket.append(torch.randint(self.dim, size, generator=generator))
            sign.append(torch.randint(2, size, generator=generator) * 2.0 - 1)
        weight = self.matrices[0].module.weight
        signs = torch.cat(sign).to(weight.device, _sum_dtype(weight))
        return Sketch(torch.cat(bucket).to(weight.device), signs)

    def sketched(self, values: Tensor) -> Tensor:
        """(S, dim) sketch of the numbers (S, width)."""
        if self.sketch is None:
            return values
        sums = values.new_zeros(len(values), self.dim)
        return sums.index_add_(1, self.sketch.bucket, values * self.sketch.sign)

    def collect(
        self, owner: Tensor, *, samples: int, forward_backward: Callable[[], None]
    ) -> Tensor:
        """Gradients (samples, dim), at least float32, of one forward and backward pass.

        `owner` (B,) int64 is the sample of each sequence of the batch; gradients of one sample are
        added. `forward_backward` runs the pass. The LoRA weights need not require gradients,
        because their outputs are set to.

        Raises:
            ValueError: the input of a LoRA layer is not (B, tokens, in).
        """
        dtype = _sum_dtype(self.matrices[0].module.weight)
        sums = torch.zeros(samples, self.width, dtype=dtype, device=owner.device)
        handles = [
            matrix.module.register_forward_hook(_Hook(matrix, sums, owner))
            for matrix in self.matrices
        ]
        try:
            forward_backward()
        finally:
            for handle in handles:
                handle.remove()
        return self.sketched(sums)


class _Hook:
    """Forward hook of one matrix. It sets the backward hook on the output."""

    def __init__(self, matrix: Matrix, sums: Tensor, owner: Tensor):
        self.matrix, self.sums, self.owner = matrix, sums, owner

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        if x.dim() != 3 or len(x) != len(self.owner):
            raise ValueError(
                f"{self.matrix.name} reads a batch of shape {tuple(x.shape)}; per-sample gradients "
                f"need ({len(self.owner)} sequences, tokens, features)"
            )
        with torch.autocast(x.device.type, enabled=False):  # projections keep their own dtype
            kept = _times(x, self.matrix.right)
        # The inputs of the first layers need no gradient, so autograd starts to record here.
        if not output.requires_grad:
            output.requires_grad_(True)
        output.register_hook(lambda delta: self._add(delta, kept))

    def _add(self, delta: Tensor, kept: Tensor) -> None:
        dtype = self.sums.dtype
        errors = _times(delta, self.matrix.left).to(dtype)
        product = torch.bmm(errors.transpose(1, 2), kept.to(dtype)).flatten(1)
        self.sums[:, self.matrix.part].index_add_(0, self.owner, product)


def lora_matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The A and B matrices of peft's LoRA layers by module name, in model order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[0].endswith(SIDES)
    }


def side_lengths(out: int, into: int, *, share: int) -> tuple[int, int]:
    """(k_out, k_in) of a matrix (out, in) with k_out * k_in <= share; share >= 1.

    In the worst case, a gradient of rank one, the relative variance of |Pg|^2 is about 2/k_out +
    2/k_in, and the identity adds nothing. So the shorter side (in LoRA the rank r) is not projected
    if 2 r / share < 4 / sqrt(share). Otherwise both sides are projected to sqrt(share).
    """
    short, long = sorted((out, into))
    root = math.isqrt(share)
    k_short = short if short <= min(2 * root, share) else root
    k_long = min(long, share // k_short)
    return (k_short, k_long) if out <= into else (k_long, k_short)


def projection(k: int, n: int, *, seed: int, like: Tensor) -> Tensor | None:
    """(k, n) with orthonormal rows times sqrt(n / k), or None (the identity) at k = n.

    Computed in float64 on the CPU, then converted to the dtype and device of `like`.
    """
    if k == n:
        return None
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64)).Q
    return (basis.T.contiguous() * math.sqrt(n / k)).to(like)


def _times(values: Tensor, matrix: Tensor | None) -> Tensor:
    """values (..., n) times the transpose of a projection (k, n)."""
    return values if matrix is None else values.to(matrix.dtype) @ matrix.T


def _sum_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
