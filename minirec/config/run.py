"""Settings of a run: one pydantic model per stage, every default in one place.

`minirec.config.reading` reads them from a YAML file and dotted overrides. This module loads neither
torch nor ray, so that a typo is answered at once.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from minirec.config.corpus import CorpusConfig
from minirec.config.resources import ResourcesConfig
from minirec.config.section import LARGEST, PathText, Section
from minirec.config.training import ProxyTrainingConfig, TrainingConfig
from minirec.config.trials import CompareConfig, SweepConfig
from minirec.store.remote import expanded


class DemoModelConfig(Section):
    """The tiny Qwen2 that is built from the corpus when ``model.name`` is ``demo``."""

    vocabulary: int = Field(1500, ge=300, description="tokens of the byte-level BPE tokenizer")
    hidden_size: int = Field(128, ge=32, description="width")
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads")
    warmup_steps: int = Field(150, ge=1, description="steps of training before any reward")
    warmup_match: float = Field(
        0,
        ge=0,
        description="weight of matching lists of items with an item that they name, with stress on "
        "analyses that repeat words of the list; 0: none",
    )
    warmup_batch: int = Field(32, ge=1, description="texts per warm-up step")
    warmup_learning_rate: float = Field(2e-3, gt=0, description="of the warm-up")

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

    name: PathText = Field("demo", description="Hugging Face name, local folder, or demo")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the weights")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    lora_rank: int = Field(16, ge=1, description="r of the adapter")
    lora_alpha: float = Field(32.0, gt=0, description="the adapter counts alpha / r times")
    lora_targets: str = Field("all-linear", description="peft target modules")
    temperature: float = Field(0.02, gt=0, description="tau of the item softmax")
    max_item_tokens: int = Field(48, ge=4, description="item text is cut to this many tokens")
    max_prompt_tokens: int = Field(512, ge=16, description="prompts are cut to this many tokens")
    demo: DemoModelConfig = DemoModelConfig()


class RolloutConfig(Section):
    """The pool of rollout engines."""

    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="auto: vLLM where it is installed"
    )
    adapter: Literal["auto", "lora", "merged"] = Field(
        "auto",
        description="how the adapter reaches an engine: as LoRA, or merged into the weights; auto "
        "merges on the CPU",
    )
    max_new_tokens: int = Field(24, ge=1, description="length of a completion")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    prompts_per_call: int = Field(32, ge=1, description="prompts in one generate call")
    gpu_memory_utilization: float = Field(
        0.4, gt=0, le=1, description="share of a GPU's memory that an engine takes"
    )
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

    samples: int = Field(256, ge=1, description="drawn at random")
    training: ProxyTrainingConfig = ProxyTrainingConfig()


def _share_or_count(name: str, value: Any) -> Any:
    """A number of samples, or a share of the corpus below 1, as it was written."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{name} {value!r} is neither a number of samples nor a share below 1; write 500, "
            f"or 0.1 for a tenth of the corpus"
        )
    if isinstance(value, float) and 1 <= value <= LARGEST:  # others are refused as no number
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
    learnability: Literal["gaussian", "gaussian_live", "hit_variance"] = Field(
        "gaussian",
        description="gaussian_live: only of samples with a rollout above chance; hit_variance: p "
        "(1 - p) of the share of rollouts above chance",
    )
    lift: bool = Field(False, description="learnability of the reward above chance")
    mu: float | None = Field(0.5, description="centre of the Gaussian; null: the median")
    sigma: float | None = Field(None, gt=0, description="width; null: the standard deviation")
    min_lift: float | None = Field(
        None, description="samples with a lower mean lift are not selected"
    )
    alpha: float = Field(1.0, ge=0, description="weight of learnability")
    fusion: Literal["sum", "rank"] = Field(
        "sum", description="of the two criteria: their sum, or the mean of their ranks"
    )
    directions: Literal["head_hvp", "head_gradient", "lora_projected"] = Field(
        "head_hvp", description="vectors of representativeness"
    )
    shards: int = Field(1, ge=1, description="Ray actors, at most, that share the rows of MaxMin")
    curriculum: Literal["grouped", "easy_to_hard", "hard_to_easy", "shuffled"] = Field(
        "grouped", description="order of training; grouped: from easy to hard by groups"
    )
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

    cutoffs: tuple[PositiveInt, ...] = Field(
        (5, 10, 20, 50), min_length=1, description="k of HR@k and NDCG@k"
    )
    bootstrap: int = Field(1000, ge=1, description="resamples of the confidence intervals")
    policies: tuple[Literal["base", "proxy", "trained"], ...] = Field(
        ("base", "trained"), min_length=1, description="which are evaluated"
    )
    train_samples: PositiveInt | None = Field(
        None, description="samples of train that base and trained policy rank too, drawn by seed"
    )


class TrackingConfig(Section):
    """None of it changes a result."""

    tensorboard: bool = Field(True, description="event files below run_dir/tensorboard")
    mlflow: str | None = Field(
        None, description="tracking URI, e.g. http://host:5000 or sqlite:///mlflow.db; null: off"
    )
    wandb: Literal["online", "offline"] | None = Field(
        None, description="Weights & Biases; offline writes below run_dir/wandb; null: off"
    )
    project: str = Field("minirec", description="experiment of MLflow, project of W&B")

    @field_validator("mlflow")
    @classmethod
    def _home(cls, uri: str | None) -> str | None:
        """MLflow takes ``~`` for the name of a folder, in a path and in the address of a file."""
        for scheme in ("", "sqlite:///", "file://", "file:"):
            if uri is not None and uri.startswith(f"{scheme}~"):
                return scheme + expanded(uri.removeprefix(scheme))
        return uri


class Config(Section):
    """A whole run."""

    run_dir: PathText = Field("runs/demo", description="a folder, s3://... or gs://...")
    seed: int = Field(42, ge=0, description="of all random draws")
    preset: Literal["minirec", "paper", "paper-amazon"] = Field(
        "minirec", description="settings that a file and the command line may change"
    )
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
