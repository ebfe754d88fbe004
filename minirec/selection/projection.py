"""Per-sample gradients of LoRA matrices, projected without being formed (method, section 4).

The gradient of a linear matrix W (out x in) by one sequence is G = sum over tokens t of
outer(delta_t, x_t). What is kept is P_out G P_in^T = sum over t of outer(P_out delta_t, P_in x_t):
hooks project x in the forward and delta in the backward pass, so one pass over many sequences
gives the vectors of all (LoGra, arXiv 2405.13954; GraSS, arXiv 2505.18976).

A projection has random orthonormal rows times sqrt(n / k): E<Pg, Pg'> = <g, g'>, and at k = n
nothing is lost. It follows from the seed and the name of the matrix alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minirec.rng import seed_of

SIDES = ("lora_A", "lora_B")


@dataclass
class Matrix:
    """A LoRA matrix W (out, in) and its numbers start .. start + k_out * k_in of the vector.

    left (k_out, out) and right (k_in, in) are float64; None is the identity.
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
        """Its numbers in the vector."""
        return slice(self.start, self.start + self.k_out * self.k_in)

    def project(self, gradient: Tensor) -> Tensor:
        """P_out G P_in^T (k_out * k_in,) of a gradient G (out, in), for one that is at hand."""
        return _times(_times(gradient, self.right).T, self.left).T.flatten()


class Projector:
    """Projected gradients of all LoRA matrices of a model, sample by sample."""

    def __init__(self, model: nn.Module, *, dim: int, seed: int):
        """Args:
            model: holds peft LoRA layers; also one whose parameters DeepSpeed has sharded.
            dim: numbers of a vector, at most; shared out in proportion to the matrices' sizes.
            seed: fixes the projections.

        Raises:
            ValueError: the model has no LoRA matrix, or `dim` leaves one without a number.
        """
        found = lora_matrices(model)
        if not found:
            raise ValueError("the model has no linear LoRA matrix; load an adapter with peft")
        total = sum(m.out_features * m.in_features for m in found.values())
        smallest = min(m.out_features * m.in_features for m in found.values())
        if dim * smallest < total:
            raise ValueError(
                f"a dimension of {dim} leaves some of the {len(found)} LoRA matrices without a "
                f"number; raise it to {math.ceil(total / smallest)} or more"
            )
        self.matrices: list[Matrix] = []
        self.dim = 0
        for name, module in found.items():
            out, into = module.out_features, module.in_features
            share = min(dim, total) * out * into // total
            k_out, k_in = side_lengths(out, into, share=share)
            left = projection(k_out, out, seed=seed_of(seed, name, "out"))
            right = projection(k_in, into, seed=seed_of(seed, name, "in"))
            self.matrices.append(Matrix(name, module, left, right, k_out, k_in, self.dim))
            self.dim += k_out * k_in

    @contextmanager
    def collect(self, owner: Tensor, *, samples: int) -> Iterator[Tensor]:
        """Collect the gradients of one forward and backward pass inside the context.

        The LoRA weights need not require gradients: their outputs are made to.

        Args:
            owner: (B,) int64, the sample that each sequence of the batch belongs to.
            samples: S, number of samples.

        Yields:
            (S, dim), at least float32: zero at first; the backward adds each sequence's gradient
            to the row of its sample.

        Raises:
            ValueError: (in the forward) a LoRA layer sees something else than (B, tokens, in).
        """
        weight = self.matrices[0].module.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        vectors = torch.zeros(samples, self.dim, dtype=dtype, device=owner.device)
        handles = [
            matrix.module.register_forward_hook(_Hook(matrix, vectors, owner))
            for matrix in self.matrices
        ]
        try:
            yield vectors
        finally:
            for handle in handles:
                handle.remove()


class _Hook:
    """Forward hook of one matrix; it sets the backward hook on the output."""

    def __init__(self, matrix: Matrix, vectors: Tensor, owner: Tensor):
        self.matrix, self.vectors, self.owner = matrix, vectors, owner

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        if x.dim() != 3 or len(x) != len(self.owner):
            raise ValueError(
                f"{self.matrix.name} sees a batch of shape {tuple(x.shape)}; per-sample gradients "
                f"need ({len(self.owner)} sequences, tokens, features)"
            )
        kept = _times(x, self.matrix.right)
        # The first layers see nothing that needs a gradient; from here on autograd records.
        if not output.requires_grad:
            output.requires_grad_(True)
        output.register_hook(lambda delta: self._add(delta, kept))

    def _add(self, delta: Tensor, kept: Tensor) -> None:
        dtype = self.vectors.dtype
        errors = _times(delta, self.matrix.left).to(dtype)
        product = torch.bmm(errors.transpose(1, 2), kept.to(dtype)).flatten(1)
        self.vectors[:, self.matrix.part].index_add_(0, self.owner, product)


def lora_matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The A and B matrices of peft's LoRA layers by module name, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[0].endswith(SIDES)
    }


def side_lengths(out: int, into: int, *, share: int) -> tuple[int, int]:
    """(k_out, k_in) of a matrix (out, in) with k_out * k_in <= share; share >= 1.

    The worst case is a gradient of rank one, where the relative variance of |Pg|^2 is about
    2/k_out + 2/k_in, and an identity adds nothing. So the shorter side, in LoRA the rank r, stays
    whole if 2 r / share < 4 / sqrt(share), and both are projected to sqrt(share) otherwise.
    """
    short, long = sorted((out, into))
    root = math.isqrt(share)
    k_short = short if short <= min(2 * root, share) else root
    k_long = min(long, share // k_short)
    return (k_short, k_long) if out <= into else (k_long, k_short)


def projection(k: int, n: int, *, seed: int) -> Tensor | None:
    """(k, n) float64 with orthonormal rows times sqrt(n / k), or None, the identity, at k = n."""
    if k == n:
        return None
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64)).Q
    return basis.T.contiguous() * math.sqrt(n / k)


def _times(values: Tensor, matrix: Tensor | None) -> Tensor:
    """values (..., n) times the transpose of a projection (k, n)."""
    if matrix is None:
        return values
    return values @ matrix.T.to(values)
