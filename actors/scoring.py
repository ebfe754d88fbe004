"""Ray Data callable: a shard of samples -> rollouts -> rewards and head features, or ranks.

A shard is a fixed list of samples, rolled out in fixed calls and forwarded in fixed batches, so
its file depends neither on its neighbours, nor on the engine, nor on when it ran.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from actors.pool import Call, PoolHandle
from actors.rollout import Adapter, Completion
from minirec import artifacts
from minirec.config import ModelConfig, RewardConfig
from minirec.corpus import schema
from minirec.corpus.table import Sample, load_catalogue, load_samples
from minirec.model.recommender import Encoder, Policy, item_table, load_policy
from minirec.rl.reward import (
    Ranking,
    history_mask,
    item_scores,
    ndcg,
    rank_target,
    reward_function,
)
from minirec.rng import seed_of
from minirec.selection.gradients import head_features
from minirec.selection.learnability import count_hits

FORWARD_SEQUENCES = 64


@dataclass(frozen=True)
class ScoringSpec:
    """All that a scorer needs; picklable.

    `output` is the folder of the shards; `item_table` the file of the policy's item vectors, which
    specs of one policy share; `limit` the number of samples, drawn at random (None: all).
    """

    corpus: str
    split: str
    output: str
    item_table: str
    model_path: str
    model: ModelConfig
    reward: RewardConfig
    adapter: str | None
    rollouts: int
    shard_size: int
    prompts_per_call: int
    seed: int
    pool: PoolHandle
    policy_adapter: Adapter | None
    threads: int
    device: str = "cpu"
    limit: int | None = None

    def samples(self) -> list[Sample]:
        """The samples in file order."""
        found = load_samples(Path(self.corpus), self.split)
        if self.limit is None or self.limit >= len(found):
            return found
        draw = random.Random(seed_of(self.seed, self.split, "limit"))
        return [found[i] for i in sorted(draw.sample(range(len(found)), self.limit))]

    def part(self, shard: int) -> Path:
        """File of a finished shard."""
        return Path(self.output) / f"part-{shard:06d}.parquet"


class Scorer:
    """Scores shards of several specs, e.g. each policy on each split, in one pass of Ray Data."""

    def __init__(self, specs: list[ScoringSpec]):
        self.specs = specs
        self._current: tuple[int, ShardScorer] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the files of the shards named by ``batch["spec"]`` and ``batch["shard"]``."""
        for number, shard in zip(batch["spec"].tolist(), batch["shard"].tolist(), strict=True):
            if self._current is None or self._current[0] != number:
                self._current = None  # two models may not fit
                self._current = (number, ShardScorer(self.specs[number]))
            self._current[1].write(shard)
        return batch


class ShardScorer:
    """One policy on one split. With `rollouts` 0 only the greedy completion is ranked."""

    def __init__(self, spec: ScoringSpec):
        torch.set_num_threads(spec.threads)
        self.spec = spec
        catalogue = load_catalogue(Path(spec.corpus))
        self.titles = catalogue.titles
        self.samples = spec.samples()
        self.encoder = Encoder.load(spec.model_path, spec.model, category=catalogue.category)
        self.policy = load_policy(
            spec.model_path,
            spec.model,
            self.encoder.tokenizer,
            adapter=spec.adapter,
            device=spec.device,
        )
        items = [
            self.encoder.item(title, text)
            for title, text in zip(catalogue.titles, catalogue.texts, strict=True)
        ]
        self.table = _shared_table(spec, self.policy, items).to(spec.device)
        self.reward = reward_function(spec.reward)
        self.cutoff = min(spec.reward.cutoff, len(self.table))

    def write(self, shard: int) -> None:
        """Score a shard and write its file."""
        start = shard * self.spec.shard_size
        samples = self.samples[start : start + self.spec.shard_size]
        artifacts.write_table(self.spec.part(shard), self._score(samples))

    def _score(self, samples: list[Sample]) -> pa.Table:
        prompts = [self.encoder.prompt([self.titles[i] for i in s.history]) for s in samples]
        greedy, sampled = self._roll_out(samples, prompts)
        target = torch.tensor([s.target for s in samples], device=self.spec.device)
        mask = history_mask([s.history for s in samples], target, items=len(self.table))
        mask = mask.to(self.spec.device)
        hidden = self._hidden(prompts, [[c] for c in greedy])
        ids = pa.array([s.sample_id for s in samples], pa.int64())
        tokens = np.array([len(c.token_ids) for c in greedy])
        if not self.spec.rollouts:
            rank = self._ranking(hidden, target, mask).rank.cpu().numpy().astype(np.int32)
            said = [c.text for c in greedy]
            return pa.table(
                {"sample_id": ids, "rank": rank, "completion": said, "rollout_tokens": tokens}
            )
        tokens += [sum(len(c.token_ids) for c in group) for group in sampled]
        columns = {
            "sample_id": ids,
            **self._reward_columns(prompts, sampled, target, mask),
            "completions": [[c.text for c in group] for group in sampled],
            "tokens": [[c.token_ids for c in group] for group in sampled],
            **self._head_columns(hidden, target, mask),
            "rollout_tokens": tokens,
        }
        return pa.table(columns, schema=schema.features(hidden.shape[1]))

    def _roll_out(
        self, samples: list[Sample], prompts: list[list[int]]
    ) -> tuple[list[Completion], list[list[Completion]]]:
        """Greedy completion of each prompt, and its G sampled ones."""
        spec, n = self.spec, self.spec.prompts_per_call
        seeds = [seed_of(spec.seed, "score", s.sample_id) for s in samples]
        blocks = [slice(i, i + n) for i in range(0, len(prompts), n)]
        calls = [Call(prompts[b], 1, seeds[b], greedy=True) for b in blocks]
        if spec.rollouts:
            calls += [Call(prompts[b], spec.rollouts, seeds[b], greedy=False) for b in blocks]
        answers = spec.pool.generate(calls, adapter=spec.policy_adapter)
        groups = [group for answer in answers for group in answer]
        return [group[0] for group in groups[: len(prompts)]], groups[len(prompts) :]

    @torch.no_grad()
    def _hidden(self, prompts: list[list[int]], groups: list[list[Completion]]) -> Tensor:
        """Hidden states (P * n, d) float32, group after group."""
        sequences = [
            prompt + self.encoder.finish(c.token_ids, stopped=c.stopped)
            for prompt, group in zip(prompts, groups, strict=True)
            for c in group
        ]
        blocks = range(0, len(sequences), FORWARD_SEQUENCES)
        return torch.cat([self.policy(sequences[i : i + FORWARD_SEQUENCES])[0] for i in blocks])

    def _ranking(self, hidden: Tensor, target: Tensor, mask: Tensor) -> Ranking:
        scores = item_scores(hidden, items=self.table, temperature=self.spec.model.temperature)
        return rank_target(scores, target=target, mask=mask)

    def _reward_columns(
        self, prompts: list[list[int]], groups: list[list[Completion]], target: Tensor, mask: Tensor
    ) -> dict[str, object]:
        """Reward, NDCG and number of hits (NDCG above chance) of the G rollouts."""
        n = self.spec.rollouts
        ranking = self._ranking(
            self._hidden(prompts, groups), target.repeat_interleave(n), mask.repeat_interleave(n, 0)
        )
        gain = ndcg(ranking, self.cutoff).view(-1, n).cpu().numpy()
        rewards = self.reward(ranking, self.cutoff).view(-1, n).cpu().numpy()
        hits = count_hits(gain, candidates=len(self.table), cutoff=self.spec.reward.cutoff)
        return {"rewards": list(rewards), "ndcg": list(gain), "hits": hits.astype(np.int8)}

    def _head_columns(self, hidden: Tensor, target: Tensor, mask: Tensor) -> dict[str, object]:
        """Embedding, head gradient and Hessian-vector product at the greedy completion."""
        # In float64: for a target that is nearly certain, the difference of the mean and the
        # target's vector is rounding in float32.
        found = head_features(
            hidden.double(),
            items=self.table,
            target=target,
            mask=mask,
            temperature=self.spec.model.temperature,
        )
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        size = hidden.shape[1]
        return {
            "embedding": _fixed(unit.cpu().numpy().astype(np.float16), size),
            "gradient": _fixed(found.gradient.float().cpu().numpy(), size),
            "hvp": _fixed(found.hvp.float().cpu().numpy(), size),
            "el2n": found.el2n.float().cpu().numpy(),
        }


def _fixed(values: np.ndarray, size: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), size)


def _shared_table(spec: ScoringSpec, policy: Policy, items: list[list[int]]) -> Tensor:
    """Item table of the policy, computed by the first scorer and read by the others."""
    path = Path(spec.item_table)
    if not path.exists():
        vectors = item_table(policy, items).cpu().numpy()
        with artifacts.atomic(path) as file:
            np.save(file, vectors)
    return torch.from_numpy(np.load(path))
