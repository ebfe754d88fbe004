"""The cost and the quality of a trial: a row of trials.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.training_log import read_log, validating
from jobs.trials.shared import charge, own
from minirec.config.run import Config
from minirec.corpus import schema
from minirec.corpus.table import load_users
from minirec.evaluation.outcomes import Curve, Outcome, Row, outcomes
from minirec.evaluation.paired import Bootstrap, Floats, standing
from minirec.evaluation.ranking import per_sample
from minirec.store.files import differences, read_json, remove
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table
from minirec.trials.trial import WHOLE, Trial

METRIC = "valid_ndcg@10"
TABLE = "trials.parquet"  # in the folder of the trials
STOPPED = "stopped.json"  # in the folder of a trial that ASHA stopped: its last report
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """The result of a bench: `rows` are the rows of the planned trials, in their order."""

    run: Run
    config: Config
    planned: Sequence[Trial]
    rows: list[Row]

    def finished(self) -> list[Trial]:
        """The trials that were not stopped and did not fail."""
        pairs = zip(self.planned, self.rows, strict=True)
        return [trial for trial, row in pairs if row["status"] == "finished"]

    def outcomes(self, split: str) -> list[Outcome]:
        """The settings with at least one finished seed, with their NDCG@10 on a split."""
        ndcg = {t.name: ranked(self.run, t, split)[1] for t in self.finished()}
        return outcomes([row for row in self.rows if row["trial"] in ndcg], ndcg)

    def curves(self) -> dict[str, Curve]:
        """The validations by trial; their own cost is not counted."""
        pairs = zip(self.planned, self.rows, strict=True)
        return {t.name: curve(self.run, t, chosen=row["samples"]) for t, row in pairs}

    def bootstrap(self, split: str) -> Bootstrap:
        """Resamples of the users of a split."""
        users = load_users(self.run.path("corpus"), split)
        return Bootstrap(users, self.config.evaluation.bootstrap, self.config.seed)


def selected(run: Run, trial: Trial) -> Ids:
    """The sample_ids that a trial selected."""
    table = read_table(own(run, trial).path("selection.parquet"), ["sample_id"])
    return table["sample_id"].to_numpy()


def ranked(run: Run, trial: Trial, split: str, *, policy: str = "trained") -> tuple[Ids, Floats]:
    """(N,) sample_ids and (N,) NDCG@10 of a policy on a split."""
    ranks = read_table(own(run, trial).path("ranks.parquet")).to_pandas()
    mine = ranks[(ranks["policy"] == policy) & (ranks["split"] == split)]
    ndcg = per_sample(mine["rank"].to_numpy())["ndcg@10"] if len(mine) else np.empty(0)
    return mine["sample_id"].to_numpy(), ndcg


def ended(run: Run) -> bool:
    """Whether a trial has finished or ASHA has stopped it."""
    return run.path(STOPPED).exists() or run.done("evaluate") is not None


def drop_damaged(run: Run, planned: Sequence[Trial]) -> None:
    """Delete trials that have ended and of which a file is missing or damaged."""
    for trial in planned:
        found = own(run, trial)
        if not ended(found):
            continue
        problems: dict[str, str] = {}
        for stage in ("select", "train", "evaluate"):
            if record := found.done(stage):
                problems |= differences(found.root, record["files"])
        if not found.path("policy", "log.jsonl").exists():
            problems["log"] = f"{found.path('policy', 'log.jsonl')} is missing"
        if problems:
            run.say(f"{trial.name}: {next(iter(problems.values()))}; the trial runs again")
            remove(found.root)


def rows_of(
    run: Run,
    config: Config,
    planned: Sequence[Trial],
    errors: Mapping[str, BaseException],
    *,
    left_out: Mapping[str, str] | None = None,
    samples: int,
    validations: bool,
) -> list[Row]:
    """A row of `schema.TRIALS` for each trial; columns that depend on other trials are None.

    Args:
        errors: of the trials that failed, by name.
        left_out: why trials were not trained, by name.
        samples: number of samples of the train split.
        validations: whether the cost includes the validations.
    """
    bootstrap = Result(run, config, planned, []).bootstrap("valid")
    rows = []
    for trial in planned:
        row = _row(run, trial, trial.config.selection.count(samples), validations)
        if cause := (left_out or {}).get(trial.name):
            row |= {"status": "untrained", "cause": cause}
        elif trial.name in errors:
            row |= {"status": "failed", "cause": failure(errors[trial.name])}
        elif row["status"] == "finished":
            row |= _quality(run, trial, bootstrap)
        rows.append(row)
    return rows


def _row(run: Run, trial: Trial, chosen: int, validations: bool) -> Row:
    """The columns of a trial in any state."""
    selection, trained = trial.config.selection, own(run, trial)
    stopped = trained.path(STOPPED)
    last = read_json(stopped) if stopped.exists() else {}
    log = read_log(trained.path("policy", "log.jsonl"))[: last.get("steps")]
    found = curve(run, trial, chosen=chosen, validations=validations, length=last.get("steps"))
    dead = [entry["dead_groups"] for entry in log if "dead_groups" in entry]
    return dict.fromkeys(schema.TRIALS.names) | {
        "trial": trial.name,
        "setting": trial.setting,
        "method": trial.method,
        "variant": trial.variant,
        "table": trial.table,
        "budget": None if trial.variant or trial.method in WHOLE else selection.budget,
        "samples": chosen,
        **{name: getattr(selection, name) for name in ("alpha", "groups", "learnability")},
        "seed": trial.config.seed,
        "status": "stopped" if last else "finished",
        "steps": len(log),
        **found.cost,
        "dead_groups": float(np.mean(dead)) if dead else None,
        METRIC: last.get(METRIC),
        "best_valid_ndcg@10": max(found.ndcg, default=None),
    }


def _quality(run: Run, trial: Trial, bootstrap: Bootstrap) -> Row:
    """The columns that only a finished trial has."""
    valid, test = (ranked(run, trial, split)[1] for split in ("valid", "test"))
    found = standing(valid[None], bootstrap)
    kept, dropped = gains(run, trial)
    return {
        METRIC: found.mean,
        "low": found.low,
        "high": found.high,
        "test_ndcg@10": float(test.mean()) if len(test) else None,
        **_values(run, trial),
        "gain_kept": kept,
        "gain_dropped": dropped,
    }


def _values(run: Run, trial: Trial) -> Row:
    """The columns ``*_value@10``; empty where items have no weights."""
    if trial.config.reward.item_weight is None:
        return {}
    splits = read_json(own(run, trial).path("evaluation.json"))["policies"]["trained"]
    return {f"{split}_value@10": found["value@10"]["mean"] for split, found in splits.items()}


def gains(run: Run, trial: Trial) -> tuple[float | None, float | None]:
    """Mean gain in NDCG@10 over the base policy, on kept and on dropped samples of train."""
    if trial.config.evaluation.train_samples is None:
        return None, None
    ids, after = ranked(run, trial, "train")
    gain = after - ranked(run, trial, "train", policy="base")[1]
    kept = np.isin(ids, selected(run, trial))
    found = [float(gain[part].mean()) if part.any() else None for part in (kept, ~kept)]
    return found[0], found[1]


def curve(
    run: Run, trial: Trial, *, chosen: int, validations: bool = False, length: int | None = None
) -> Curve:
    """The validations of a training, and the cost before each of them.

    Args:
        trial: may have failed.
        chosen: number of selected samples.
        validations: whether the cost includes the validations. A training outside a bench has none.
        length: number of steps that count; None: all.
    """
    trained, training = own(run, trial), trial.config.training
    log = read_log(trained.path("policy", "log.jsonl"))
    costs = {cost["stage"]: cost["seconds"] for cost in trained.costs()}
    before = max(0.0, costs.get("train", 0.0) - sum(entry["seconds"] for entry in log))
    log, charged = log[:length], charge(run, trial)
    step_rollouts = [e["rollouts"] + validating(e, "rollouts") * validations for e in log]
    step_seconds = [e["seconds"] - validating(e, "seconds") * (not validations) for e in log]
    # Entry i is the cost after i steps.
    rollouts = np.cumsum([0, *step_rollouts]).tolist()
    seconds = (before + costs.get("select", 0.0) + np.cumsum([0.0, *step_seconds])).tolist()
    tokens = np.cumsum([0, *(e["forward_tokens"] for e in log)]).tolist()
    validated = sum(validating(e, "forward_tokens") for e in log)
    ndcg = {0: log[0].get(f"start_{METRIC}")} if log else {}
    ndcg |= {i: entry.get(METRIC) for i, entry in enumerate(log, 1)}
    measured = {i: value for i, value in ndcg.items() if value is not None}
    at = [*measured]
    return Curve(
        ndcg=[*measured.values()],
        steps=at,
        samples=[min(chosen, training.draws(i) * training.labelled_per_step) for i in at],
        rollouts=[charged["rollouts"] + rollouts[i] for i in at],
        seconds=[charged["seconds"] + seconds[i] for i in at],
        tokens=[charged["forward_tokens"] + tokens[i] for i in at],
        cost={
            "own_rollouts": rollouts[-1],
            "own_seconds": seconds[-1],
            "own_forward_tokens": tokens[-1],
            "rollouts": charged["rollouts"] + rollouts[-1],
            "seconds": charged["seconds"] + seconds[-1],
            "forward_tokens": charged["forward_tokens"] + tokens[-1],
            "validation_forward_tokens": charged["validation_forward_tokens"] + validated,
        },
    )


def failure(error: BaseException) -> str:
    """The last line of a trial's error, without the class name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("minirec.errors.").partition("Error: ")[2] or last


def read_rows(run: Run, folder: str) -> list[Row]:
    """The rows of trials.parquet."""
    return read_table(run.path(folder, TABLE)).to_pylist()


def write_rows(run: Run, folder: str, rows: Sequence[Row]) -> None:
    """Write trials.parquet."""
    write_table(run.path(folder, TABLE), pa.Table.from_pylist(list(rows), schema=schema.TRIALS))


def whole_rows(run: Run, folder: str) -> list[Row]:
    """The rows of complete trials in `folder`, also from earlier commands."""
    if not run.path(folder, TABLE).exists():
        return []
    read_by_page = ("policy/log.jsonl", "selection.parquet", "ranks.parquet")
    needed: dict[str, Sequence[str] | None] = {
        "failed": None,
        "untrained": (),
        "stopped": read_by_page[:1],
        "finished": read_by_page,
    }
    return [
        row
        for row in read_rows(run, folder)
        if (files := needed[row["status"]]) is not None
        and all(
            run.path(folder, row["trial"], name).exists()
            for name in files
            if not (row["variant"] and name == "selection.parquet")
        )
    ]


def drop_outdated(run: Run, planned: Sequence[Trial]) -> None:
    """Delete trials whose selection used gradients that have been replaced."""
    for trial in planned:
        before = own(run, trial).done("select")
        used = trial.config.selection.needs_lora_gradients and trial.variant is None
        if not used or before is None:
            continue
        if before["inputs"].get("gradients") != run.fingerprint("gradients"):
            run.say(f"{trial.name}: the gradients of its selection have changed; it runs again")
            remove(own(run, trial).root)
