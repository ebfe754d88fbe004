"""A synthetic run with live selection, made without engines: every number is written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from helpers.report_run import SAMPLES, make_run
from minirec.config.reading import load
from minirec.corpus import schema
from minirec.selection.live_record import as_selection
from minirec.store.run import Run
from minirec.store.tables import write_table

NAN = float("nan")
STEPS, PROMPTS = 8, 4
SETTINGS = (
    "selection.mode=live",
    f"training.prompts_per_step={PROMPTS}",
    f"training.prompts_per_micro_batch={PROMPTS}",
)
LIFTS = {
    # sample_id: reached, lift, rollout_lift
    140: (True, 0.001, NAN),
    142: (True, 0.99, NAN),
    144: (True, 0.5, NAN),
    146: (True, NAN, NAN),
}
"""Samples that were never trained and are known; the stream did not reach the others."""


def choices(*rows: tuple[int, str, int, float, float]) -> pa.Table:
    """Choices of (step, reason, sample_id, lift, mean lift of the rollouts)."""
    step, reason, ids, lift, rolled = zip(*rows, strict=True)
    reward = [0.1 + 0.8 * x for x in rolled]
    columns = (step, reason, ids, lift, rolled, reward)
    names = schema.CHOICES.names
    return pa.table(dict(zip(names, columns, strict=True)), schema=schema.CHOICES)


def own_choices(*, rollouts: bool = True) -> pa.Table:
    """Step s trains the samples 8 s, 8 s + 2, 8 s + 4 and sample 0, which it knows since step 0."""
    rows = []
    for step in range(STEPS):
        rows.append((step, "in band" if step else "unknown", 0, 0.25 if step else NAN, 0.3))
        reasons = ("in band", "unknown", "nearest")
        for i, (why, lift) in enumerate(zip(reasons, (0.4, NAN, 0.01), strict=True)):
            rows.append((step, why, 8 * step + 2 * i + 2, lift, 0.1 * i))
    return choices(*(row if rollouts else (*row[:4], NAN) for row in rows))


def make_live_run(root: Path, *overrides: str, truth: bool = True, rollouts: bool = True) -> Run:
    """Artifacts of every stage before the report; each step took 2 s and 0.5 s of it to choose."""
    run = make_run(root, truth=truth)
    for stage, output in (("score", "features"), ("proxy", "proxy")):
        run.remove(stage, [output])
    table = own_choices(rollouts=rollouts)
    write_table(run.path("policy", "choices.parquet"), table)
    write_table(run.path("selection.parquet"), as_selection(table))
    write_table(run.path("policy", "lifts.parquet"), _lifts(table))
    write_log(run, rollouts=rollouts)
    config = load(None, [*SETTINGS, *overrides, f"run_dir={root}"])
    run.path("config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return run


def write_log(run: Run, *, rollouts: bool = True) -> None:
    """A log of `STEPS` steps."""
    entry = {"loss": 1.0, "seconds": 2.0, "tokens": 50, "forward_tokens": 1000}
    entry |= {"choice_tokens": 100, "choice_prompts": 5, "choice_seconds": 0.5}
    entry |= {"chosen_in_band": 2, "chosen_unknown": 1, "chosen_nearest": 1, "chosen_value": 0}
    if rollouts:
        entry |= {"reward": 0.4, "rollouts": 4 * PROMPTS}
    rows = (json.dumps({"step": step} | entry) for step in range(STEPS))
    run.path("policy", "log.jsonl").write_text("\n".join(rows))


def _lifts(table: pa.Table) -> pa.Table:
    ids = np.arange(SAMPLES) * 2
    trained = {*table["sample_id"].to_pylist()}
    known = LIFTS | dict.fromkeys(trained, (True, 0.3, 0.2))
    rows = [known.get(i, (False, NAN, NAN)) for i in ids.tolist()]
    columns = dict(zip(schema.LIFTS.names[1:], zip(*rows, strict=True), strict=True))
    return pa.table({"sample_id": ids} | columns, schema=schema.LIFTS)
