"""Rollouts in files, so that a training can be repeated, or debugged, without engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.engines.engine import Adapter, Completion
from actors.pool.actor import Call
from minirec.errors import ConfigError
from minirec.store.files import digest, file_entry
from minirec.store.remote import located
from minirec.store.tables import read_table, write_table

Key = tuple[int, tuple[int, ...]]
"""The seed and the tokens of a prompt."""
FILES = "step-*.parquet"
SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("rollout", pa.int32()),
        ("prompt", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float64())),
        ("text", pa.string()),
        ("stopped", pa.bool_()),
    ]
)
"""One row for each rollout. seed: of the prompt; the rollout's own is the sum of the two columns.
prompt, token_ids: token ids. logprobs: of the engine, one for each token that it wrote."""


def save(
    folder: Path,
    step: int,
    calls: Sequence[Call],
    answers: Sequence[list[list[Completion]]],
    *,
    part: str = "",
) -> None:
    """Write the rollouts of a step whole into ``step-NNNNNN.parquet``; `answers` of `calls`.

    `part` follows the number of the step in the name of the file.
    """
    rows = [
        {"seed": seed, "rollout": number, "prompt": prompt, **vars(one)}
        for call, groups in zip(calls, answers, strict=True)
        for prompt, seed, group in zip(call.prompts, call.seeds, groups, strict=True)
        for number, one in enumerate(group)
    ]
    write_table(
        folder / f"step-{step:06d}{part}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA)
    )


def identity(folder: str) -> str:
    """A digest of the files of a folder with saved rollouts.

    Raises:
        ConfigError: it has none.
    """
    files = {path.name: file_entry(path)["sha256"] for path in _files(folder)}
    if not files:
        raise ConfigError(
            f"rollout.replay {folder} has no {FILES}; name the folder policy/rollouts of a run "
            f"that was trained with rollout.save=true, or set rollout.replay=null"
        )
    return digest(files)


def _files(folder: str) -> list[Path]:
    return sorted(located(folder).glob(FILES))


class Replay:
    """Answers from saved rollouts; stands for `PoolHandle`. Picklable.

    A prompt is found by its tokens and its seed, which depends on the run's seed and the position
    in the training.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[Key, Path] | None = None
        self._read: tuple[Path, dict[Key, list[dict[str, Any]]]] | None = None  # the last file

    def __len__(self) -> int:
        return 1

    def generate(
        self, calls: Sequence[Call], adapter: Adapter | None = None
    ) -> list[list[list[Completion]]]:
        """The saved completions of each call, whatever the adapter.

        Raises:
            ConfigError: they are not saved, or belong to other prompts.
        """
        return [
            [self._group(p, seed, call.n) for p, seed in zip(call.prompts, call.seeds, strict=True)]
            for call in calls
        ]

    def _group(self, prompt: list[int], seed: int, n: int) -> list[Completion]:
        rows = self._rows((seed, tuple(prompt)))
        if len(rows) != n:
            raise ConfigError(
                f"rollout.replay {self._folder} has {len(rows)} of {n} rollouts of a prompt of "
                f"this training (seed {seed}); replay needs the corpus, seed, selection, steps and "
                f"number of rollouts with which they were saved"
            )
        fields = ("text", "token_ids", "logprobs", "stopped")
        return [Completion(**{name: row[name] for name in fields}) for row in rows]

    def _rows(self, key: Key) -> list[dict[str, Any]]:
        """The rows of a prompt in the order of its rollouts; empty if it was not saved."""
        if self._files is None:
            self._files = {
                _key(row): path
                for path in _files(self._folder)
                for row in read_table(path, ["seed", "prompt"]).to_pylist()
            }
        path = self._files.get(key)
        if path is None:
            return []
        if self._read is None or self._read[0] != path:
            rows: dict[Key, list[dict[str, Any]]] = {}
            for row in read_table(path).to_pylist():
                rows.setdefault(_key(row), []).append(row)
            self._read = (path, rows)
        return self._read[1][key]


def _key(row: dict[str, Any]) -> Key:
    return row["seed"], tuple(row["prompt"])
