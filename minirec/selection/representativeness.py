"""Representativeness: how far a sample pulls the way of the whole corpus (method, section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from minirec.selection.checks import Floats, lengths, matrix, scaled


def alignment(vectors: ArrayLike, *, rows_at_once: int = 8192) -> Floats:
    """Cosine of each vector with the mean vector, as (cos + 1) / 2, min-max scaled.

    ``R_i = (cos(d_i, mean_j d_j) + 1) / 2``, then ``(x - min) / (max - min + 1e-12)``:
    arXiv 2602.04278; method, section 4. The mean is that of the vectors as they are, not of their
    directions. Sums are float64 over a fixed block size, so the result does not depend on who
    made the vectors in which batch. If the mean is zero there is no common way: all results are 0.

    Args:
        vectors: (N, d) one direction per sample, for example `gradients.head_features(...).hvp`.
        rows_at_once: rows that are raised to float64 at a time.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: not (N, d), or a row is not finite or has length 0.
    """
    array = matrix("vectors", vectors)
    norms = lengths("vectors", array, rows_at_once=rows_at_once)
    parts = [slice(start, start + rows_at_once) for start in range(0, len(array), rows_at_once)]
    mean = np.sum([array[part].sum(axis=0, dtype=np.float64) for part in parts], axis=0)
    size = np.linalg.norm(mean)
    if size == 0:
        return np.zeros(len(array))
    along = np.concatenate([array[part].astype(np.float64) @ (mean / size) for part in parts])
    return scaled((np.clip(along / norms, -1, 1) + 1) / 2)
