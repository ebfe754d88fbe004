"""Features from a table: one file, a folder of Parquet parts such as a run's ``features/``, or a
table in memory.

A value that makes no sense is an error that names its file, row and column.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.errors import ArtifactError
from minirec.selection.checks import Floats, first, norms
from minirec.selection.features import Features
from minirec.selection.readers import (
    COLUMNS,
    COUNTS,
    READERS,
    REWARDS,
    SCREEN,
    VECTORS,
    Lists,
    Part,
    in_memory,
)

LARGEST = np.float64(1e30)
"""Larger values are an error. Sums and squares of smaller ones stay finite in float64."""
MOST_COUNTED = 10**9


def read_features(
    source: Path | pa.Table, *, chance: float = 0.0, vectors: Collection[str] = VECTORS
) -> Features:
    """Read the features of a table and sort them by sample_id.

    Columns: `sample_id`; `rewards`, `reward` or `mean_reward`, and `ndcg` (each a list with one
    number per rollout, or one number); `hits`; `rollouts` (how many rollouts one number stands for,
    default 1); `el2n`; `embedding`, `hvp`, `gradient`, `rollout_gradient`, `lora_gradient` (lists
    of equal length, read if named in `vectors`); `screened`, `screen_reward`, `screen_ndcg` (of
    samples without rollouts). Other columns are ignored. Without a reward column, `ndcg` is the
    reward. Without `hits`, a rollout hits if its NDCG (or its reward, without NDCG) is above
    `chance`. An NPZ file may also hold `validation_gradient`.

    Raises:
        ArtifactError: the file, and for a bad value its row, its column and the value.
    """
    wanted = [name for name in COLUMNS if name not in VECTORS or name in vectors]
    if isinstance(source, pa.Table):
        parts = [in_memory(source, wanted)]
    else:
        parts = [READERS[file.suffix.lower()](file, wanted) for file in _files(source)]
    tables = [_columns(part, chance) for part in parts]
    for part, table in zip(parts, tables, strict=True):
        odd = sorted(table.keys() ^ tables[0].keys())
        if odd:
            raise ArtifactError(
                f"{part.file} and {parts[0].file} differ: only one has {odd[0]}; "
                f"give both files the same columns"
            )
        for name in VECTORS:
            if name in table and table[name].shape[1] != tables[0][name].shape[1]:
                raise part.refuse(
                    0, name, f"{table[name].shape[1]} numbers", f"{tables[0][name].shape[1]}"
                )
    ids = np.concatenate([table["sample_id"] for table in tables])
    order = np.argsort(ids, kind="stable")
    _refuse_repeated(parts, ids, order)
    columns = {name: np.concatenate([t[name] for t in tables])[order] for name in tables[0]}
    return Features(**columns, validation_gradient=parts[0].validation_gradient)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        # Files that start with . or _ are checksums, markers or macOS leftovers.
        names = sorted(file for file in path.iterdir() if not file.name.startswith((".", "_")))
        files = [file for file in names if file.suffix.lower() == ".parquet"]
        if not files:
            raise ArtifactError(f"{path} holds no .parquet file; give a table of features")
        return files
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; give a table of features")
    if path.suffix.lower() not in READERS:
        known = ", ".join(READERS)
        raise ArtifactError(f"{path} ends in {path.suffix!r}; expected {known} or a folder")
    return [path]


def _columns(part: Part, chance: float) -> dict[str, NDArray]:
    """The fields of `Features` that a file gives, in the file's row order."""
    columns: dict[str, NDArray] = {"sample_id": _ids(part)}
    _check_values(part)
    reward = next((name for name in (*REWARDS, "ndcg") if name in part.columns), None)
    if reward is None:
        raise ArtifactError(
            f"{part.file} has none of the columns {', '.join(REWARDS)}, ndcg; "
            f"add a column of rewards"
        )
    columns["rollouts"] = rollouts = _rollouts(part, reward)
    columns["screened"] = _screened(part, reward, rollouts)
    columns["mean_reward"] = _mean(part, reward, "screen_reward", rollouts)
    if "ndcg" in part.columns:
        columns["mean_ndcg"] = _mean(part, "ndcg", "screen_ndcg", rollouts)
    columns["hits"] = _hits(part, columns, rollouts, chance)
    if "el2n" in part.numbers:
        columns["el2n"] = part.numbers["el2n"].astype(np.float64)
    columns |= {name: _vectors(part, name) for name in VECTORS if name in part.lists}
    return columns


def _ids(part: Part) -> NDArray[np.int64]:
    if part.lines == []:
        raise ArtifactError(f"{part.file} is empty; give a table with samples")
    if "sample_id" not in part.numbers:
        found = "holds lists" if "sample_id" in part.lists else "is missing"
        raise ArtifactError(f"{part.file} column sample_id {found}; expected a number per row")
    ids = part.numbers["sample_id"]
    if not len(ids):
        raise ArtifactError(f"{part.file} has no rows; give a table with samples")
    # Many tools store whole numbers as floats.
    if ids.dtype.kind == "f":
        digits = np.finfo(ids.dtype).nmant + 1  # from 2^digits on, whole numbers share a float
        bad = ~((ids == np.floor(ids)) & (np.abs(ids) < 2.0**digits))
        expected = f"a whole number, as {ids.dtype} below 2^{digits}"
    else:
        bad = ids > np.iinfo(np.int64).max if ids.dtype == np.uint64 else np.zeros(len(ids), bool)
        expected = "a whole number of 64 bits"
    part.check(bad, "sample_id", ids, expected)
    return ids.astype(np.int64)


def _check_values(part: Part) -> None:
    """Check that columns hold lists or numbers as expected, in the allowed range."""
    for name in part.lists.keys() & {"el2n", *COUNTS, *SCREEN}:
        raise ArtifactError(f"{part.file} column {name} holds lists; expected a number per row")
    for name in part.numbers.keys() & {*VECTORS}:
        raise ArtifactError(f"{part.file} column {name} holds numbers; expected a list per row")
    for name, numbers in part.numbers.items():
        if name == "sample_id":
            continue
        bad, expected = _extreme(numbers), "a finite number"
        if name in SCREEN:
            bad &= ~np.isnan(numbers)  # only samples without rollouts have a value
        if name in COUNTS:
            bad |= (numbers < 0) | (numbers > MOST_COUNTED) | (numbers != np.floor(numbers))
            expected = "a whole number, 0 or more"
        part.check(bad, name, numbers, expected)
    for name, lists in part.lists.items():
        if (at := first(_extreme(lists.flat))) is not None:
            raise part.refuse(int(lists.rows()[at]), name, str(lists.flat[at]), "finite numbers")


def _extreme(values: NDArray) -> NDArray[np.bool_]:
    # abs() overflows for the smallest integer.
    return ~((values <= LARGEST) & (values >= -LARGEST))


def _rollouts(part: Part, reward: str) -> NDArray[np.int64]:
    given = [name for name in (reward, "ndcg") if name in part.lists]
    if given:
        counts = part.lists[given[0]].lengths
        other = part.lists[given[-1]].lengths
        if (row := first(counts != other)) is not None:
            found = f"{other[row]} rollouts and {counts[row]} in {given[0]}"
            raise part.refuse(row, given[-1], found, "the same number in both")
        return counts
    if "rollouts" in part.numbers:
        return part.numbers["rollouts"].astype(np.int64)
    screened = part.numbers.get("screened", np.zeros(len(part.numbers["sample_id"])))
    return (screened == 0).astype(np.int64)


def _screened(part: Part, reward: str, rollouts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for samples without rollouts. A screened sample with rollouts is a control."""
    screened = part.numbers.get("screened", np.zeros(len(rollouts))) != 0
    if (row := first((rollouts == 0) & ~screened)) is not None:
        name = reward if reward in part.lists else "rollouts"
        raise part.refuse(row, name, "none", "1 rollout or more, or screened = true")
    return rollouts == 0


def _mean(part: Part, name: str, screen: str, rollouts: NDArray[np.int64]) -> Floats:
    """Mean over the rollouts, or the screen's value for a sample without rollouts."""
    if name in part.numbers:
        return part.numbers[name].astype(np.float64)
    mean = part.lists[name].mean()
    unseen = rollouts == 0
    if screen in part.numbers:
        mean[unseen] = part.numbers[screen][unseen]
    if (row := first(np.isnan(mean))) is not None:
        raise part.refuse(row, screen, "missing", "a number, because the sample has no rollouts")
    return mean


def _hits(
    part: Part, columns: dict[str, NDArray], rollouts: NDArray[np.int64], chance: float
) -> NDArray[np.int64]:
    if "hits" in part.numbers:
        hits = part.numbers["hits"].astype(np.int64)
    else:
        name = next(name for name in ("ndcg", *REWARDS) if name in part.columns)
        lists = part.lists.get(name)
        gain = columns.get("mean_ndcg", columns["mean_reward"])
        hits = lists.above(chance) if lists else ((gain > chance) & (rollouts > 0)).astype(np.int64)
    if (row := first(hits > rollouts)) is not None:
        expected = f"at most its {rollouts[row]} rollouts (a column rollouts can give the number)"
        raise part.refuse(row, "hits", str(hits[row]), expected)
    return hits


def _vectors(part: Part, name: str) -> NDArray:
    lists: Lists = part.lists[name]
    width = int(lists.lengths[0])
    if (row := first((lists.lengths != width) | (lists.lengths == 0))) is not None:
        expected = f"{width}, as in the first row" if width else "1 or more"
        raise part.refuse(row, name, f"{lists.lengths[row]} numbers", expected)
    vectors = lists.flat.reshape(-1, width)
    if name == "embedding" and (row := first(norms(name, vectors) == 0)) is not None:
        raise part.refuse(row, name, "a vector of length 0", "a vector with a direction")
    return vectors


def _refuse_repeated(parts: list[Part], ids: NDArray, order: NDArray[np.int64]) -> None:
    later = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if not len(later):
        return
    row = int(later.min())
    sample = ids[row]
    for part in parts:
        count = len(part.numbers["sample_id"])
        if row < count:
            expected = (
                "each id once; if a row is one rollout, group the rows by sample_id and make "
                "rewards a list"
            )
            raise part.refuse(row, "sample_id", f"sample {sample} occurs twice", expected)
        row -= count
