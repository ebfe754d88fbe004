"""Ray Train loop: curriculum GRPO, or supervision, of the LoRA policy under DeepSpeed.

docs/architecture.md lists what a step does; examples/loop.py has the same steps in one process.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from actors.process import deadline, forget_peak_memory, trim
from actors.training.activations import Activations
from actors.training.adapters import Adapters
from actors.training.agreement import Agreement
from actors.training.checkpoints import newest_checkpoint, save_checkpoint
from actors.training.division import Passes
from actors.training.drawing import Drawing
from actors.training.drift import keep_start, kl_sums
from actors.training.expert import Demonstrator
from actors.training.influence import live_order
from actors.training.items import ItemSide, asked_items, step_tokens, target_presence
from actors.training.live import CHOICE_TOKENS
from actors.training.log import TrainingLog, means, mismatch
from actors.training.objective import objective_of
from actors.training.order import DrawnOrder, Order, summed
from actors.training.paced import static_order
from actors.training.replays import with_choices
from actors.training.reset import Reset
from actors.training.spec import TrainingSpec
from actors.training.texts import text_reward
from actors.training.unlabelled import labelled_part, with_unlabelled
from actors.training.update import optimizer_step, set_learning_rate
from actors.training.validation import (
    OF_START,
    Validation,
    best_step,
    due,
    exhausted,
    weights_after,
)
from actors.training.zero import barrier, of_rank_0, training_engine
from minirec.corpus.following import with_following
from minirec.corpus.table import SampleFile, load_catalogue
from minirec.model.hub import downloaded
from minirec.model.recommender import Encoder, trainable_policy
from minirec.prior.prior import Prior
from minirec.rl.group import Choice, Unit
from minirec.rl.losses import losses
from minirec.rl.rollouts import counted
from minirec.store.files import fetch, read_json, write_json
from minirec.store.remote import is_remote, located

TRIM_STEPS = 8  # a worker returns free memory to the system every 8 steps
STOP = "stop"  # a training ends before its next step if its folder has a file of this name


def train_loop(config: dict[str, TrainingSpec]) -> None:
    """Body of a Ray Train worker."""
    spec = config["spec"]
    torch.set_num_threads(spec.threads)
    limit = spec.training.step_deadline_s
    forget_peak_memory()
    # A worker that hangs ends itself, and Ray Train restarts it.
    with deadline(limit):
        worker = Worker(spec)
        first = worker.resume()
    for step in range(first, spec.steps):
        if exhausted(worker.log.entries, spec.training.patience) or worker.share_spent() >= 1:
            break
        with deadline(limit):
            if of_rank_0(lambda: (worker.folder / STOP).exists()):
                worker.close()
                return
            worker.step(step)
            if mismatch(worker.log.entries, spec.training.max_log_ratio):
                worker.close()
                return
            if (step + 1) % TRIM_STEPS == 0:
                trim()
            if (step + 1) % spec.training.checkpoint_steps == 0 and step + 1 < spec.steps:
                worker.checkpoint(step + 1)
    with deadline(limit):
        worker.close()
        worker.finish()


class Worker:
    def __init__(self, spec: TrainingSpec):
        self.spec = spec
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.folder = located(spec.folder)
        corpus = located(spec.corpus)
        self.catalogue = load_catalogue(corpus)
        model_path = fetch(downloaded(spec.model_path))
        self.encoder = Encoder.load(model_path, spec.model, category=self.catalogue.category)
        self.items = self.encoder.items(self.catalogue)
        found = {s.sample_id: s for s in SampleFile(corpus, "train").find(set(spec.order))}
        self.samples = with_following(found, corpus, horizon=spec.reward.horizon)
        policy = trainable_policy(
            model_path,
            spec.model,
            self.encoder.tokenizer,
            rollout_temperature=spec.rollout_temperature,
            seed=spec.seed,
            adapter=spec.start and fetch(spec.start),
        )
        if spec.training.compares_start and spec.start:
            keep_start(policy, fetch(spec.start))
        self.prior = Prior.load(corpus, located(spec.prior)) if spec.prior else None
        self.objective = objective_of(
            spec,
            corpus,
            items=len(self.items),
            answer=self.encoder.answer_ids,
            prior=self.prior,
            text_reward=text_reward(spec, self.encoder, self.items, device=policy.device),
        )
        t = spec.training
        self.tokens = step_tokens(
            spec, self.items, self.samples, self.encoder, self.catalogue, policy.sharing
        )
        self.reset = Reset(policy, spec)
        self.engine = training_engine(policy, spec)
        activations = Activations(
            policy, t.gradient_checkpointing, model_path=model_path, workers=self.world
        )
        self.passes = Passes(t, policy.sharing, activations)
        self.item_side = ItemSide(
            self.engine,
            self.items,
            training=t,
            refresh_steps=self.tokens.refresh_steps,
            seed=spec.seed,
            log_presence=target_presence(spec, self.samples, items=len(self.items)),
        )
        self.adapters = Adapters(
            self.folder, self.engine, sharded=spec.zero_stage == 3, start=spec.start
        )
        self.log = TrainingLog(
            self.folder, writes=self.rank == 0, appends=not is_remote(self.folder)
        )
        self.demonstrator = Demonstrator(spec, self.samples, self.log.entries)
        self.order = with_unlabelled(DrawnOrder(self._order(), t.replays), spec)
        self.agreement = Agreement(self.engine, self.objective)
        self.validation: Validation | None = None
        self.drawing = Drawing(
            spec,
            folder=self.folder,
            order=self.order,
            encoder=self.encoder,
            catalogue=self.catalogue,
            adapters=self.adapters,
            policy=self.engine,
            sharing=policy.sharing,
            objective=self.objective,
        )

    def _order(self) -> Order:
        spec = labelled_part(self.spec)
        if spec.live is None:
            return static_order(spec, self.samples, items=len(self.items))
        return live_order(
            spec,
            policy=self.engine,
            objective=self.objective,
            encoder=self.encoder,
            catalogue=self.catalogue,
            items=self.items,
            samples=self.samples,
            log=self.log.entries,
        )

    def step(self, step: int) -> None:
        started = time.monotonic()
        set_learning_rate(self.engine, self.spec, step, spent=self.share_spent())
        start = self._validate_start(step)
        table = self.item_side.refresh(step)
        # With staleness 1, the rollouts of the next step are requested before this one trains.
        ahead = range(step, min(step + 1 + self.spec.training.staleness, self.spec.steps))
        chosen = summed([self.order.prepare(one, table) for one in ahead])
        groups, times = self.drawing.groups(step, table)
        groups, agreed = self.agreement.labelled(step, groups, table)
        shown = self.demonstrator.of(step, groups, spent=self.share_spent())
        asked = asked_items(groups, self.spec.training)
        candidates = self.item_side.candidates(step, asked, shown)
        largest = self.item_side.largest_pass(candidates)
        counts, micro_batches = counted(groups), self.passes.divide(groups, beside=largest)
        divided = [micro for _, micro in micro_batches]
        objective = self.objective.of_step(step, seed=self.spec.seed, log=self.log.entries)
        objective = replace(objective, views=self.agreement.views(groups))
        divisors = counts | self.passes.live_tokens(
            self.engine, divided, candidates.table, objective
        )
        measured = self.spec.training.measures_kl(step)
        sums = kl_sums(self.engine, divided) if measured else {}
        learned: dict[int, tuple[float, float, float]] = {}
        choices: dict[int, Choice] = {}
        update = self.spec.training.update
        for numbers, micro in micro_batches:
            with torch.set_grad_enabled(update):
                part = losses(self.engine, micro, candidates=candidates, objective=objective)
            # Backwards through the item encoder come later, the last one ends the accumulation.
            self.engine.set_gradient_accumulation_boundary(False)
            if update:  # DeepSpeed averages over ranks
                self.engine.backward(part.mean(divisors) * self.world)
                self.engine.step()
            if part.rewards:
                learned |= zip(numbers, part.rewards.means, strict=True)
                choices |= zip(numbers, part.rewards.choices, strict=True)
            for key, value in part.sums.items():
                sums[key] = sums.get(key, 0.0) + value
        self.order.learned(step, [learned[number] for number in sorted(learned)])
        self.drawing.keep(with_choices(groups, choices, replays=self.spec.training.replays))
        norm = 0.0
        if update:
            self.item_side.backward(candidates)
            norm = optimizer_step(self.engine, zero_stage=self.spec.zero_stage)
            self.reset.after(step, self.engine)
            if self.drawing.lookahead:
                self.adapters.publish(step + 1)
        cost = self.tokens.count(
            step,
            groups,
            candidates=candidates.ids.tolist(),
            choice_tokens=chosen.get(CHOICE_TOKENS, 0),
            further_tokens=self.drawing.written.forward_tokens,
        )
        validation = self._validate(step, cost)
        self._write_log(
            step,
            sums,
            counts,
            divisors=divisors,
            **start,
            **validation,
            **chosen,
            **agreed,
            grad_norm=norm,
            prompt_tokens=sum(len(g.prompt) for g in groups),
            forward_tokens=cost,
            item_refresh_steps=self.tokens.refresh_steps,
            checkpointed=self.passes.activations.on,
            seconds=round(time.monotonic() - started, 3),
            **times,
        )
        if validation and self.spec.training.patience and best_step(self.log.entries) == step:
            self.adapters.save_best(step)

    def share_spent(self, more: int = 0) -> float:
        """Share of `token_limit` that the logged steps and `more` tokens have spent; 0 without."""
        limit = self.spec.training.token_limit
        spent = more + sum(entry["forward_tokens"] for entry in self.log.entries)
        return spent / limit if limit else 0.0

    def _validate(self, step: int, cost: int) -> dict[str, Any]:
        """The log entries of a validation after this step of this cost; empty if none is due."""
        spec = self.spec
        last = step + 1 == spec.steps or self.share_spent(cost) >= 1
        if not due(step, last=last, every=spec.training.validation_steps):
            return {}
        found = self._measure(step + 1)
        ends = last or exhausted(
            [*self.log.entries, {"step": step, **found}], spec.training.patience
        )
        if ends and self.item_side.due(step + 1):  # no next step pays for the table
            found["validation_forward_tokens"] += self.tokens.catalogue
        return found

    def _validate_start(self, step: int) -> dict[str, Any]:
        """The log entries of a validation of the adapter that training starts from, at step 0."""
        if step or self.spec.start is None or self.spec.training.validation_steps is None:
            return {}
        return {OF_START + name: value for name, value in self._measure(0).items()}

    def _measure(self, step: int) -> dict[str, Any]:
        """The log entries of a validation of the weights that `step` begins with.

        Their table is a cost of the validation, unless the step reads it too.
        """
        if self.validation is None:
            self.validation = Validation(
                self.spec,
                encoder=self.encoder,
                catalogue=self.catalogue,
                prior=self.prior,
                factors=self.objective.factors,
            )
        table = self.item_side.table_of(step)
        found = self.validation.measure(self.engine, self.adapters.newest, table=table)
        if not self.item_side.due(step):
            found["validation_forward_tokens"] += self.tokens.catalogue
        return found

    def _write_log(
        self,
        step: int,
        sums: dict[tuple[str, Unit], float],
        counts: dict[Unit, int],
        *,
        divisors: dict[Unit, int],
        **figures: Any,
    ) -> None:
        """Log `figures` and the means of `sums`, see `actors.training.log.means`."""
        entry: dict[str, Any] = {"step": step} | means(
            sums, counts, divisors, device=self.engine.device
        )
        entry |= {"tokens": self.drawing.written.tokens, "rollouts": self.drawing.written.rollouts}
        self.log.add(entry | figures)

    def checkpoint(self, step: int) -> None:
        def fill(work: Path) -> None:
            self.engine.save_checkpoint(str(work), tag="state", exclude_frozen_parameters=True)
            if self.rank == 0:
                write_json(work / "log.json", self.log.entries)
                self.order.save(work)
                if self.spec.training.staleness:
                    self.adapters.save_behind(work)

        save_checkpoint(self.folder, step, fill)

    def resume(self) -> int:
        """Load the newest intact checkpoint; returns the step to continue with."""
        checkpoint = of_rank_0(self._newest_checkpoint)
        if checkpoint is None:
            return 0
        newest = located(checkpoint)
        copy = fetch(checkpoint)
        self.engine.load_checkpoint(copy, tag="state", load_module_strict=False)
        self.log.restore(read_json(newest / "log.json"))
        self.order.restore(Path(copy))
        step = int(newest.name.removeprefix("step-"))
        if self.drawing.lookahead:
            self.adapters.restore(step, Path(copy))
        return step

    def _newest_checkpoint(self) -> str | None:
        self.adapters.clear()
        found = newest_checkpoint(self.folder, say=print)
        return str(found) if found else None

    def close(self) -> None:
        """Complete the log, and wait for rollouts that were requested ahead."""
        self.log.write()
        self.drawing.close()

    def finish(self) -> None:
        """Write the final adapter, which shows a restarted driver that training is finished."""
        keeps_best = self.spec.training.patience is not None
        best = best_step(self.log.entries) if keeps_best else None
        fitted = weights_after(self.log.entries, best)
        in_use = [self.prior.scale, *self.prior.weights] if self.prior else []
        if self.rank == 0:
            self.order.finish(self.folder)
        self.adapters.finish(best, fitted or in_use)
        barrier()
