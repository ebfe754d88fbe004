"""Ray Train loop: curriculum GRPO of the LoRA policy under DeepSpeed.

One step: the order gives the next prompts; the pool rolls out G completions of each with the
adapter of the last step, or of the one before (`actors.training.lookahead`); one forward gives
token log-probabilities and hidden states, hence rewards, advantages and both losses; backward;
optimizer step; the adapter is published.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from actors.pool.pool import Call, PoolHandle
from actors.process import deadline, trim
from actors.training.adapters import Adapters
from actors.training.checkpoints import newest_checkpoint, save_checkpoint
from actors.training.items import ItemSide
from actors.training.lookahead import Drawn, Lookahead
from actors.training.validation import Validation, best_step, due, exhausted
from actors.training.zero import barrier, zero_engine
from minirec.config.run import ModelConfig, RewardConfig, TrainingConfig
from minirec.corpus.table import Sample, SampleFile, load_catalogue
from minirec.model.recommender import Encoder, Policy, trainable_policy
from minirec.rl.reward import reward_function
from minirec.rl.step import Group, Objective, log_presence, losses, lr_factor
from minirec.rng import seed_of
from minirec.store.files import atomic, fetch, read_json, write_json
from minirec.store.remote import located

TRIM_STEPS = 8  # between two times that a worker gives free memory back
STOP = "stop"
"""Where this file is in the training's folder, it ends before its next step."""


@dataclass(frozen=True)
class TrainingSpec:
    """All that a training worker needs; picklable. `training.learning_rate` is set."""

    corpus: str
    folder: str
    model_path: str
    model: ModelConfig
    reward: RewardConfig
    training: TrainingConfig
    order: list[int]
    steps: int
    seed: int
    rollout_temperature: float
    prompts_per_call: int
    pool: PoolHandle
    threads: int
    zero_stage: int = 0
    start: str | None = None  # adapter to go on with

    @property
    def learning_rate(self) -> float:
        """The peak."""
        assert self.training.learning_rate is not None
        return self.training.learning_rate


def train_loop(config: dict[str, TrainingSpec]) -> None:
    """Body of a Ray Train worker."""
    spec = config["spec"]
    torch.set_num_threads(spec.threads)
    limit = spec.training.step_deadline_s
    # A worker that hangs dies and is started again by Ray Train.
    with deadline(limit):
        worker = Worker(spec)
        first = worker.resume()
    for step in range(first, spec.steps):
        if exhausted(worker.log, spec.training.patience):
            break
        with deadline(limit):
            if worker.told_to_stop():
                worker.lookahead.close()
                return
            worker.step(step)
            if (step + 1) % TRIM_STEPS == 0:
                trim()
            if (step + 1) % spec.training.checkpoint_steps == 0 and step + 1 < spec.steps:
                worker.checkpoint(step + 1)
    with deadline(limit):
        worker.lookahead.close()
        worker.finish()


class Worker:
    """One rank of the training."""

    def __init__(self, spec: TrainingSpec):
        self.spec = spec
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.folder = located(spec.folder)
        corpus = located(spec.corpus)
        catalogue = load_catalogue(corpus)
        model_path = fetch(spec.model_path)
        self.titles = catalogue.titles
        self.encoder = Encoder.load(model_path, spec.model, category=catalogue.category)
        self.items = [
            self.encoder.item(title, text)
            for title, text in zip(catalogue.titles, catalogue.texts, strict=True)
        ]
        samples = SampleFile(corpus, "train").find(set(spec.order))
        self.samples: dict[int, Sample] = {sample.sample_id: sample for sample in samples}
        policy = trainable_policy(
            model_path,
            spec.model,
            self.encoder.tokenizer,
            rollout_temperature=spec.rollout_temperature,
            seed=spec.seed,
            adapter=spec.start and fetch(spec.start),
        )
        self.objective = Objective(
            training=spec.training,
            temperature=spec.model.temperature,
            cutoff=spec.reward.cutoff,
            reward=reward_function(spec.reward.name, softmax_weight=spec.reward.softmax_weight),
        )
        t = spec.training
        self.micro_batches = t.prompts_per_step // (self.world * t.prompts_per_micro_batch)
        # One backward per micro-batch and one through the item encoder.
        self.backwards = self.micro_batches + 1
        self.sharing = policy.sharing
        self.engine = _deepspeed_engine(policy, spec, self.backwards)
        self.item_side = ItemSide(self.engine, self.items, refresh_steps=t.item_refresh_steps)
        self.log_presence = self._log_presence()
        self.adapters = Adapters(
            self.folder, self.engine, sharded=spec.zero_stage == 3, start=spec.start
        )
        self.validation: Validation | None = None
        self.lookahead = Lookahead(spec.pool, self._calls, steps=spec.steps, staleness=t.staleness)
        self.log: list[dict[str, Any]] = []

    def _log_presence(self) -> torch.Tensor | None:
        t = self.spec.training
        if t.item_candidates != "corrected":
            return None
        targets = [self.samples[i].target for i in self.spec.order]
        presence = log_presence(targets, items=len(self.items), prompts=t.prompts_per_step)
        return presence.to(self.engine.device)

    def told_to_stop(self) -> bool:
        """Whether the file is there; all workers get the answer of rank 0."""
        box = [self.rank == 0 and (self.folder / STOP).exists()]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def step(self, step: int) -> None:
        """One optimizer step on the global batch."""
        started = time.monotonic()
        self._learning_rate(step)
        groups, times = self._roll_out(step)
        candidates = self.item_side.candidates(step, (g.target for g in groups))
        tokens = sum(sum(g.generated) for g in groups)
        scale = self.world * self.backwards  # cancels DeepSpeed's two averages
        sums: dict[str, float] = {}
        for micro in self._micro_batches(groups):
            part = losses(
                self.engine,
                micro,
                objective=self.objective,
                table=candidates.table,
                batch_items=candidates.ids,
                batch_vectors=candidates.vectors,
                log_presence=self.log_presence,
                sharing=self.sharing,
            )
            loss = part.token / tokens + part.item / len(groups)
            self.engine.backward(loss * scale)
            self.engine.step()
            for key, value in part.sums.items():
                sums[key] = sums.get(key, 0.0) + value
        self.item_side.backward(candidates, backwards=self.backwards)
        norm = self._optimizer_step()
        self.adapters.publish(step + 1)
        validation = self._validate(step)
        self._write_log(
            step,
            sums,
            **validation,
            groups=len(groups),
            tokens=tokens,
            grad_norm=norm,
            prompt_tokens=sum(len(g.prompt) for g in groups),
            seconds=round(time.monotonic() - started, 3),
            **times,
        )
        if validation and self.spec.training.patience and best_step(self.log) == step:
            self.adapters.save_best(step)

    def _samples(self, step: int) -> list[tuple[int, Sample]]:
        """Position in the curriculum and sample of each prompt of the global batch."""
        spec = self.spec
        size = spec.training.prompts_per_step
        positions = range(step * size, (step + 1) * size)
        return [(p, self.samples[spec.order[p % len(spec.order)]]) for p in positions]

    def _calls(self, step: int) -> list[Call]:
        """What the pool is asked for the global batch."""
        spec = self.spec
        batch = self._samples(step)
        prompts = [self.encoder.prompt([self.titles[i] for i in s.history]) for _, s in batch]
        seeds = [seed_of(spec.seed, "train", p) for p, _ in batch]
        n = spec.prompts_per_call
        count = spec.training.rollouts_per_prompt
        return [
            Call(prompts[i : i + n], count, seeds[i : i + n], greedy=False)
            for i in range(0, len(prompts), n)
        ]

    def _roll_out(self, step: int) -> tuple[list[Group], dict[str, float]]:
        """Rollouts of the global batch, and what they took for the log.

        Rank 0 asks the pool, so all ranks see the same.
        """
        box: list[Drawn | None] = [None]
        if self.rank == 0:
            box[0] = self.lookahead.take(
                step, newest=self.adapters.newest, behind=self.adapters.behind
            )
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        drawn = box[0]
        assert drawn is not None
        groups = [
            Group.of(
                sample,
                prompt=prompt,
                completions=[
                    self.encoder.finish(c.token_ids, stopped=c.stopped) for c in completions
                ],
                generated=[len(c.token_ids) for c in completions],
                rollout_logprobs=[list(c.logprobs) for c in completions],
            )
            for (_, sample), (prompt, completions) in zip(
                self._samples(step), drawn.rollouts, strict=True
            )
        ]
        times = ("rollout_seconds", "wait_seconds", "idle_seconds")
        return groups, {name: round(getattr(drawn, name), 3) for name in times}

    def _micro_batches(self, groups: list[Group]) -> list[list[Group]]:
        share = len(groups) // self.world
        mine = groups[self.rank * share : (self.rank + 1) * share]
        size = self.spec.training.prompts_per_micro_batch
        return [mine[i : i + size] for i in range(0, len(mine), size)]

    def _optimizer_step(self) -> float:
        """Step with the gradient of all backwards; returns its norm before clipping."""
        norm = self._gradient_norm() if not self.spec.zero_stage else None
        self.engine.step()
        return norm if norm is not None else float(self.engine.get_global_grad_norm())

    def _gradient_norm(self) -> float:
        """DeepSpeed keeps it only from ZeRO stage 1 on."""
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _validate(self, step: int) -> dict[str, Any]:
        """What the log says of the policy after this step, where it is validated."""
        spec = self.spec
        if not due(step, steps=spec.steps, every=spec.training.validation_steps):
            return {}
        if self.validation is None:
            self.validation = Validation(
                SampleFile(located(spec.corpus), "valid"),
                training=spec.training,
                seed=spec.seed,
                encoder=self.encoder,
                titles=self.titles,
                items=self.items,
                temperature=spec.model.temperature,
                pool=spec.pool,
                prompts_per_call=spec.prompts_per_call,
            )
        return self.validation.measure(self.engine, self.adapters.newest)

    def _learning_rate(self, step: int) -> None:
        t = self.spec.training
        factor = lr_factor(
            step, steps=self.spec.steps, warmup=t.lr_warmup_steps, schedule=t.lr_schedule
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * factor

    def _write_log(
        self, step: int, sums: dict[str, float], *, groups: int, tokens: int, **figures: Any
    ) -> None:
        keys = sorted(sums)
        total = torch.tensor([sums[k] for k in keys], dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(total)
        means = dict(zip(keys, total.tolist(), strict=True))
        per = dict.fromkeys(("abs_log_ratio", "clipped_tokens", "token_loss"), tokens)
        entry = {"step": step, **{k: v / per.get(k, groups) for k, v in means.items()}}
        entry["loss"] = entry["token_loss"] + entry["item_loss"]
        entry |= {"tokens": tokens, "rollouts": groups * self.spec.training.rollouts_per_prompt}
        self.log.append(entry | figures)
        if self.rank == 0:
            self._flush_log()

    def _flush_log(self) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.log)
        with atomic(self.folder / "log.jsonl") as file:
            file.write(lines.encode())

    def checkpoint(self, step: int) -> None:
        """Save weights, optimizer and log."""

        def fill(work: Path) -> None:
            self.engine.save_checkpoint(str(work), tag="state", exclude_frozen_parameters=True)
            if self.rank == 0:
                write_json(work / "log.json", self.log)
                if self.spec.training.staleness:
                    self.adapters.save_behind(work)

        save_checkpoint(self.folder, step, fill)

    def resume(self) -> int:
        """Load the newest undamaged checkpoint; returns the step to go on with."""
        box: list[str | None] = [None]
        if self.rank == 0:
            self.adapters.clear()
            found = newest_checkpoint(self.folder, say=print)
            box[0] = str(found) if found else None
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        if box[0] is None:
            return 0
        newest = located(box[0])
        copy = fetch(box[0])
        self.engine.load_checkpoint(copy, tag="state", load_module_strict=False)
        self.log = read_json(newest / "log.json")
        step = int(newest.name.removeprefix("step-"))
        self.adapters.restore(step, Path(copy))
        return step

    def finish(self) -> None:
        """Write the final adapter, which tells a restarted driver that training is through."""
        keeps_best = self.spec.training.patience is not None
        self.adapters.finish(best_step(self.log) if keeps_best else None)
        barrier()


def _deepspeed_engine(policy: Policy, spec: TrainingSpec, backwards: int) -> Any:
    t = spec.training
    lora = [p for p in policy.parameters() if p.requires_grad]
    return zero_engine(
        policy,
        stage=spec.zero_stage,
        bfloat16=spec.model.dtype == "bfloat16",
        micro_batch=t.prompts_per_micro_batch,
        optimizer=torch.optim.AdamW(lora, lr=spec.learning_rate, weight_decay=t.weight_decay),
        gradient_accumulation_steps=backwards,
        gradient_clipping=t.max_grad_norm,
    )
