"""Settings of a run: one pydantic model per stage, every default in one place.

`minirec.settings` reads them from a YAML file and dotted overrides. This module loads neither
torch nor ray, so that a typo is answered at once.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from minirec.compare_config import CompareConfig
from minirec.resources_config import ResourcesConfig
from minirec.section import Section
from minirec.sweep_config import SweepConfig
from minirec.tracking_config import TrackingConfig
from minirec.training_config import ProxyTrainingConfig, TrainingConfig


class DemoConfig(Section):
    """The generated corpus with planted truth (`minirec.corpus.demo`)."""

    users: int = Field(420, ge=20, description="number of users")
    items: int = Field(300, ge=20, description="number of items")
    tastes: int = Field(10, ge=2, description="number of latent tastes")
    events_per_user: int = Field(8, ge=3, description="mean number of events of a user")
    trivial: float = Field(0.1, ge=0, le=1, description="share of events on the bestsellers")
    noise: float = Field(0.25, ge=0, le=1, description="share of events drawn at random")
    duplicates: float = Field(0.15, ge=0, le=1, description="share of users that copy another")

    @model_validator(mode="after")
    def _shares(self) -> DemoConfig:
        if self.trivial + self.noise > 1:
            raise ValueError(
                f"trivial + noise is {self.trivial + self.noise:g}; lower one, "
                f"so that they sum to 1 or less"
            )
        if self.tastes > self.items:
            raise ValueError(f"{self.tastes} tastes exceed {self.items} items; lower tastes")
        return self


class CorpusConfig(Section):
    """Where interactions come from and how they become samples."""

    source: Literal["amazon", "movielens", "recbole", "table", "demo"] = "demo"
    path: str | None = Field(None, description="folder with the source's files")
    ratings: str | None = Field(None, description="interactions file; default: found in path")
    metadata: str | None = Field(None, description="catalogue file; default: found in path")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="for source table: user, item, rating, time, title, text -> column of the file",
    )
    category: str | None = Field(None, description="name of the domain, words the prompts")
    download: bool | Literal["5core"] = Field(
        False, description="fetch the Amazon 2023 category; 5core: users and items with 5 events"
    )
    start: str | None = Field(None, description="first day kept, YYYY-MM-DD, UTC")
    end: str | None = Field(None, description="first day no longer kept, YYYY-MM-DD, UTC")
    k_core: int = Field(1, ge=1, description="each user and item keeps at least this many events")
    history: int = Field(10, ge=1, description="most recent events shown to the policy")
    min_history: int = Field(1, ge=1, description="events a user needs before a target counts")
    min_rating: float | None = Field(None, description="events rated below are dropped")
    rating_range: tuple[float, float] = Field((0.0, 5.0), description="lowest and highest rating")
    max_rejected: float = Field(0.01, ge=0, le=1, description="share of malformed rows that stops")
    split: tuple[float, float, float] = Field((0.8, 0.1, 0.1), description="train, valid, test")
    demo: DemoConfig = DemoConfig()

    @field_validator("start", "end", mode="before")
    @classmethod
    def _day(cls, day: Any) -> Any:
        if isinstance(day, date):  # as YAML reads 2020-01-31
            return day.isoformat()[:10]
        try:
            return day if day is None else datetime.strptime(day, "%Y-%m-%d").date().isoformat()
        except (TypeError, ValueError):
            raise ValueError(f"{day!r} is not a date; write YYYY-MM-DD") from None

    @model_validator(mode="after")
    def _check(self) -> CorpusConfig:
        if abs(sum(self.split) - 1) > 1e-9 or min(self.split) <= 0:
            raise ValueError(f"split {self.split} must be three positive shares that sum to 1")
        if self.source != "demo" and not (self.path or self.ratings):
            raise ValueError(f"source {self.source} needs corpus.path or corpus.ratings")
        if self.rating_range[0] >= self.rating_range[1]:
            raise ValueError(f"rating_range {self.rating_range} must rise")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"start {self.start} is not before end {self.end}; swap or mend them")
        files = ("path", "ratings", "metadata", "columns", "download")
        given = [name for name in files if getattr(self, name)]
        if self.source == "demo" and given:
            raise ValueError(
                f"{given[0]} has no effect with source demo, which is generated; name the source "
                f"of your files or leave {given[0]} out"
            )
        return self


class DemoModelConfig(Section):
    """The tiny Qwen2 that is built from the corpus when ``model.name`` is ``demo``."""

    vocabulary: int = Field(1500, ge=300, description="tokens of the byte-level BPE tokenizer")
    hidden_size: int = Field(128, ge=32)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    warmup_steps: int = Field(150, ge=1, description="steps of training before any reward")
    warmup_match: float = Field(
        0,
        ge=0,
        description="weight of matching lists of items with an item that they name, with stress on "
        "analyses that repeat words of the list; 0: none",
    )
    warmup_batch: int = Field(32, ge=1, description="texts per warm-up step")
    warmup_learning_rate: float = Field(2e-3, gt=0)

    @model_validator(mode="after")
    def _check(self) -> DemoModelConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the heads, "
                f"{2 * self.heads}; change one of the two"
            )
        return self


class ModelConfig(Section):
    """The policy: a causal LM of transformers with a LoRA adapter."""

    name: str = Field("demo", description="Hugging Face name, local folder, or demo")
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
    lora_rank: int = Field(16, ge=1)
    lora_alpha: float = Field(32.0, gt=0)
    lora_targets: str = Field("all-linear", description="peft target modules")
    temperature: float = Field(0.02, gt=0, description="tau of the item softmax")
    max_item_tokens: int = Field(48, ge=4, description="item text is cut to this many tokens")
    max_prompt_tokens: int = Field(512, ge=16, description="prompts are cut to this many tokens")
    demo: DemoModelConfig = DemoModelConfig()


class RolloutConfig(Section):
    """The pool of rollout engines."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    adapter: Literal["auto", "lora", "merged"] = "auto"
    max_new_tokens: int = Field(24, ge=1)
    temperature: float = Field(1.0, gt=0)
    prompts_per_call: int = Field(32, ge=1, description="prompts in one generate call")
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    kv_cache_mib: int = Field(128, ge=16, description="KV cache of a CPU engine, MiB")
    deadline_s: float = Field(300, gt=0, description="seconds that one call may take")
    start_deadline_s: float = Field(
        300, gt=0, description="seconds that an engine may take to start"
    )
    max_restarts: int = Field(3, ge=0, description="restarts of a dead engine")


class RewardConfig(Section):
    """Reward of a rollout (method, section 1)."""

    name: str = Field("ndcg_softmax", description="by name or package.module:function")
    cutoff: int = Field(1000, ge=1, description="m of NDCG@m")
    softmax_weight: float = Field(0.05, ge=0, le=1, description="b, the weight of p_y")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(r"ndcg_softmax|ndcg|reciprocal_rank|hit@[1-9]\d*|[\w.]+:\w+", name):
            raise ValueError(
                f"{name!r} is unknown; choose ndcg_softmax, ndcg, reciprocal_rank, hit@K or "
                f"package.module:function"
            )
        return name


class ProxyConfig(Section):
    """The proxy policy (method, section 2): GRPO on a small random subset."""

    samples: int = Field(256, ge=1)
    training: ProxyTrainingConfig = ProxyTrainingConfig()


def _share_or_count(name: str, value: Any) -> Any:
    """A number of samples, or a share of the corpus below 1, as it was written."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{name} {value!r} is neither a number of samples nor a share below 1; write 500, "
            f"or 0.1 for a tenth of the corpus"
        )
    if isinstance(value, float) and value >= 1:
        raise ValueError(
            f"{name} {value} is neither a share below 1 nor a whole number of samples; "
            f"write {int(value)}, or 0.5 for half the corpus"
        )
    return value


def _count(value: int | float, samples: int) -> int:
    return value if isinstance(value, int) else max(1, round(value * samples))


class ScoringConfig(Section):
    """Rollouts, rewards and head features of the train split."""

    samples: int | float | None = Field(
        None,
        gt=0,
        description="samples (1, 2, ...) or share of the corpus (below 1) that is scored, drawn "
        "at random; null: all",
    )
    rollouts: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        4, description="rollouts per sample, G; [2, 4]: two first, up to four where in doubt"
    )
    screen: Literal["prefill"] | None = Field(
        None, description="prefill: a forced <answer> decides which samples are rolled out"
    )
    screen_band: tuple[float, float] = Field(
        (0.05, 1.0), description="samples whose screen has a lift outside are not rolled out"
    )
    doubt: float = Field(
        0.1, ge=0, le=1, description="spread of the first NDCGs above which the rest is rolled out"
    )
    control: float = Field(
        0.05, ge=0, le=1, description="share of the screened samples rolled out all the same"
    )
    shard_size: int = Field(64, ge=1, description="samples in one shard")
    shard_deadline_s: float = Field(1800, gt=0, description="seconds without a finished shard")
    projection_dim: int = Field(
        4096, ge=1, description="numbers of a projected LoRA gradient, at most"
    )
    gradient_micro_batch: int = Field(8, ge=1, description="prompts in one pass for gradients")
    validation_samples: int = Field(
        256, ge=0, description="validation samples whose mean gradient `less` compares with"
    )

    @field_validator("samples", mode="before")
    @classmethod
    def _samples(cls, samples: Any) -> Any:
        if samples == 1 and isinstance(samples, float):
            raise ValueError("samples 1.0 is no share below 1; write null for the whole corpus")
        return None if samples is None else _share_or_count("samples", samples)

    @field_validator("rollouts", mode="before")
    @classmethod
    def _rollouts(cls, rollouts: Any) -> Any:
        pair = isinstance(rollouts, (list, tuple))
        given = rollouts if pair else [rollouts]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given)
        if not whole or (pair and len(given) != 2):
            raise ValueError(
                f"{rollouts!r} is neither a number of rollouts nor a pair; write 4, or [2, 4] for "
                f"two first and up to four where in doubt"
            )
        if pair and given[0] >= given[1]:
            raise ValueError(
                f"{list(given)} must rise: the first rollouts, then the most of a sample; "
                f"write {given[1]} for one stage"
            )
        return rollouts

    @field_validator("screen_band")
    @classmethod
    def _band(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] >= band[1]:
            raise ValueError(
                f"{list(band)} must rise: the lowest and the highest lift that is rolled out"
            )
        return band

    @property
    def stages(self) -> tuple[int, ...]:
        """Rollouts of a sample after each stage, rising."""
        return self.rollouts if isinstance(self.rollouts, tuple) else (self.rollouts,)

    def count(self, samples: int) -> int:
        """Samples that are scored of a corpus of `samples`."""
        return samples if self.samples is None else min(samples, _count(self.samples, samples))


class SelectionConfig(Section):
    """Value, diversity and curriculum (method, sections 3 to 6)."""

    budget: int | float = Field(
        0.1, gt=0, description="samples (1, 2, ...) or share of the corpus (below 1)"
    )
    method: Literal[
        "value",
        "random",
        "random_live",
        "full",
        "top_reward",
        "hit_variance",
        "grad_norm",
        "el2n",
        "kmeans",
        "kcenter",
        "ccs",
        "less",
    ] = Field("value", description="value: the paper's criteria; the others are baselines")
    learnability: Literal["gaussian", "gaussian_live", "hit_variance"] = "gaussian"
    lift: bool = Field(False, description="learnability of the reward above chance")
    mu: float | None = Field(0.5, description="centre of the Gaussian; null: the median")
    sigma: float | None = Field(None, gt=0, description="width; null: the standard deviation")
    min_lift: float | None = Field(
        None, description="samples with a lower mean lift are not selected"
    )
    alpha: float = Field(1.0, ge=0, description="weight of learnability")
    fusion: Literal["sum", "rank"] = "sum"
    directions: Literal["head_hvp", "head_gradient", "lora_projected"] = Field(
        "head_hvp", description="vectors of representativeness"
    )
    shards: int = Field(1, ge=1, description="Ray actors that share the rows of MaxMin")
    curriculum: Literal["grouped", "easy_to_hard", "hard_to_easy", "shuffled"] = "grouped"
    groups: int = Field(4, ge=1, description="groups of the curriculum, K")

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, budget: Any) -> Any:
        return _share_or_count("budget", budget)

    @property
    def needs_lora_gradients(self) -> bool:
        """Whether projected LoRA gradients are read."""
        return self.directions == "lora_projected" or self.method == "less"

    def count(self, samples: int) -> int:
        """Samples that are chosen from a corpus of `samples`; `full` takes all of them."""
        return samples if self.method == "full" else _count(self.budget, samples)


class EvaluationConfig(Section):
    """Full ranking of valid and test (method, section 9)."""

    cutoffs: tuple[PositiveInt, ...] = Field((5, 10, 20, 50), min_length=1)
    bootstrap: int = Field(1000, ge=1, description="resamples of the confidence intervals")
    policies: tuple[Literal["base", "proxy", "trained"], ...] = Field(
        ("base", "trained"), min_length=1
    )
    train_samples: PositiveInt | None = Field(
        None, description="samples of train that base and trained policy rank too, drawn by seed"
    )


class Config(Section):
    """A whole run."""

    run_dir: str = Field("runs/demo", description="a folder, s3://... or gs://...")
    seed: int = Field(42, ge=0)
    preset: Literal["minirec", "paper", "paper-amazon"] = "minirec"
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    proxy: ProxyConfig = ProxyConfig()
    scoring: ScoringConfig = ScoringConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sweep: SweepConfig = SweepConfig()
    compare: CompareConfig = CompareConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.selection.method == "less" and not self.scoring.validation_samples:
            raise ValueError(
                "selection.method less compares with validation gradients; set "
                "scoring.validation_samples above 0"
            )
        budget, scored = self.selection.budget, self.scoring.samples
        if type(budget) is type(scored) and budget > scored and self.selection.method != "full":
            raise ValueError(
                f"selection.budget {budget} exceeds scoring.samples {scored}, of which it is "
                f"chosen; lower the one or raise the other"
            )
        both = {"training": self.training, "proxy.training": self.proxy.training}
        for name, training in both.items():
            waits = self.rollout.start_deadline_s + self.rollout.deadline_s
            if training.step_deadline_s <= waits:
                raise ValueError(
                    f"{name}.step_deadline_s {training.step_deadline_s:g} must exceed "
                    f"rollout.start_deadline_s and rollout.deadline_s together, {waits:g}: a step "
                    f"waits for engines that start, and for its rollouts"
                )
            if self.resources.training_workers != "auto":
                training.check_workers(self.resources.training_workers)
        return self
