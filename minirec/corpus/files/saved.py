"""Datasets of the `datasets` library: folders that ``save_to_disk`` wrote, and names of the hub.

A folder is read without the library: a Dataset has its Arrow files and ``state.json``, which lists
them. A DatasetDict has a folder for each split and ``dataset_dict.json``, which lists these. Other
files of the folder, such as ``cache-*.arrow``, are not part of the dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minirec.errors import CorpusError

DATASET, SPLITS = "state.json", "dataset_dict.json"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
"""``owner/name`` or ``owner/name:configuration``."""


def splits(folder: Path) -> list[Path]:
    """Folders of the splits of a saved DatasetDict; the folder itself if it is a Dataset.

    Returns an empty list for any other folder.

    Raises:
        CorpusError: a split is missing.
    """
    if "_data_files" in _content(folder / DATASET):
        return [folder]
    names = _content(folder / SPLITS).get("splits")
    if not isinstance(names, list):
        return []
    missing = [name for name in names if "_data_files" not in _content(folder / name / DATASET)]
    if missing:
        raise CorpusError(
            f"{folder} lacks the split {missing[0]!r}, which its {SPLITS} names; copy the whole "
            f"folder that save_to_disk wrote"
        )
    return [folder / name for name in names]


def shards(folder: Path) -> tuple[Path, ...]:
    """The Arrow files of a saved Dataset or of all splits of a DatasetDict, in their order.

    Raises:
        CorpusError: one is missing, or the dataset has none because it has no rows.
    """
    found = splits(folder)
    files = tuple(
        split / part["filename"]
        for split in found
        for part in _content(split / DATASET)["_data_files"]
    )
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise CorpusError(
            f"{missing[0]} is missing, but {DATASET} beside it names it; copy the whole folder "
            f"that save_to_disk wrote"
        )
    if not files:
        raise CorpusError(f"{folder} is a saved dataset without rows; give one with rows")
    return files


def has_rows(folder: Path) -> bool:
    """Whether a saved Dataset has files; one without rows has none."""
    return bool(_content(folder / DATASET)["_data_files"])


def _content(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or holds anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def from_hub(name: str, load: Callable[..., Any] | None = None) -> dict[str, tuple[Path, ...]]:
    """Fetch a dataset of the hub into the cache of the `datasets` library.

    Args:
        name: `HUB_NAME`.
        load: fetches it; the default is ``datasets.load_dataset``.

    Returns:
        The Arrow files by split.

    Raises:
        CorpusError: the library is not installed, or the dataset cannot be fetched.
    """
    fix = (
        "correct corpus.path, or save the dataset with save_to_disk where the hub can be reached, "
        "and set corpus.path to that folder"
    )
    owned, _, configuration = name.partition(":")
    try:
        if load is None:
            import datasets

            load = datasets.load_dataset
        found = load(owned, configuration or None)
    except ImportError:
        raise CorpusError(
            f"corpus.path={name} is no folder, and to fetch it from the hub the package `datasets` "
            f"is needed (`pip install datasets`); {fix}"
        ) from None
    except ConnectionError as error:
        raise CorpusError(
            f"corpus.path={name} is no folder, and the hub cannot be reached ({_short(error)}); "
            f"{fix}"
        ) from None
    except Exception as error:
        # The library raises errors of a dozen kinds for a dataset that it cannot load.
        raise CorpusError(
            f"corpus.path={name} is no folder, and the hub gives no dataset ({_short(error)}); "
            f"{fix}; {owned}:CONFIGURATION names one of several configurations"
        ) from None
    return {
        split: tuple(Path(part["filename"]) for part in dataset.cache_files)
        for split, dataset in found.items()
    }


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
