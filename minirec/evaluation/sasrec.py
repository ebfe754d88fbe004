"""SASRec, the reference that is trained: self-attention over the history (Kang and McAuley, 2018).

The loss is the full cross-entropy over the catalogue, because SASRec with few sampled negatives is
a weak baseline (Klenitskiy and Vasilev, 2023, arXiv 2309.07602). The rest follows arXiv 1808.09781:
causal self-attention, position vectors, and one table of item vectors for the input and the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from minirec.config.evaluation import SasrecConfig
from minirec.corpus.table import Sample
from minirec.errors import ConfigError
from minirec.evaluation.ranking import MAIN, per_sample
from minirec.evaluation.references import History, Ranks, Scores, ranked

SORTED = 32
"""Number of batches whose samples are sorted by length together."""
SCORES = 1 << 26
"""Most scores of a training step in memory: 256 MiB in float32, and twice that for gradients."""


@dataclass(frozen=True)
class Trained:
    """The model of the best epoch, the optimizer steps, and NDCG@10 on valid after each epoch."""

    model: Sasrec
    steps: int
    valid: list[float]


def train(
    samples: Sequence[Sample],
    valid: Sequence[Sample],
    *,
    items: int,
    settings: SasrecConfig,
    seed: int,
    say: Callable[[str], object] = print,
) -> Trained:
    """Train on the pairs (history, target) of `samples`; keep the best epoch on `valid`.

    The same seed and number of threads give the same model. `say` shows a line for each epoch.

    Raises:
        ConfigError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        longest = max(len(sample.history) for sample in samples)
        model = Sasrec(items, longest=longest, settings=settings)
        optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
        best, steps = model.state_dict(), 0
        figures: list[float] = []
        while len(figures) < settings.epochs and _waited(figures) < settings.patience:
            loss, taken = _epoch(model, optimizer, samples, settings.batch)
            steps += taken
            if not np.isfinite(loss):
                raise ConfigError(
                    f"the loss of sasrec is {loss} in epoch {len(figures) + 1}; lower "
                    f"sasrec.learning_rate={settings.learning_rate:g}"
                )
            figures.append(float(per_sample(ranks(model, valid))[MAIN].mean()))
            say(f"sasrec: epoch {len(figures)}: loss {loss:.3f}, valid {MAIN} {figures[-1]:.4f}")
            if _waited(figures) == 0:
                best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return Trained(model, steps, figures)


def _waited(figures: Sequence[float]) -> int:
    """Number of epochs since the first best one."""
    return len(figures) - 1 - figures.index(max(figures)) if figures else 0


def ranks(model: Sasrec, samples: Sequence[Sample]) -> Ranks:
    """Rank (N,) int64 of each target, as `references.reference_ranks`."""
    return ranked(
        model.scores,
        items=model.items.num_embeddings - 1,
        history=[s.history for s in samples],
        target=[s.target for s in samples],
        excluded=[s.excluded for s in samples],
    )


def _epoch(
    model: Sasrec, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], size: int
) -> tuple[float, int]:
    """One pass over the samples: the mean loss of the steps, and their number."""
    model.train()
    losses = []
    for rows in _batches([len(sample.history) for sample in samples], size):
        optimizer.zero_grad()
        losses.append(backward(model, [samples[row] for row in rows]))
        optimizer.step()
    return float(np.mean(losses)), len(losses)


def backward(model: Sasrec, batch: Sequence[Sample], *, scores: int = SCORES) -> float:
    """Add the gradient of the mean cross-entropy over the catalogue to the weights; the loss.

    At most about `scores` scores are in memory: the scores of a larger batch are computed for some
    samples at a time, which changes only rounding.
    """
    states = model.states(*model.padded([sample.history for sample in batch]))
    targets = torch.tensor([sample.target for sample in batch])
    vectors = model.items.weight[:-1]
    size = max(1, scores // len(vectors))
    if len(batch) <= size:
        loss = cross_entropy(states @ vectors.T, targets)
        loss.backward()
        return loss.item()
    total, apart = 0.0, states.detach().requires_grad_()
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        found = apart[part] @ model.items.weight[:-1].T
        loss = cross_entropy(found, targets[part], reduction="sum") / len(batch)
        loss.backward()
        total += loss.item()
    states.backward(apart.grad)
    return total


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows in random batches; histories of a batch have similar lengths, so little is padding."""
    order, sizes, batches = torch.randperm(len(lengths)), torch.tensor(lengths), []
    for pool in order.split(size * SORTED):
        batches += pool[sizes[pool].argsort(stable=True)].split(size)
    return [batches[i].tolist() for i in torch.randperm(len(batches)).tolist()]


class Sasrec(nn.Module):
    """Scores the catalogue by a history: the dot product of its state with the item vectors.

    The position vector of an item depends on its age, so the latest item always has the same one.
    Items before the `longest` latest ones are ignored.
    """

    def __init__(self, items: int, *, longest: int, settings: SasrecConfig):
        super().__init__()
        width, self.heads = settings.width, settings.heads
        # The last vector pads short histories; alone, it is the history without items.
        self.items = nn.Embedding(items + 1, width)
        self.ages = nn.Embedding(longest, width)
        for table in (self.items, self.ages):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            width,
            settings.heads,
            dim_feedforward=2 * width,
            dropout=settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, settings.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, history: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, V) float32 of the catalogue; arguments as for `states`."""
        return self.states(history, lengths) @ self.items.weight[:-1].T

    def states(self, history: Tensor, lengths: Tensor) -> Tensor:
        """(B, width) float32 for histories (B, L) int64, oldest first, padded on the right with V.

        `lengths` (B,) are at least 1. Padding comes after the history, so causal attention never
        reads it.
        """
        size = history.shape[1]
        ages = (lengths[:, None] - 1 - torch.arange(size)).clamp(min=0)
        vectors = self.items(history) * self.items.embedding_dim**0.5 + self.ages(ages)
        causal = nn.Transformer.generate_square_subsequent_mask(size)
        states = self.layers(self.dropout(vectors), mask=causal, is_causal=True)
        return states[torch.arange(len(lengths)), lengths - 1]

    @torch.no_grad()
    def scores(self, history: History) -> Scores:
        """Scores (B, V) float32 and ties (V,), 0, as a function of `references.REFERENCES`."""
        self.eval()
        scores = self(*self.padded(history))
        return scores.numpy(), np.zeros(scores.shape[1])

    def padded(self, history: History) -> tuple[Tensor, Tensor]:
        padding, longest = self.items.num_embeddings - 1, self.ages.num_embeddings
        kept = [list(h[-longest:]) or [padding] for h in history]
        lengths = torch.tensor([len(h) for h in kept])
        size = int(lengths.max())
        return torch.tensor([h + [padding] * (size - len(h)) for h in kept]), lengths


def save(model: Sasrec, file: BinaryIO) -> None:
    """Write a model as an npz file: its arrays, float32, and its number of heads."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(file, heads=model.heads, **arrays)


def load(file: BinaryIO) -> Sasrec:
    """Read what `save` wrote; the model scores as before."""
    arrays = dict(np.load(file))
    heads = int(arrays.pop("heads"))
    (rows, width), (longest, _) = arrays["items.weight"].shape, arrays["ages.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in arrays if name.startswith("layers.layers"))
    settings = SasrecConfig(width=width, layers=layers, heads=heads)
    model = Sasrec(rows - 1, longest=longest, settings=settings)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return model
