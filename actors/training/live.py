"""Live selection in a training: measures lifts, and chooses the samples of each step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.training.items import shared_table
from actors.training.live_pace import LivePace
from actors.training.order import Batch, all_results
from actors.training.paced import PULLS
from actors.training.spec import TrainingSpec
from actors.training.zero import of_rank_0, spread
from minirec.corpus.table import Catalogue, Sample
from minirec.model.recommender import Encoder, Policy
from minirec.model.tokens import FORWARD, LORA
from minirec.rl.ranker import Ranker
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Objective
from minirec.selection.head_gradients import head_features
from minirec.selection.learnability import chance_level, lift
from minirec.selection.live import (
    FORCED,
    ROLLOUTS,
    Candidates,
    LiveSelection,
    Rows,
    ValueRule,
)
from minirec.selection.live_record import Record, lift_table
from minirec.store.files import atomic
from minirec.store.tables import write_table

STATE = "live.npz"
CHOICES, LIFTS = "choices.parquet", "lifts.parquet"
CHOICE_TOKENS = "choice_tokens"
"""Entry of the log: the cost of measuring, in forward-equivalent tokens."""
AHEAD = 8
"""Steps whose candidates are measured at once, if measuring pays for the catalogue."""
BLOCK_TOKENS = 64 * 512
"""Tokens in one pass of a worker, at most 64 prompts, whatever the micro-batch of the training."""


class LiveOrder:
    """An `Order` that chooses the samples of a step for the policy of that moment."""

    def __init__(
        self,
        spec: TrainingSpec,
        *,
        policy: Policy,
        objective: Objective,
        encoder: Encoder,
        catalogue: Catalogue,
        items: Sequence[Sequence[int]],
        samples: Mapping[int, Sample],
        log: Sequence[Mapping[str, Any]],
    ):
        """Args:
        policy: the policy in training, or a DeepSpeed engine around it.
        items: V token lists (`Encoder.items`).
        samples: all samples of `spec.order`, by sample_id.
        log: of the training, which grows with each step.
        """
        assert spec.live is not None and spec.selection is not None
        self.settings, self.prompts = spec.live, spec.training.prompts_per_step
        self.policy, self.objective = policy, objective
        self.encoder, self.catalogue, self.samples = encoder, catalogue, samples
        self.items, self.log = items, log
        # Training by supervision encodes no catalogue, so measuring pays for it.
        self.table_tokens = 0 if spec.training.reads_table else FORWARD * sum(map(len, items))
        self.block = max(1, min(64, BLOCK_TOKENS // spec.model.max_prompt_tokens))
        self.chance = chance_level(len(catalogue), cutoff=spec.reward.cutoff)
        self.selection = LiveSelection(spec.order, spec.live, seed=spec.seed, prompts=self.prompts)
        self.value = ValueRule(spec.live, spec.selection) if spec.live.rule == "value" else None
        # A warm start has no rewards, so its samples are not paced.
        rewarded = spec.training.rolls_out
        paced = rewarded and spec.selection.curriculum == "self_paced"
        self.pace = LivePace(spec, [samples[i].history for i in spec.order]) if paced else None
        # A candidate that is not taken now is often a candidate of the next step.
        kept = 8 * spec.live.candidates * self.prompts
        self._prompt = lru_cache(maxsize=kept)(self._encoded)
        self.batches: dict[int, Rows] = {}
        self.passes: dict[int, int] = {}  # of the stream, for each of the batches
        self.tokens = 0  # of all measurements
        self.record = Record()
        if spec.lifts:
            self._seed(spec.lifts)

    def _seed(self, lifts: Sequence[tuple[int, float, float]]) -> None:
        """Note lifts that are known from the start: sample_id, forced, and mean over rollouts."""
        row_of = {int(number): row for row, number in enumerate(self.selection.ids)}
        rows = np.array([row_of[number] for number, *_ in lifts], np.int64)
        for kind, values in (
            (FORCED, [f for _, f, _ in lifts]),
            (ROLLOUTS, [r for *_, r in lifts]),
        ):
            known = ~np.isnan(values)
            self.selection.see(kind, rows[known], np.asarray(values)[known], at_pass=0)

    def prepare(self, step: int, table: Tensor | None) -> dict[str, Any]:
        """Measure lifts and choose the samples of `step`, unless a checkpoint brought them."""
        if step in self.batches:
            return {}
        started = time.monotonic()
        candidates = self.selection.candidates()
        ahead = self.selection.candidates(steps=AHEAD) if self.table_tokens else candidates
        rows, tokens = self._affordable(self.selection.to_measure(ahead), candidates.rows, step)
        first = None
        if len(rows):
            items = shared_table(self.policy, self.items) if table is None else table
            first = self._measure(rows, items, candidates)
        drawn = None if self.pace is None else self.pace.drawn(step, table)
        choice = self.selection.choose(candidates, first=first, drawn=drawn)
        self.tokens += tokens
        self.batches[step], self.passes[step] = choice.rows, candidates.at_pass
        self.record.add(step, self.selection, choice)
        return {
            CHOICE_TOKENS: tokens,
            "choice_prompts": len(rows),
            "choice_seconds": round(time.monotonic() - started, 3),
            **({} if self.pace is None else self.pace.log(choice.rows)),
            **{
                f"chosen_{why.replace(' ', '_')}": choice.reasons.count(why)
                for why in self.selection.reasons
            },
        }

    def _affordable(self, rows: Rows, candidates: Rows, step: int) -> tuple[Rows, int]:
        """The first of the rows that `live.share` allows to measure, and their tokens.

        The cost of all measurements stays below this share of the cost of the training, counted
        from lengths, never from measured seconds. A step that has not finished counts as much as
        training its prompts, if these are as short as the shortest candidate. Where measuring pays
        for the catalogue, it waits until as much is left for prompts as the catalogue costs.
        """
        if not len(rows):
            return rows, 0
        cost = sum(entry["forward_tokens"] - entry.get(CHOICE_TOKENS, 0) for entry in self.log)
        pending = step + 1 - len(self.log)
        shortest = min(len(self._prompt(row)) for row in candidates.tolist())
        cost += pending * self.prompts * shortest * LORA
        left = self.settings.share * cost - self.tokens
        if left < 2 * self.table_tokens:
            return rows[:0], 0
        tokens, count = self.table_tokens, 0
        for row in rows.tolist():
            size = FORWARD * len(self._prompt(row))
            if tokens + size > left:
                break
            tokens, count = tokens + size, count + 1
        return rows[:count], tokens if count else 0

    def _encoded(self, row: int) -> list[int]:
        """The prompt of a row with the forced answer."""
        sample = self.samples[int(self.selection.ids[row])]
        return self.encoder.prompts([sample], self.catalogue)[0] + self.encoder.answer_ids

    @torch.no_grad()
    def _measure(self, rows: Rows, table: Tensor, candidates: Candidates) -> Rows | None:
        """Note the lifts of at least one row; the rule value also returns candidates to take for
        their value."""
        prompts = [self._prompt(row) for row in rows.tolist()]
        order = sorted(range(len(rows)), key=lambda i: (len(prompts[i]), i))  # less padding
        samples = [self.samples[int(self.selection.ids[row])] for row in rows]
        ranker = Ranker(table, self.objective.temperature, self.objective.prior)
        cutoff = min(self.objective.cutoff, len(table))

        def gains(part: range) -> list[tuple[float, list[float] | None]]:
            mine = [order[i] for i in part]
            hidden = self.policy([prompts[i] for i in mine])[0]
            targets = ranker.targets([samples[i] for i in mine])
            found = ndcg(ranker.rank(hidden, targets), cutoff).tolist()
            states = hidden.tolist() if self.value else [None] * len(mine)
            return list(zip(found, states, strict=True))

        both = spread(len(rows), self.block, gains)
        place = np.argsort(order)
        lifts = lift(np.array([gain for gain, _ in both])[place], chance=self.chance)
        self.selection.see(FORCED, rows, lifts, at_pass=candidates.at_pass)
        if self.value is None:
            return None
        hidden = torch.tensor([both[i][1] for i in place], dtype=torch.float64)
        able = (self.selection.memory.distance(rows) == 0) & np.isin(rows, candidates.rows)
        at = np.flatnonzero(able).tolist()
        chosen = [samples[i] for i in at]
        return rows[at][self._by_value(lifts[at], hidden[at], ranker, chosen)]

    def _by_value(
        self, lifts: np.ndarray, hidden: Tensor, ranker: Ranker, samples: list[Sample]
    ) -> Rows:
        """The positions of the samples to take for their value, among those in the band."""
        value = self.value
        assert value is not None
        count = self.prompts - round(self.settings.explore * self.prompts)

        def pick() -> tuple[np.ndarray, np.ndarray]:
            if not samples:
                return np.empty(0, np.int64), value.mean
            targets = ranker.targets(samples)
            features = head_features(
                hidden.to(ranker.table.device),
                items=ranker.table,
                target=targets.target,
                mask=targets.excluded,
                prior=targets.prior,
                temperature=ranker.temperature,
            )
            unit = torch.nn.functional.normalize(hidden, dim=-1).numpy()
            picked = value.pick(lifts, features.hvp.cpu().numpy(), unit, count=count)
            return picked, value.mean

        # Different machines can round differently, and all ranks must choose alike.
        picked, value.mean = of_rank_0(pick)
        return picked

    def batch(self, step: int) -> Batch:
        ids = self.selection.ids[self.batches[step]].tolist()
        return [(step * self.prompts + i, self.samples[number]) for i, number in enumerate(ids)]

    def learned(self, step: int, own: Sequence[tuple[float, float, float]]) -> None:
        """Note the lifts of the rollouts of a step. All ranks learn about all groups."""
        gains = all_results(own)
        rows, at_pass = self.batches.pop(step), self.passes.pop(step)
        if len(gains):
            lifts = lift(gains[:, 0], chance=self.chance)
            self.selection.see(ROLLOUTS, rows, lifts, at_pass=at_pass)
            floor = self.objective.training.advantage_floor
            self.selection.see_spread(rows, gains[:, 2], floor=floor)
            self.record.reward(step, lifts, gains[:, 1])
            if self.pace is not None:
                self.pace.learned(step, rows, lifts, gains[:, 2])

    def save(self, folder: Path) -> None:
        state = {f"selection_{k}": v for k, v in self.selection.state().items()}
        state |= {f"record_{k}": v for k, v in self.record.state().items()}
        state |= {f"batch_{step}": rows for step, rows in self.batches.items()}
        state |= {f"pass_{step}": np.array(number) for step, number in self.passes.items()}
        state["tokens"] = np.array(self.tokens)
        if self.value is not None:
            state["mean"] = self.value.mean
        if self.pace is not None:
            state |= {f"pace_{k}": v for k, v in self.pace.state().items()}
        with atomic(folder / STATE) as file:
            np.savez(file, **state)

    def restore(self, folder: Path) -> None:
        with np.load(folder / STATE) as state:
            parts: dict[str, dict[str, Any]] = {
                name: {} for name in ("selection", "record", "batch", "pass", "pace")
            }
            for key in state.files:
                head, _, name = key.partition("_")
                if head in parts:
                    parts[head][name] = state[key]
            self.tokens = int(state["tokens"])
            if self.value is not None:
                self.value.mean = state["mean"]
        self.selection.restore(parts["selection"])
        self.record.restore(parts["record"])
        if self.pace is not None:
            self.pace.restore(parts["pace"])
        self.batches = {int(step): rows for step, rows in parts["batch"].items()}
        self.passes = {int(step): int(number) for step, number in parts["pass"].items()}

    def finish(self, folder: Path) -> None:
        write_table(folder / CHOICES, self.record.table(without=self.batches))
        write_table(folder / LIFTS, lift_table(self.selection))
        if self.pace is not None:
            write_table(folder / PULLS, self.pace.pulls.table(self.selection.ids))
