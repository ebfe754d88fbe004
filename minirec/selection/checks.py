"""Checks of arguments. A `ValueError` names the argument, the first bad row and its value."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def finite(name: str, values: ArrayLike, *, rows: int | None = None) -> Floats:
    """Values (N,) as a non-empty float64 array without NaN or infinity.

    Raises:
        ValueError: another shape, fewer or more `rows` than required, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected (N,) with N of 1 or more")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} has {len(array)} rows; expected {rows}")
    _refuse(name, array, ~np.isfinite(array), "expected a finite number")
    return array


def nonnegative(name: str, values: ArrayLike, *, rows: int | None = None) -> Floats:
    """Like `finite`; a negative value is an error too."""
    array = finite(name, values, rows=rows)
    _refuse(name, array, array < 0, "expected 0 or more")
    return array


def matrix(name: str, values: ArrayLike) -> NDArray[np.floating]:
    """Values as an (N, d) float array, N and d at least 1. float32 and float64 are not copied."""
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected (N, d), both 1 or more")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    return array


def norms(name: str, vectors: NDArray[np.floating], *, rows_at_once: int = 8192) -> Floats:
    """Euclidean length (N,) float64 of each row of (N, d). At most `rows_at_once` rows are
    converted to float64 at a time.

    Raises:
        ValueError: a row holds NaN or infinity.
    """
    found = np.empty(len(vectors))
    for start in range(0, len(vectors), rows_at_once):
        part = vectors[start : start + rows_at_once].astype(np.float64)
        found[start : start + rows_at_once] = np.sqrt(np.einsum("nd,nd->n", part, part))
    if (row := first(~np.isfinite(found))) is not None:
        bad = vectors[row][~np.isfinite(vectors[row])]
        value = bad[0] if len(bad) else found[row]
        raise ValueError(f"{name} row {row} holds {value}; expected finite numbers")
    return found


def lengths(name: str, vectors: NDArray[np.floating], *, rows_at_once: int = 8192) -> Floats:
    """Like `norms`; a row of length zero is an error too."""
    found = norms(name, vectors, rows_at_once=rows_at_once)
    if (row := first(found == 0)) is not None:
        raise ValueError(f"{name} row {row} has length 0; expected a vector with a direction")
    return found


def unique(name: str, ids: ArrayLike) -> NDArray[np.int64]:
    """Ids as a non-empty (N,) int64 array without duplicates.

    Raises:
        ValueError: not whole numbers, empty, or duplicated (the message names the second row).
    """
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected (N,) with N of 1 or more")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} has dtype {array.dtype}; expected integers")
    _, first = np.unique(array, return_index=True)
    if len(first) != len(array):
        row = int(np.setdiff1d(np.arange(len(array)), first)[0])
        raise ValueError(f"{name} row {row} repeats id {array[row]}; each id may occur once")
    return array.astype(np.int64)


def first(bad: ArrayLike) -> int | None:
    """Index of the first True, or None."""
    rows = np.flatnonzero(bad)
    return int(rows[0]) if len(rows) else None


def scaled(values: Floats) -> Floats:
    """Min-max scaling as in arXiv 2602.04278: (x - min) / (max - min + 1e-12)."""
    return (values - values.min()) / (values.max() - values.min() + 1e-12)


def _refuse(name: str, array: Floats, bad: NDArray[np.bool_], expected: str) -> None:
    if (row := first(bad)) is not None:
        raise ValueError(f"{name} row {row} is {array[row]:g}; {expected}")
