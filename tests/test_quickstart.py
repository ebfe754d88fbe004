"""The commands of the quick start and of the README run, or are listed with the reason why not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md"]
STAGES = "runs every stage for minutes; tests/jobs/test_run.py runs a smaller one"

RUN = {
    "minirec init shop.csv",
    "minirec plan --config configs/demo.yaml",
    "minirec settings",
    "minirec settings resources",
    "minirec select --features rollouts.parquet --budget 1024 --out chosen",
}
NOT_RUN = {
    "make demo": STAGES,
    "make test": "runs these tests",
    "minirec run --config configs/amazon-tiny.yaml corpus.path=FOLDER": "needs the user's files",
    "minirec run --config configs/demo.yaml run_dir=runs/mine corpus.source=table "
    "corpus.ratings=purchases.parquet corpus.category=gadgets corpus.metadata=items.jsonl "
    "'corpus.columns={user: customer, item: sku, time: bought_at}'": "needs the user's files",
    "minirec recommend --run runs/demo --history 'Title one, Title two' --top 10": (
        "needs a finished run and titles of its catalogue"
    ),
}


def commands(text: str) -> set[str]:
    """The commands in the code blocks of a page, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [line.removeprefix(".venv/bin/") for line in lines]
    starts = ("minirec ", "make ", "python ", "pip ")
    words = [shlex.split(line, comments=True) for line in found if line.startswith(starts)]
    return {shlex.join(command) for command in words}


def test_every_command_is_run_or_has_a_reason():
    shown = set().union(*(commands(page.read_text()) for page in PAGES))
    listed = {shlex.join(shlex.split(command)) for command in [*RUN, *NOT_RUN]}
    assert shown == listed


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(RUN))
def test_a_command_of_the_quick_start(command, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    items = [(user, event, (user * 7 + event * 3) % 40) for user in range(60) for event in range(8)]
    rows = [
        f"K{user:03};A{item:03};{event + 1:02}.02.2024;Vase {item};4,5"
        for user, event, item in items
    ]
    header = "Kunde;Artikel;Datum;Titel;Bewertung"
    (tmp_path / "shop.csv").write_text("\n".join([header, *rows]) + "\n")
    rewards = [[(n % 5) / 4, 0.0, 1.0, 0.5] for n in range(2000)]
    pq.write_table(
        pa.table({"sample_id": list(range(2000)), "rewards": rewards}),
        tmp_path / "rollouts.parquet",
    )
    words = [sys.executable, "-m", "jobs.cli", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if "init" in words:
        assert "Kunde" in (tmp_path / "config.yaml").read_text()
    elif "select" in words:
        assert any((tmp_path / "chosen").iterdir())
    else:
        assert done.stdout
