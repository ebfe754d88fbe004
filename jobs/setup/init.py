"""`minirec init`: looks at files, shows how it reads them, and writes a config."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml
from rich.table import Table
from rich.text import Text

from jobs.console import console, say
from minirec.config.reading import configured
from minirec.corpus.files.times import moment
from minirec.corpus.guessing.doubts import doubts
from minirec.corpus.guessing.draft import Draft, draft
from minirec.corpus.guessing.looking import shown
from minirec.corpus.guessing.preview import Preview, preview
from minirec.corpus.guessing.writing import written
from minirec.errors import ConfigError
from minirec.store.files import atomic

SHOWN_ROWS = 5


def init(path: str, out: Path, *, overwrite: bool = False) -> None:
    """Write the config for a file, folder or pattern to `out`.

    Raises:
        ConfigError: `out` exists, and `overwrite` is not set.
        CorpusError: the files cannot be read, or hold no interactions.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give the name of a file, e.g. config.yaml")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; give --overwrite to replace it, or another --out")
    found = draft(path)
    text = written(found, run_dir=f"runs/{_name(path)}", name=shlex.quote(path))
    read = preview(configured(yaml.safe_load(text), {}).corpus)
    with atomic(out) as file:
        file.write(text.encode())
    _show(found, read)
    for sentence in doubts(found, read):
        say(f"check: {sentence}")
    again = f"minirec run --config {shlex.quote(str(out))}"
    say(f"{out} is written; correct it where a guess is wrong, then `{again}`")


def _name(path: str) -> str:
    """The name of the run directory: that of the file or folder, without special characters."""
    stem = Path(path).absolute().name.split(".")[0]
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")
    return plain or "mine"


def _show(found: Draft, read: Preview) -> None:
    """Print the files with their columns, and the first events."""
    for spec in read.located.events[:3]:
        roles = ", ".join(f"{role}: {name}" for role, name in spec.columns.items())
        say(f"interactions: {spec.path} ({roles})")
    if len(read.located.events) > 3:
        say(f"interactions: {len(read.located.events) - 3} more files")
    for spec in [] if read.located.inline else read.located.items[:3]:
        roles = ", ".join(f"{role}: {name}" for role, name in spec.columns.items())
        say(f"catalogue: {spec.path} ({roles})")
    table = Table("user", "time", "item", "title", "rating", title="The first events")
    for user, item, time, rating in read.events[:SHOWN_ROWS]:
        when = "" if time is None else moment(time)
        cells = (user, when, item, shown(read.titles.get(item, "")), f"{rating:g}")
        table.add_row(*map(Text, cells))
    console.print(table)
