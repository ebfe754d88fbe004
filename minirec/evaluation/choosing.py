"""What choosing the training samples cost, and what it saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minirec.config.run import Config
from minirec.store.files import read_json
from minirec.store.run import Run
from minirec.store.tables import read_table


def charged(run: Run, *, live: bool) -> list[dict[str, Any]]:
    """Cost of each stage; ``charged`` says whether it is a cost of choosing the samples.

    The warm start is not, if the policy starts from it: it would be needed without selection.
    """
    inputs = (run.done("train") or {"inputs": {}})["inputs"]
    roots = {"score"} & {*inputs} if live else {"select"}
    used = roots.union(*map(run.made_from, roots)) - ({"warm"} & {*inputs})
    return [
        row | {"charged": row["charged"] == "selection" and row["stage"] in used}
        for row in run.costs()
    ]


@dataclass(frozen=True)
class Spent:
    """Seconds, rollouts and forward-equivalent tokens; None: tokens were not counted."""

    seconds: float
    rollouts: int
    tokens: int | None


@dataclass(frozen=True)
class Choosing:
    """What choosing cost, beside the training that it avoided.

    stages: whose cost is included; live selection adds the `measured` prompts of the training.
    cost, whole: of choosing, and of the whole run.
    training: of the training without choosing and validations.
    samples, distinct, prompts: of the corpus, of what was chosen, and prompts in all steps.
    """

    live: bool
    stages: tuple[str, ...]
    measured: int
    cost: Spent
    whole: Spent
    training: Spent
    samples: int
    distinct: int
    prompts: int
    rollouts_per_prompt: int

    @property
    def share(self) -> float:
        """Share of choosing in the seconds of the run."""
        return self.cost.seconds / self.whole.seconds if self.whole.seconds else 0.0

    @property
    def avoided(self) -> Spent:
        """What the prompts would have cost that one epoch of all samples has in addition.

        An estimate: each costs what a prompt of this training cost on average.
        """
        left = max(0, self.samples - self.prompts)
        price = left / self.prompts if self.prompts else 0.0
        tokens = self.training.tokens
        return Spent(
            price * self.training.seconds,
            left * self.rollouts_per_prompt,
            None if tokens is None else round(price * tokens),
        )

    def sentences(self) -> list[str]:
        """What choosing cost, what was trained instead of all, and which of the two is more."""
        return [self._cost(), *([self._trained(), self._verdict()] if self.prompts else [])]

    def _cost(self) -> str:
        ways = [f"the stages {', '.join(self.stages)}"] if self.stages else []
        if self.live:
            ways.append(f"ranking the targets of {self.measured:,} prompts during the training")
        rollouts = f"{self.cost.rollouts:,} rollouts" if self.cost.rollouts else "no rollouts"
        figures = [f"{self.cost.seconds:,.1f} s ({self.share:.0%} of the run)", rollouts]
        if self.cost.tokens is not None:
            share = ""
            if self.whole.tokens:
                share = f" ({self.cost.tokens / self.whole.tokens:.0%} of the run)"
            figures.append(f"{self.cost.tokens:,} forward-equivalent tokens{share}")
        return f"Choosing the samples took {_listed(figures)}: {' and '.join(ways) or 'no stage'}."

    def _trained(self) -> str:
        text = f"The training had {self.prompts:,} prompts of {self.distinct:,} samples"
        if per := self.rollouts_per_prompt:
            text += f" and {self.prompts * per:,} rollouts"
        whole = f"an epoch of all {self.samples:,} samples has {self.samples:,} prompts"
        if per:
            whole += f" and {self.samples * per:,} rollouts"
        return f"{text}; {whole}."

    def _verdict(self) -> str:
        avoided, cost = self.avoided, self.cost
        if self.prompts >= self.samples:
            return "So choosing avoided no training: its cost comes on top."
        pairs = [(f"{cost.seconds:,.1f} s", f"{avoided.seconds:,.1f} s")]
        more = cost.seconds > avoided.seconds
        if self.rollouts_per_prompt:
            pairs.append((f"{cost.rollouts:,} rollouts", f"{avoided.rollouts:,}"))
        if cost.tokens is not None and avoided.tokens is not None:
            pairs.insert(0, (f"{cost.tokens:,} tokens", f"{avoided.tokens:,}"))
            more = cost.tokens > avoided.tokens
        figures = ", ".join(f"{mine} against {theirs}" for mine, theirs in pairs)
        what = "rollouts" if self.rollouts_per_prompt else "training"
        return (
            f"Choosing cost {'more' if more else 'less'} than the {what} that it avoided: "
            f"{figures}, if each prompt left out would have cost what a trained one cost."
        )


def choosing(run: Run, config: Config) -> Choosing:
    """What choosing cost and saved in a run that has trained.

    Raises:
        ArtifactError: the corpus or the selection is missing or damaged.
    """
    live, training = config.selection.mode == "live", config.training
    costs = charged(run, live=live)
    mine = [row for row in costs if row["charged"]]
    path = run.path("policy", "log.jsonl")
    log = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    chosen = _of_log(log, ("choice_seconds",)), int(_of_log(log, ("choice_tokens",)))
    validations = ("validation_seconds", "start_validation_seconds")
    counted = any(row.get("forward_tokens") for row in costs)
    logged = any("forward_tokens" in entry for entry in log)
    selection = read_table(run.path("selection.parquet"), ["sample_id"]).num_rows
    prompts = training.draws(len(log)) * training.prompts_per_step
    return Choosing(
        live=live,
        stages=tuple(row["stage"] for row in mine),
        measured=int(_of_log(log, ("choice_prompts",))),
        cost=Spent(
            _sum(mine, "seconds") + chosen[0],
            int(_sum(mine, "rollouts")),
            int(_sum(mine, "forward_tokens")) + chosen[1]
            if counted or (live and not mine)
            else None,
        ),
        whole=Spent(
            _sum(costs, "seconds"),
            int(_sum(costs, "rollouts")),
            int(_sum(costs, "forward_tokens")) if counted else None,
        ),
        training=Spent(
            _of_log(log, ("seconds",)) - chosen[0] - _of_log(log, validations),
            int(_of_log(log, ("rollouts",))),
            int(_of_log(log, ("forward_tokens",))) - chosen[1] if logged else None,
        ),
        samples=int(read_json(run.path("corpus", "corpus.json"))["samples"]["train"]),
        distinct=min(selection, prompts),
        prompts=prompts,
        rollouts_per_prompt=training.rollouts_per_prompt if training.rolls_out else 0,
    )


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row.get(name, 0) for row in rows)


def _of_log(log: Sequence[Mapping[str, Any]], names: Sequence[str]) -> float:
    return sum(_sum(log, name) for name in names)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
