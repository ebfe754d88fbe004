"""Scores a shard of samples: rollouts, then rewards and head features, or ranks.

A shard is a fixed list of samples with fixed rollout calls and fixed forward batches. So its file
does not depend on other shards, on the engine or on the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from actors.engines.engine import FORCED, Completion
from actors.pool.actor import Call
from actors.scoring.orders import order_columns, orders_of_samples, reordered
from actors.scoring.policy import LoadedPolicy
from actors.scoring.rise import best_items, risen, risen_ranks
from actors.scoring.rollouts import Reference, Rollouts
from actors.scoring.spec import ScoringSpec
from minirec.config.scoring import ScoringConfig
from minirec.corpus import schema
from minirec.corpus.table import Sample, SampleFile
from minirec.corpus.weights import load_factors
from minirec.evaluation.orders import mean_direction
from minirec.model import tokens
from minirec.model.passes import hidden_states
from minirec.rl.group import Group
from minirec.rl.grpo import advantages
from minirec.rl.ranker import Targets
from minirec.rl.reward import ndcg, reward_function
from minirec.rng import seed_of
from minirec.selection import screening
from minirec.selection.head_gradients import head_features, rollout_gradient
from minirec.selection.learnability import chance_level, count_hits
from minirec.store.remote import located
from minirec.store.tables import write_table


@dataclass(frozen=True)
class _Batch:
    """Samples with their prompts and targets, and the seed of rollout 0 of each."""

    samples: list[Sample]
    prompts: list[list[int]]
    seeds: list[int]
    targets: Targets

    def take(self, rows: Sequence[int]) -> _Batch:
        at = torch.as_tensor(rows, dtype=torch.int64, device=self.targets.target.device)
        return _Batch(
            [self.samples[row] for row in rows],
            [self.prompts[row] for row in rows],
            [self.seeds[row] for row in rows],
            self.targets.take(at),
        )


class ShardScorer:
    """Scores one split with one policy."""

    def __init__(self, spec: ScoringSpec, loaded: LoadedPolicy | None = None):
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.loaded = loaded or LoadedPolicy(spec)
        self.encoder, self.policy = self.loaded.encoder, self.loaded.policy
        self.ranker, self.table = self.loaded.ranker, self.loaded.ranker.table
        self.samples = SampleFile(located(spec.corpus), spec.split)
        self.rows = spec.rows(len(self.samples))
        self.first = next(iter(self.samples.ids(self.rows[:1])), None)
        self.reward = reward_function(spec.reward.name, softmax_weight=spec.reward.softmax_weight)
        self.reference = Reference(spec, self.loaded)
        self.cutoff = min(spec.reward.cutoff, len(self.table))
        self.factors = load_factors(located(spec.corpus), spec.reward.item_weight)
        self.chance = chance_level(len(self.table), cutoff=spec.reward.cutoff)

    def write(self, shard: int) -> None:
        """Score a shard and write its file."""
        start = shard * self.spec.shard_size
        samples = self.samples.take(self.rows[start : start + self.spec.shard_size])
        write_table(self.spec.part(shard), self.score(samples))

    def score(self, samples: list[Sample]) -> pa.Table:
        """A row for each sample: its rank if `spec.scoring` is None, else its features."""
        batch = self._batch(samples)
        scoring = self.spec.scoring
        return self._ranks(batch) if scoring is None else self._features(batch, scoring)

    def _batch(self, samples: list[Sample]) -> _Batch:
        prompts = self.encoder.prompts(samples, self.loaded.catalogue)
        seeds = [seed_of(self.spec.seed, "score", s.sample_id) for s in samples]
        return _Batch(samples, prompts, seeds, self.ranker.targets(samples))

    def _ranks(self, batch: _Batch) -> pa.Table:
        greedy, _ = self._generate(batch, 0)
        hidden = self._hidden(batch, [[c] for c in greedy])
        written = np.array([len(c.token_ids) for c in greedy])
        others: dict[str, object] = {}
        if self.spec.orders:
            titles = self.loaded.catalogue.titles
            orders = orders_of_samples(self.encoder, titles, batch.samples, self.spec)
            states, more = self._other_orders(batch, hidden, orders)
            others = order_columns(
                states,
                batch.samples,
                batch.targets,
                self.ranker,
                orders=orders,
                keep=self.spec.orders_keep,
            )
            written = written + more
            if self.spec.rerank == "orders":
                hidden = mean_direction(states)
        ranks = self.ranker.rank(hidden, batch.targets).rank.cpu().numpy().astype(np.int32)
        if self.spec.rerank == "rise":
            ranks, more = self._risen(batch, hidden, ranks)
            written = written + more
        alone = {}
        if self.ranker.prior is not None:
            without = self.ranker.rank(hidden, replace(batch.targets, prior=None)).rank
            alone["rank_alone"] = without.cpu().numpy().astype(np.int32)
        return pa.table(
            {
                "sample_id": pa.array([s.sample_id for s in batch.samples], pa.int64()),
                "rank": ranks,
                **alone,
                "completion": [c.text for c in greedy],
                "rollout_tokens": written,
                **others,
            }
        )

    def _risen(
        self, batch: _Batch, hidden: Tensor, ranks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks (B,) after `risen` of the best items, and the tokens (B,) that engines wrote."""
        written = np.zeros(len(batch.samples), np.int64)

        def read(rows: list[int], prompts: list[list[int]]) -> Tensor:
            part = replace(batch.take(rows), prompts=prompts)
            greedy, _ = self._generate(part, 0)
            written[rows] += [len(c.token_ids) for c in greedy]
            return self._hidden(part, [[c] for c in greedy])

        lists = risen(
            best_items(hidden, batch.targets, self.ranker),
            [sample.history for sample in batch.samples],
            encoder=self.encoder,
            titles=self.loaded.catalogue.titles,
            table=self.table,
            read=read,
            seed=self.spec.seed,
        )
        return risen_ranks(lists, batch.samples, ranks), written

    def _other_orders(
        self, batch: _Batch, hidden: Tensor, orders: list[list[list[int]]]
    ) -> tuple[Tensor, np.ndarray]:
        """Hidden states (B, n + 1, d), those of the own order first, and the tokens (B,) that the
        engines wrote for the other orders."""
        states, written = [hidden], np.zeros(len(batch.samples), np.int64)
        for number in range(self.spec.orders):
            both = zip(batch.samples, orders, strict=True)
            samples = [reordered(sample, mine[number]) for sample, mine in both]
            prompts = self.encoder.prompts(samples, self.loaded.catalogue)
            other = replace(batch, samples=samples, prompts=prompts)
            greedy, _ = self._generate(other, 0)
            states.append(self._hidden(other, [[c] for c in greedy]))
            written += [len(c.token_ids) for c in greedy]
        return torch.stack(states, 1), written

    def _features(self, batch: _Batch, scoring: ScoringConfig) -> pa.Table:
        count = len(batch.samples)
        hidden = self.table.new_empty(count, self.table.shape[1])
        screened, control = np.zeros(count, bool), np.zeros(count, bool)
        screen: dict[str, object] = {"screen_reward": [None] * count, "screen_ndcg": [None] * count}
        if scoring.screen:
            hidden = self._hidden(batch, [[FORCED]] * count)
            reward, gain = self._rewards(hidden, batch)
            screen = {"screen_reward": reward, "screen_ndcg": gain}
            far = screening.outside(gain, chance=self.chance, band=scoring.screen_band)
            ids = [s.sample_id for s in batch.samples]
            drawn = screening.drawn(ids, seed=self.spec.seed, share=scoring.control)
            screened, control = far & ~drawn, far & drawn
        rows = np.flatnonzero(~screened).tolist()
        at = torch.as_tensor(rows, dtype=torch.int64, device=hidden.device)
        hidden[at], greedy, rollouts = self._roll_out(batch.take(rows), scoring)
        columns = {
            "sample_id": pa.array([s.sample_id for s in batch.samples], pa.int64()),
            **self._rollout_columns(greedy, rollouts, rows, count),
            **self._head_columns(hidden, batch.targets),
            "forward_tokens": self._cost(batch, rows, greedy, rollouts),
            "rollout_gradient": self._rollout_gradient(rollouts, at, batch),
            "screened": screened,
            "control": control,
            "in_sample": [s.sample_id in self.spec.trained for s in batch.samples],
            **screen,
        }
        return pa.table(columns, schema=schema.features(hidden.shape[1]))

    def _roll_out(
        self, batch: _Batch, scoring: ScoringConfig
    ) -> tuple[Tensor, list[Completion], list[Rollouts]]:
        """Hidden state (B, d) at the greedy completion, that completion, and the rollouts.

        After each stage, only samples whose rewards are still uncertain get more rollouts.
        """
        first, *later = scoring.stages
        greedy, sampled = self._generate(batch, first)
        if self.spec.pool is None:
            forced = [[c] for c in greedy]
            hidden = self._hidden(batch, forced)
            return hidden, greedy, self._rewarded(batch, forced, hidden)
        both = [[one, *more] for one, more in zip(greedy, sampled, strict=True)]
        states = self._hidden(batch, both).unflatten(0, (len(both), 1 + first))
        hidden = states[:, 0]
        rollouts = self._rewarded(batch, sampled, states[:, 1:].flatten(0, 1))
        rows, done = list(range(len(greedy))), first
        _, greedy_ndcg = self._rewards(hidden, batch)
        for most in later:
            seen = [[greedy_ndcg[row], *rollouts[row].ndcg] for row in rows]
            unsure = screening.in_doubt(seen, spread=scoring.doubt)
            rows = [row for row, doubt in zip(rows, unsure, strict=True) if doubt]
            rest = batch.take(rows)
            _, more = self._generate(rest, most - done, before=done, greedy=False)
            added_hidden = self._hidden(rest, more)
            for row, added in zip(rows, self._rewarded(rest, more, added_hidden), strict=True):
                rollouts[row] += added
            done = most
        return hidden, greedy, rollouts

    def _generate(
        self, batch: _Batch, n: int, *, before: int = 0, greedy: bool = True
    ) -> tuple[list[Completion], list[list[Completion]]]:
        """Greedy completion of each prompt, if `greedy`, and `n` sampled ones.

        `before` is the number of rollouts of earlier stages. Rollout j uses the seed plus j, so it
        does not depend on the stages. Without engines, the greedy ones are forced answers, and no
        other is sampled.
        """
        if self.spec.pool is None:
            return [FORCED] * len(batch.prompts), []
        size, count = self.spec.prompts_per_call, len(batch.prompts)
        blocks = [slice(i, i + size) for i in range(0, count, size)]
        seeds = [seed + before for seed in batch.seeds]
        calls = [Call(batch.prompts[b], 1, seeds[b], greedy=True) for b in blocks if greedy]
        calls += [Call(batch.prompts[b], n, seeds[b], greedy=False) for b in blocks if n]
        answers = self.spec.pool.generate(calls, adapter=self.spec.policy_adapter) if calls else []
        groups = [group for answer in answers for group in answer]
        likeliest = count if greedy else 0
        return [group[0] for group in groups[:likeliest]], groups[likeliest:]

    def _hidden(self, batch: _Batch, groups: list[list[Completion]]) -> Tensor:
        """Hidden states (completions, d) float32, group after group."""
        if not groups:
            return self.table.new_empty(0, self.table.shape[1])
        return hidden_states(self.policy, self._groups(batch, groups))

    def _groups(self, batch: _Batch, groups: list[list[Completion]]) -> list[Group]:
        each = zip(batch.samples, batch.prompts, groups, strict=True)
        return [self.encoder.group(*one) for one in each]

    def _rewards(
        self, hidden: Tensor, batch: _Batch, groups: Sequence[Group] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reward and NDCG, both (B * n,) float32, of hidden states (B * n, d).

        The reward is without the weights of items, because selection expects 0..1 of it. Without
        `groups` of written texts, it is that of answers that were forced.
        """
        ranking = self.ranker.rank(hidden, batch.targets)
        reward = self.reference.mixed(self.reward(ranking, self.cutoff), groups)
        return reward.cpu().numpy(), ndcg(ranking, self.cutoff).cpu().numpy()

    def _rewarded(
        self, batch: _Batch, groups: list[list[Completion]], hidden: Tensor
    ) -> list[Rollouts]:
        """Groups of n completions with their rewards; `hidden` (B * n, d) float32."""
        if not groups:
            return []
        count = len(groups)
        found = self._rewards(hidden, batch, self._groups(batch, groups))
        parts = [np.split(values, count) for values in found]
        return [Rollouts(*one) for one in zip(groups, hidden.chunk(count), *parts, strict=True)]

    def _cost(
        self, batch: _Batch, rows: list[int], greedy: list[Completion], rollouts: list[Rollouts]
    ) -> list[int]:
        """Forward-equivalent tokens of each sample; those not in `rows` were only screened.

        A pass reads the completions of one stage with their prompt. Of the engines, the greedy
        completion and each stage are calls of their own, which read the prompt again.
        """
        scoring, answer = self.spec.scoring, len(self.encoder.answer_ids)
        screen = scoring is not None and scoring.screen is not None
        sharing = self.policy.sharing
        cost = [tokens.FORWARD * (len(p) + answer) * screen for p in batch.prompts]
        for row, one, group in zip(rows, greedy, rollouts, strict=True):
            sample, prompt = batch.samples[row], batch.prompts[row]
            written = group.completions if self.spec.pool is None else [one, *group.completions]
            passes = self._passes(written)
            if self.spec.pool is not None:
                calls = len(passes) + (len(written) > 1)
                cost[row] += tokens.rolled_out(len(prompt), [len(c.token_ids) for c in written])
                cost[row] += tokens.PREFILL * len(prompt) * (calls - 1)
            for part in passes:
                read = self.encoder.group(sample, prompt, part)
                cost[row] += tokens.FORWARD * tokens.read(read, sharing)
            cost[row] += self.reference.cost(sample, prompt, group.completions)
        if batch.samples and batch.samples[0].sample_id == self.first:
            cost[0] += tokens.FORWARD * self.loaded.item_tokens
        return cost

    def _passes(self, written: list[Completion]) -> list[list[Completion]]:
        """The completions of a sample as they were read: the greedy one with the first stage."""
        if self.spec.scoring is None:
            return [written]
        ends = [1 + rollouts for rollouts in self.spec.scoring.stages]
        parts = [written[start:end] for start, end in pairwise([0, *ends])]
        return [part for part in parts if part]

    def _rollout_columns(
        self, greedy: list[Completion], rollouts: list[Rollouts], rows: list[int], count: int
    ) -> dict[str, object]:
        """Columns of `count` samples; those not in `rows` have no rollouts."""
        generated, hits = np.zeros(count, np.int64), np.zeros(count, np.int8)
        lists: dict[str, list] = {
            name: [[]] * count for name in ("rewards", "ndcg", "completions", "tokens")
        }
        items, cutoff = len(self.table), self.spec.reward.cutoff
        for row, one, group in zip(rows, greedy, rollouts, strict=True):
            lists["rewards"][row], lists["ndcg"][row] = group.rewards, group.ndcg
            lists["completions"][row] = [c.text for c in group.completions]
            lists["tokens"][row] = [c.token_ids for c in group.completions]
            generated[row] = sum(len(c.token_ids) for c in [one, *group.completions])
            hits[row] = count_hits(group.ndcg[None], candidates=items, cutoff=cutoff)[0]
        return {**lists, "hits": hits, "rollout_tokens": generated}

    def _head_columns(self, hidden: Tensor, targets: Targets) -> dict[str, object]:
        """Embedding, head gradient and Hessian-vector product at the hidden states (B, d)."""
        # In float32, the difference between the mean and the target's vector would be only rounding
        # error if the target is nearly certain.
        found = head_features(
            hidden.double(),
            items=self.table,
            target=targets.target,
            mask=targets.excluded,
            prior=targets.prior,
            temperature=self.ranker.temperature,
        )
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        size = hidden.shape[1]
        return {
            "embedding": _fixed(unit.cpu().numpy().astype(np.float16), size),
            "gradient": _fixed(found.gradient.float().cpu().numpy(), size),
            "hvp": _fixed(found.hvp.float().cpu().numpy(), size),
            "el2n": found.el2n.float().cpu().numpy(),
        }

    def _rollout_gradient(self, rollouts: list[Rollouts], at: Tensor, batch: _Batch) -> pa.Array:
        """Column of head gradients weighted by advantage; 0 for samples that are not in `at`."""
        size = self.table.shape[1]
        result = torch.zeros(len(batch.samples), size)
        if len(at):
            counts = torch.tensor([len(group.rewards) for group in rollouts], device=at.device)
            rows = at.repeat_interleave(counts)
            targets = batch.targets.take(rows)
            advantage = [
                advantages(torch.from_numpy(group.rewards).double()[None])[0] for group in rollouts
            ]
            if self.factors is not None:
                weight = self.factors[batch.targets.target[at].cpu().numpy()]
                advantage = [w * a for w, a in zip(weight.tolist(), advantage, strict=True)]
            result = rollout_gradient(
                torch.cat([group.hidden for group in rollouts]).double(),
                advantage=torch.cat(advantage).to(at.device),
                sample=rows,
                samples=len(batch.samples),
                items=self.table,
                target=targets.target,
                mask=targets.excluded,
                prior=targets.prior,
                temperature=self.ranker.temperature,
            )
        return _fixed(result.float().cpu().numpy(), size)


def _fixed(values: np.ndarray, size: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), size)
