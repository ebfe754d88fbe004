"""The YAML before a README, which the Hugging Face hub and `datasets.load_dataset` read."""

from __future__ import annotations

from typing import Any

import yaml

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGER = "1M<n<10M"
"""Sizes of data sets, by the names of the hub: below a number of rows."""


def front_matter(head: dict[str, Any]) -> str:
    """The block with its fences."""
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def of_subset(*, rows: int, file: str, items: str | None, tags: tuple[str, ...] = ()) -> str:
    """The block of a folder with `rows` rows in `file`.

    `load_dataset(FOLDER)` then reads this file alone, and `load_dataset(FOLDER, "items")` the file
    `items`. Both have the same format, because a data set has only one. The license is unknown: it
    is that of the corpus.
    """
    configs: list[dict[str, Any]] = [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": file}],
            "default": True,
        }
    ]
    if items:
        configs.append({"config_name": "items", "data_files": [{"split": "train", "path": items}]})
    return front_matter(
        {
            "license": "unknown",
            "task_categories": ["text-ranking"],
            "tags": ["recommendation", "grpo", "minirec", *tags],
            "size_categories": [next((name for most, name in SIZES if rows < most), LARGER)],
            "configs": configs,
        }
    )
