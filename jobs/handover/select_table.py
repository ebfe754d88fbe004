"""`minirec select --features`: choose an ordered subset from a table, without corpus or model."""

from __future__ import annotations

from pathlib import Path

from minirec.config.run import Config
from minirec.errors import ArtifactError
from minirec.selection.pipeline import Say
from minirec.selection.subset import check_chance, choose
from minirec.selection.tables import read_features
from minirec.store.tables import write_table

OUTPUTS = ("scores.parquet", "selection.parquet")


def select_table(
    table: Path, config: Config, *, out: Path, chance: float, overwrite: bool, say: Say
) -> None:
    """Write ``scores.parquet`` and ``selection.parquet`` into the folder `out`.

    Args:
        table: see `minirec.selection.tables.read_features`.
        config: only `selection` and `seed` are used.
        out: is created if it does not exist.
        chance: NDCG of a policy that ranks at random, or its reward if the table has no NDCG;
            0 <= chance < 1.
        overwrite: replace an existing selection in `out`.
        say: receives each line for the user.

    Raises:
        ArtifactError: the table cannot be used, or `out` is not a folder for a new selection.
        ConfigError: the settings do not fit the table.
    """
    check_chance(chance, "--chance")
    _check_out(out, table, overwrite)
    features = read_features(table, chance=chance)
    say(f"{len(features):,} samples in {table}; chance level {chance:g}")
    found = choose(features, config.selection, seed=config.seed, chance=chance, say=say)
    (out / OUTPUTS[-1]).unlink(missing_ok=True)  # an old selection does not match new scores
    write_table(out / OUTPUTS[0], found.scores)
    try:
        write_table(out / OUTPUTS[1], found.selection)
    except BaseException:
        (out / OUTPUTS[0]).unlink()  # or the next try would be refused without --overwrite
        raise
    for line in found.lines:
        say(line)
    say(f"wrote {out / 'selection.parquet'} and {out / 'scores.parquet'}")


def _check_out(out: Path, table: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; give a folder as --out")
    if table.is_dir() and out.resolve() == table.resolve():
        raise ArtifactError(
            f"{out} holds the table; results would be read as parts of it; give another --out"
        )
    if (out / "stages").is_dir():
        raise ArtifactError(
            f"{out} is a run directory; give another --out, or select for this run with "
            f"`minirec select run_dir={out}`"
        )
    for name in OUTPUTS:
        if (out / name).exists() and not overwrite:
            raise ArtifactError(f"{out / name} exists; give another --out, or --overwrite")
