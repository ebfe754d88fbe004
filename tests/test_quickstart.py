"""The commands of README and quick start run, or are listed with the reason why not."""

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
SMALL = (
    "model.demo.warmup_steps=20 model.demo.hidden_size=64 model.demo.heads=2 model.demo.layers=1 "
    "warm.training.steps=5 training.steps=2 sasrec.epochs=2 evaluation.bootstrap=50"
)
RUN = {
    "minirec settings": "",
    "minirec settings --common": "",
    "minirec settings resources": "",
    "minirec plan --config configs/demo.yaml": "",
    "minirec select --features rollouts.parquet --budget 1024 --out chosen": "",
    "minirec init purchases.csv": "",
    "minirec plan --config config.yaml": "",
    "minirec run --config config.yaml": SMALL,
    "minirec watch runs/purchases": "",
    "minirec recommend --run runs/purchases --history 'Title one, Title two' --top 10": "",
    "minirec runs": "",
}
"""In this order, in one folder; with further words where the command as it stands takes minutes."""
NOT_RUN = {
    "make demo": "as `minirec run`, for minutes",
    "make test": "runs these tests",
    "make smollm": "tests/test_smollm.py runs it",
    "make gpu": "needs a GPU",
    "make compare": "takes ten minutes; tests/jobs/trials runs comparisons",
    "minirec sweep --config configs/sweep-demo.yaml": "minutes; tests/jobs/trials runs sweeps",
    "minirec doctor": "tests/jobs/setup runs it",
    "minirec gradients": "no part of a run without LoRA gradients",
    "minirec select run_dir=runs/demo selection.budget=500 --overwrite": "needs the demo's run",
    "minirec watch runs/demo": "needs the demo's run",
    "minirec runs --remove demo": "needs the demo's run",
}


WHOLE = {command.split()[1] for command in [*RUN, *NOT_RUN] if len(command.split()) == 2}


def commands(page: str) -> set[str]:
    """The commands of a page, in its code blocks without comments and in its text."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, re.S | re.M)
    text = re.sub(r"^```.*?^```", "", page, flags=re.S | re.M)
    named = [one for one in re.findall(r"`([^`]+)`", text) if " " in one]
    lines = [*"\n".join(blocks).replace("\\\n", " ").splitlines(), *named]
    found = [line.removeprefix(".venv/bin/") for line in lines]
    words = [
        shlex.split(one, comments=True) for one in found if one.startswith(("minirec", "make"))
    ]
    # A command alone, such as `minirec init`, only names it.
    whole = [command for command in words if len(command) > 2 or command[1] in WHOLE]
    return {shlex.join(command) for command in whole}


def test_every_command_is_run_or_has_a_reason():
    shown = set().union(*(commands(page.read_text()) for page in PAGES))
    assert shown == {*RUN, *NOT_RUN}


@pytest.mark.slow
@pytest.mark.ray
def test_the_commands_run_one_after_the_other(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    title = {1: "Title one", 2: "Title two"}
    rows = [
        f"K{user:03};A{item:03};{event + 1:02}.02.2024;{title.get(item, f'Vase {item}')};4,5"
        for user in range(80)
        for event in range(8)
        for item in [(user * 7 + event * 3) % 40]
    ]
    header = "Kunde;Artikel;Datum;Titel;Bewertung"
    (tmp_path / "purchases.csv").write_text("\n".join([header, *rows]) + "\n")
    rewards = [[(n % 5) / 4, 0.0, 1.0, 0.5] for n in range(2000)]
    table = pa.table({"sample_id": list(range(2000)), "rewards": rewards})
    pq.write_table(table, tmp_path / "rollouts.parquet")

    said = {}
    for command, more in RUN.items():
        words = [sys.executable, "-m", "jobs.cli", *shlex.split(f"{command} {more}")[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        said[command] = done.stdout
    assert re.search(r"Vase \d+ +│ 4\.5", said["minirec init purchases.csv"])
    assert (tmp_path / "runs/purchases/report.html").exists()
    assert len(re.findall(r"Vase \d+", said[next(c for c in RUN if "recommend" in c)])) >= 10
    assert "finished" in said["minirec runs"]
    assert pq.read_metadata(tmp_path / "chosen/selection.parquet").num_rows == 1024
