"""Settings of a run: one pydantic model per stage, every default in one place.

A run is described by a YAML file and dotted overrides (``training.steps=20``). `load` merges
preset, file and overrides in this order and refuses unknown keys with the nearest valid one.
This module loads neither torch nor ray, so that a typo is answered at once.
"""

from __future__ import annotations

import difflib
import re
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from minirec.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are fixed once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    download: bool = Field(False, description="fetch the Amazon 2023 category if it is absent")
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
        # YAML reads 2020-01-31 as a date.
        return day.isoformat()[:10] if isinstance(day, date) else day

    @model_validator(mode="after")
    def _check(self) -> CorpusConfig:
        if abs(sum(self.split) - 1) > 1e-9 or min(self.split) <= 0:
            raise ValueError(f"split {self.split} must be three positive shares that sum to 1")
        if self.source != "demo" and not (self.path or self.ratings):
            raise ValueError(f"source {self.source} needs corpus.path or corpus.ratings")
        if self.rating_range[0] >= self.rating_range[1]:
            raise ValueError(f"rating_range {self.rating_range} must rise")
        return self


class DemoModelConfig(Section):
    """The tiny Qwen2 that is built from the corpus when ``model.name`` is ``demo``."""

    vocabulary: int = Field(1500, ge=300, description="tokens of the byte-level BPE tokenizer")
    hidden_size: int = Field(128, ge=32)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    warmup_steps: int = Field(150, ge=1, description="next-token steps before any reward")
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
    engines: int = Field(1, ge=1, description="engines in the pool")
    gpus_per_engine: float = Field(0, ge=0, description="0 runs the engine on the CPU")
    tensor_parallel: int = Field(1, ge=1)
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


class TrainingConfig(Section):
    """Curriculum GRPO (method, section 7). Also the settings of the proxy."""

    steps: int | None = Field(None, ge=1, description="optimizer steps; default: from epochs")
    epochs: float = Field(1.0, gt=0, description="passes over the selection if steps is not set")
    prompts_per_step: int = Field(32, ge=1)
    rollouts_per_prompt: int = Field(4, ge=2)
    prompts_per_micro_batch: int = Field(16, ge=1)
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default: 2e-3 for the demo model, 1e-4 for others"
    )
    lr_warmup_steps: int = Field(3, ge=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="course of the learning rate after warm-up; the latter two end at 0"
    )
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    advantage_floor: float = Field(1e-3, gt=0, description="least standard deviation of a group")
    scale_advantage: bool = Field(True, description="divide by the standard deviation")
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    importance_cap: float = Field(2.0, ge=1)
    item_candidates: Literal["batch", "catalogue"] = Field(
        "batch", description="candidates of the item loss; catalogue adds all others, detached"
    )
    item_refresh_steps: int = Field(1, ge=1, description="steps between encodings of the catalogue")
    workers: int = Field(1, ge=1, description="Ray Train workers")
    gpus_per_worker: float = Field(0, ge=0)
    zero_stage: Literal[0, 1, 2, 3] = 0
    checkpoint_steps: int = Field(10, ge=1, description="steps between checkpoints")
    max_failures: int = Field(3, ge=0, description="restarts of the training workers")
    step_deadline_s: float = Field(900, gt=0, description="seconds that one step may take")

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        per_round = self.workers * self.prompts_per_micro_batch
        if self.prompts_per_step % per_round:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} must be a multiple of workers x "
                f"prompts_per_micro_batch = {per_round}; change one of the three"
            )
        if self.checkpoint_steps % self.item_refresh_steps:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} must be a multiple of "
                f"item_refresh_steps {self.item_refresh_steps}, so that a restart repeats the run"
            )
        return self


class ProxyTrainingConfig(TrainingConfig):
    """As `training`, with a number of steps that does not follow from the subset."""

    steps: int | None = Field(30, ge=1, description="optimizer steps; null: from epochs")


class ProxyConfig(Section):
    """The proxy policy (method, section 2): GRPO on a small random subset."""

    samples: int = Field(256, ge=1)
    training: ProxyTrainingConfig = ProxyTrainingConfig()


class ScoringConfig(Section):
    """Rollouts, rewards and head features of the train split."""

    rollouts: int = Field(4, ge=1, description="rollouts per sample, G")
    shard_size: int = Field(64, ge=1, description="samples in one shard")
    scorers: int = Field(1, ge=1, description="parallel scoring actors")
    gpus_per_scorer: float = Field(0, ge=0)
    shard_deadline_s: float = Field(1800, gt=0, description="seconds without a finished shard")


class SelectionConfig(Section):
    """Value, diversity and curriculum (method, sections 3 to 6)."""

    budget: int | float = Field(
        0.1, gt=0, description="samples (1, 2, ...) or share of the corpus (below 1)"
    )
    learnability: Literal["gaussian", "gaussian_live"] = "gaussian"
    lift: bool = Field(False, description="learnability of the reward above chance")
    mu: float | None = Field(0.5, description="centre of the Gaussian; null: the median")
    sigma: float | None = Field(None, gt=0, description="width; null: the standard deviation")
    min_lift: float | None = Field(
        None, description="samples with a lower mean lift are not selected"
    )
    alpha: float = Field(1.0, ge=0, description="weight of learnability")
    fusion: Literal["sum", "rank"] = "sum"
    curriculum: Literal["grouped", "easy_to_hard", "hard_to_easy", "shuffled"] = "grouped"
    groups: int = Field(4, ge=1, description="groups of the curriculum, K")

    @field_validator("budget")
    @classmethod
    def _budget(cls, budget: int | float) -> int | float:
        if isinstance(budget, float) and budget >= 1:
            raise ValueError(
                f"budget {budget} is neither a share below 1 nor a whole number of samples; "
                f"write {int(budget)}, or 0.5 for half the corpus"
            )
        return budget

    def count(self, samples: int) -> int:
        """Budget in samples for a corpus of `samples`."""
        if isinstance(self.budget, int):
            return self.budget
        return max(1, round(self.budget * samples))


class EvaluationConfig(Section):
    """Full ranking of valid and test (method, section 9)."""

    cutoffs: tuple[PositiveInt, ...] = Field((5, 10, 20, 50), min_length=1)
    bootstrap: int = Field(1000, ge=1, description="resamples of the confidence intervals")
    policies: tuple[Literal["base", "proxy", "trained"], ...] = ("base", "trained")


class Config(Section):
    """A whole run."""

    run_dir: str = Field("runs/demo", description="where every artifact goes")
    seed: int = Field(42, ge=0)
    preset: Literal["minirec", "paper"] = "minirec"
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    proxy: ProxyConfig = ProxyConfig()
    scoring: ScoringConfig = ScoringConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        gpus = self.rollout.gpus_per_engine
        if self.rollout.tensor_parallel > max(1, gpus):
            raise ValueError(
                f"rollout.tensor_parallel {self.rollout.tensor_parallel} exceeds "
                f"rollout.gpus_per_engine {gpus:g}; raise gpus_per_engine or lower tensor_parallel"
            )
        both = {"training": self.training, "proxy.training": self.proxy.training}
        for name, training in both.items():
            if training.step_deadline_s <= self.rollout.deadline_s:
                raise ValueError(
                    f"{name}.step_deadline_s {training.step_deadline_s:g} must exceed "
                    f"rollout.deadline_s {self.rollout.deadline_s:g}: a step waits for its rollouts"
                )
        return self


def load(path: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply ``key=value`` overrides, and validate.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest valid one), wrong type,
            or an impossible combination.
    """
    given = _read_yaml(Path(path)) if path else {}
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r} has no '='; write key=value")
        try:
            _put(given, key, yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"override {override!r}: the value is not YAML") from None
    preset = given.get("preset", "minirec")
    file = PRESETS / f"{preset}.yaml"
    if not file.exists():
        names = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        raise ConfigError(f"preset {preset!r} is unknown; choose one of {', '.join(names)}")
    merged = _merge(_read_yaml(file), given)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def dump(config: Config) -> str:
    """YAML of a config with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ConfigError(f"config {path} is not valid YAML{line}; mend the file") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"config {path} holds a {type(data).__name__}; expected key: value lines")
    return data


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for name in parents:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[leaf] = value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def valid_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the config."""
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += valid_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting; {_advice(key)}"
    message = first["msg"].removeprefix("Value error, ")
    if not key or first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}={first['input']!r} is refused: {message.lower()}"


def _advice(unknown: str) -> str:
    """The key that was meant, or those of the section."""
    keys = valid_keys()
    *parents, leaf = unknown.split(".")
    prefix = "".join(f"{parent}." for parent in parents)
    inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    names = sorted({key.split(".")[0] for key in inside})
    meant = [key for key in keys if key.split(".")[-1] == leaf]
    meant += [prefix + near for near in difflib.get_close_matches(leaf, names, n=1)]
    if meant:
        return f"did you mean {meant[0]}?"
    return f"{prefix.rstrip('.') or 'the config'} has {', '.join(names)}"
