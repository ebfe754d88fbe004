"""A GRPO step of the product in one process, on the CPU or a GPU; used by other benchmarks.

The engine, the policy, the losses and the item side are those of `actors.training.loop`; only Ray,
the pool and the corpus are left out. Prompts and items are random tokens.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import sized_models as models
import torch
import torch.distributed as dist

from actors.engines.engine import Adapter, EngineSpec, RolloutEngine
from actors.training.items import ItemSide
from minirec.config.model import ModelConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import Sample
from minirec.model.recommender import Encoder, Policy, trainable_policy
from minirec.resources import flops
from minirec.resources.estimates import ModelShape
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective, counted
from minirec.rng import seed_of

RANK = 16


@dataclass(frozen=True)
class Sizes:
    """A step: prompts, rollouts of each, tokens of a prompt and of a rollout, items of the
    catalogue, tokens of an item, and prompts of a micro-batch."""

    prompts: int
    rollouts: int
    prompt: int
    completion: int
    items: int
    item: int
    micro_batch: int

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(
            prompts_per_step=self.prompts,
            rollouts_per_prompt=self.rollouts,
            prompts_per_micro_batch=self.micro_batch,
            learning_rate=1e-4,
        )


class PlainEngine:
    """The calls that training makes of a DeepSpeed engine, with AdamW alone."""

    def __init__(self, policy: Policy, *, max_norm: float):
        self.module, self.device = policy, policy.device
        self.max_norm, self.last = max_norm, True
        self.lora = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.lora, lr=1e-4)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def set_gradient_accumulation_boundary(self, last: bool) -> None:
        self.last = last

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        if self.last:
            torch.nn.utils.clip_grad_norm_(self.lora, self.max_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()


def new_engine(policy: Policy, sizes: Sizes, *, deepspeed: bool) -> Any:
    """The training engine: DeepSpeed with ZeRO 1, or AdamW alone."""
    t = sizes.training
    if not deepspeed:
        return PlainEngine(policy, max_norm=t.max_grad_norm)
    from actors.training.zero import zero_engine

    lora = [p for p in policy.parameters() if p.requires_grad]
    return zero_engine(
        policy,
        stage=1,
        micro_batch=t.prompts_per_micro_batch,
        optimizer=torch.optim.AdamW(lora, lr=1e-4),
        gradient_clipping=t.max_grad_norm,
    )


def join_alone() -> None:
    """Make a process group of this process alone, which the item side and DeepSpeed ask for.

    It stays until the process ends, because vLLM uses it too, and ends its own groups at exit.
    """
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)


class Step:
    """A model in training with its engine, and random prompts and items."""

    def __init__(
        self,
        model: str,
        sizes: Sizes,
        *,
        folder: Path,
        device: str = "cpu",
        dtype: str = "float32",
        deepspeed: bool = False,
        refresh_steps: int = 1,
    ):
        """Args:
        model: folder of a model.
        folder: for the adapters.
        refresh_steps: steps between two encodings of the catalogue.
        deepspeed: trains with DeepSpeed, else with AdamW alone.
        """
        join_alone()
        self.model, self.sizes, self.folder, self.dtype = model, sizes, folder, dtype
        self.shape = models.shape_in(model)
        config = ModelConfig(name=model, dtype=dtype, lora_rank=RANK)  # type: ignore[arg-type]
        self.encoder = Encoder.load(model, config, category="things")
        policy = trainable_policy(
            model, config, self.encoder.tokenizer, rollout_temperature=1.0, seed=0
        )
        policy.to(device)
        t, words = sizes.training, {"vocabulary": self.shape.vocabulary}
        self.prompts = models.random_tokens(sizes.prompts, sizes.prompt, seed=1, **words)
        self.items = models.random_tokens(sizes.items, sizes.item, seed=2, **words)
        self.samples = [
            Sample(sample_id=n, history=[], target=n % sizes.items) for n in range(sizes.prompts)
        ]
        self.engine = new_engine(policy, sizes, deepspeed=deepspeed)
        self.item_side = ItemSide(
            self.engine, self.items, training=t, refresh_steps=refresh_steps, seed=0
        )
        reward = reward_function("ndcg_softmax", softmax_weight=0.05)
        self.objective = Objective(t, config.temperature, 1000, reward)
        self._rollout_engine: RolloutEngine | None = None
        self.version = 0
        self.adapter: Adapter | None = None

    @property
    def policy(self) -> Policy:
        return self.engine.module

    @property
    def rollout_engine(self) -> RolloutEngine:
        if self._rollout_engine is None:
            from actors.engines.transformers import TransformersEngine

            on_gpu = float(self.policy.device.type == "cuda")
            spec = engine_spec(self.model, self.sizes, dtype=self.dtype, gpus=on_gpu)
            self._rollout_engine = TransformersEngine(spec)
        return self._rollout_engine

    def use(self, engine: RolloutEngine | None) -> None:
        """Let this engine write the rollouts from now on; None: a transformers engine."""
        self._rollout_engine = engine

    def roll_out(self) -> list[Group]:
        """The groups of a step, by the adapter that was synchronised last."""
        seeds = [seed_of(0, self.version, number) for number in range(len(self.prompts))]
        written = self.rollout_engine.generate(
            self.prompts, n=self.sizes.rollouts, seeds=seeds, adapter=self.adapter
        )
        return list(map(self.encoder.group, self.samples, self.prompts, written))

    def random_groups(self) -> list[Group]:
        """Groups as engines would write them, without an engine: random rollouts of full length."""
        s = self.sizes
        rows = models.random_tokens(
            s.prompts * s.rollouts, s.completion, vocabulary=self.shape.vocabulary, seed=3
        )
        even = -float(torch.tensor(self.shape.vocabulary).log())
        return [
            Group(
                prompt,
                completions=rows[n * s.rollouts : (n + 1) * s.rollouts],
                written=[s.completion] * s.rollouts,
                rollout_logprobs=[[even] * s.completion] * s.rollouts,
                excluded=[],
                target=sample.target,
            )
            for n, (prompt, sample) in enumerate(zip(self.prompts, self.samples, strict=True))
        ]

    def train(self, groups: list[Group]) -> None:
        """Catalogue, forward and backward passes, and the optimizer, as `Worker.step` does."""
        candidates = self.item_side.candidates(self.version, (group.target for group in groups))
        self.forward_backward(groups, candidates)
        self.item_side.backward(candidates)
        self.engine.step()

    def forward_backward(self, groups: list[Group], candidates: Any) -> None:
        """Forward and backward passes of the micro-batches."""
        counts, size = counted(groups), self.sizes.micro_batch
        for start in range(0, len(groups), size):
            micro = groups[start : start + size]
            part = losses(self.engine, micro, candidates=candidates, objective=self.objective)
            self.engine.set_gradient_accumulation_boundary(False)
            self.engine.backward(part.mean(counts))
            self.engine.step()

    def sync(self) -> None:
        """Write the adapter, and load it into the engine."""
        self.version += 1
        self.adapter = Adapter(str(self.folder / f"adapter-{self.version}"))
        self.policy.lm.save_pretrained(self.adapter.path, save_embedding_layers=False)
        self.rollout_engine.load_adapter(self.adapter)

    def __call__(self) -> list[Group]:
        """A whole step; returns its groups."""
        groups = self.roll_out()
        self.train(groups)
        self.sync()
        return groups


def engine_spec(model: str, sizes: Sizes, *, dtype: str, gpus: float) -> EngineSpec:
    """The settings of an engine for rollouts of these sizes."""
    return EngineSpec(
        model=model,
        max_model_len=sizes.prompt + sizes.completion,
        prompts_per_call=sizes.prompts,
        dtype=dtype,
        max_new_tokens=sizes.completion,
        adapter="merged",
        lora_rank=RANK,
        gpus=gpus,
        threads=torch.get_num_threads(),
    )


def step_flops(shape: ModelShape, groups: list[Group], items: list[list[int]]) -> dict[str, int]:
    """FLOPs of a whole step by part; `items` are the tokens of the catalogue."""
    written = [flops.rollouts(len(group.prompt), group.written) for group in groups]
    read = sum((flops.group(*group.lengths) for group in groups), flops.Pass())
    own = flops.sequences(len(items[n]) for n in {group.target for group in groups})
    catalogue = flops.forward(shape, flops.sequences(map(len, items)), rank=RANK)

    def both(work: flops.Pass) -> int:
        return flops.forward(shape, work, rank=RANK) + flops.backward(shape, work, rank=RANK)

    return {
        "rollouts": flops.forward(shape, sum(written, flops.Pass())),
        "catalogue": catalogue,
        "forward and backward": both(read),
        "items": both(own),
        "adapter": flops.merging(shape, rank=RANK),
    }


def seconds(function: Any, *args: Any, device: str = "cpu", **kwargs: Any) -> tuple[float, Any]:
    """Seconds of a call until the device has finished it, and its result."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = function(*args, **kwargs)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, found


def product_rate(size: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """FLOPs per second of a product of two square matrices of this size."""
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    taken = [seconds(torch.matmul, left, right, device=device)[0] for _ in range(3)]
    return 2 * size**3 / median(taken)
