"""Ray Train loop: projected LoRA gradients of the rollouts that scoring has stored.

Each shard of features gives one file of gradients. The workers share the shards without such a
file, so a restart computes only the missing ones. Samples do not influence each other: the number
of workers and the size of a micro-batch change a gradient by rounding only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow as pa
import torch
import torch.distributed as dist

from actors.process import deadline
from actors.training.zero import of_rank_0, zero_engine
from minirec.config.model import ModelConfig
from minirec.config.training import TrainingConfig
from minirec.corpus import prompts, schema
from minirec.corpus.table import Sample, SampleFile, load_catalogue
from minirec.corpus.weights import load_factors
from minirec.errors import ArtifactError
from minirec.model import tokens
from minirec.model.hub import downloaded
from minirec.model.recommender import Encoder, load_policy
from minirec.model.sharing import Sharing
from minirec.prior.prior import Prior
from minirec.rl.group import Group
from minirec.selection.lora_gradients import SampleLoss, block_gradients, blocks, gradients
from minirec.selection.projection import Projector
from minirec.store.files import fetch
from minirec.store.remote import located
from minirec.store.tables import map_array, read_table, write_table


@dataclass(frozen=True)
class GradientShard:
    """A file of features of `split`, and the file for their gradients."""

    split: str
    features: str
    output: str


@dataclass(frozen=True)
class GradientSpec:
    """The settings of a worker; picklable. `dim` and `seed` determine the projection."""

    corpus: str
    shards: list[GradientShard]
    item_table: str
    model_path: str
    model: ModelConfig
    adapter: str
    training: TrainingConfig
    rollout_temperature: float
    dim: int
    micro_batch: int
    seed: int
    threads: int
    zero_stage: int = 0
    prior: str | None = None
    item_weight: str | None = None


def gradient_loop(config: dict[str, GradientSpec]) -> None:
    """Body of a Ray Train worker."""
    spec = config["spec"]
    torch.set_num_threads(spec.threads)
    limit = spec.training.step_deadline_s
    with deadline(limit):
        worker = GradientWorker(spec)
        missing = _missing(spec.shards)
    for turn in range(math.ceil(len(missing) / worker.world)):
        mine = missing[turn * worker.world + worker.rank :][:1]
        with deadline(limit):
            worker.turn(mine[0] if mine else None)


def _missing(shards: list[GradientShard]) -> list[GradientShard]:
    """The missing shards, as rank 0 sees them: another node may see a new file late."""
    return of_rank_0(lambda: [s for s in shards if not located(s.output).exists()])


class GradientWorker:
    """One rank, with the policy and its unmerged LoRA adapter."""

    def __init__(self, spec: GradientSpec):
        self.spec = spec
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        corpus = located(spec.corpus)
        self.catalogue = load_catalogue(corpus)
        model_path = fetch(downloaded(spec.model_path))
        self.encoder = Encoder.load(model_path, spec.model, category=self.catalogue.category)
        self.samples = {
            split: SampleFile(corpus, split)
            for split in sorted({shard.split for shard in spec.shards})
        }
        policy = load_policy(
            model_path,
            spec.model,
            self.encoder.tokenizer,
            adapter=fetch(spec.adapter),
            merge=False,
            rollout_temperature=spec.rollout_temperature,
        )
        engine = zero_engine(
            policy,
            stage=spec.zero_stage,
            micro_batch=spec.micro_batch,
        )
        # Without an optimizer, the engine's own forward allows no backward pass. The hooks of the
        # module gather the weights that ZeRO has sharded.
        self.policy, self.device = engine.module, engine.device
        self.projector = Projector(policy.lm, dim=spec.dim, seed=spec.seed)
        prior = Prior.load(corpus, located(spec.prior)) if spec.prior else None
        self.loss = SampleLoss(
            table=torch.from_numpy(map_array(located(spec.item_table))).to(self.device),
            temperature=spec.model.temperature / (prior.scale if prior else 1),
            advantage_floor=spec.training.advantage_floor,
            scale_advantage=spec.training.scale_advantage,
            prior=prior,
            factors=load_factors(corpus, spec.item_weight),
        )
        # ZeRO 3 gathers weights from all workers in each pass, so all need as many passes.
        self.lockstep = spec.zero_stage == 3 and self.world > 1

    def turn(self, shard: GradientShard | None) -> None:
        """Write the gradients of a shard; without one, only run passes for the other workers."""
        groups = self._groups(shard) if shard else {}
        scored = list(groups.values())
        if self.lockstep:
            self._keep_step(scored)
        size = self.spec.micro_batch
        found = gradients(self.policy, self.projector, scored, loss=self.loss, micro_batch=size)
        if shard is None:
            return
        if not torch.isfinite(found).all():
            raise ArtifactError(
                f"a gradient of {shard.features} is not finite: the policy that scored has "
                f"diverged; lower the learning_rate of its training (scoring.policy)"
            )
        values = pa.array(found.numpy().ravel())
        column = pa.FixedSizeListArray.from_arrays(values, self.projector.dim)
        cost = [self._cost(group) for group in scored]
        columns = [pa.array(list(groups), pa.int64()), column, pa.array(cost, pa.int64())]
        table = pa.table(columns, schema.gradients(self.projector.dim))
        write_table(located(shard.output), table)

    def _cost(self, group: Group) -> int:
        """Forward-equivalent tokens of a group's gradient; a dead group has no pass."""
        live = self.loss.advantages(group).any()
        return tokens.LORA * tokens.read(group, Sharing.of(self.policy.causal)) if live else 0

    def _groups(self, shard: GradientShard) -> dict[int, Group]:
        """The rollouts of the shard with their rewards, by sample_id."""
        columns = ["sample_id", "rewards", "tokens", "completions"]
        rows = read_table(located(shard.features), columns).to_pylist()
        found = self.samples[shard.split].find([row["sample_id"] for row in rows])
        samples = {sample.sample_id: sample for sample in found}
        return {row["sample_id"]: self._group(row, samples[row["sample_id"]]) for row in rows}

    def _group(self, row: dict[str, list], sample: Sample) -> Group:
        completions = [
            self.encoder.finish(tokens, stopped=text.endswith(prompts.ANSWER))
            for tokens, text in zip(row["tokens"], row["completions"], strict=True)
        ]
        return Group(
            self.encoder.prompts([sample], self.catalogue)[0],
            excluded=sample.excluded,
            target=sample.target,
            completions=completions,
            written=[len(tokens) for tokens in row["tokens"]],
            rewards=row["rewards"],
            history=sample.history,
            sample_id=sample.sample_id,
        )

    def _keep_step(self, scored: list[Group]) -> None:
        """Run empty passes until this worker has as many as the others."""
        own = len(list(blocks(scored, loss=self.loss, micro_batch=self.spec.micro_batch)))
        most = torch.tensor(own, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        answer = self.encoder.answer_ids
        idle = Group(answer, [answer, answer], [1, 1], [], 0, rewards=[0.0, 1.0])
        for _ in range(int(most) - own):
            block_gradients(self.policy, self.projector, [idle], loss=self.loss)
