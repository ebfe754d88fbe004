"""A rollout engine: prompts of token ids in, completions with their logprobs out.

`actors.engines.vllm` is the default. `actors.engines.transformers` runs where vLLM is not installed
and is the reference in tests. Both stop at the same string, end at the same tokens, and report the
log-probability of each chosen token at the sampling temperature. The random numbers of a rollout
depend only on its own seed.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from minirec.corpus.prompts import ANSWER
from minirec.errors import ConfigError
from minirec.resources.estimates import local_shape

if TYPE_CHECKING:
    from minirec.config.run import Config
    from minirec.resources.allocation import Shape

SMALL_MODEL = 200_000_000
"""Parameters below which transformers is faster than vLLM on CPUs (docs/lab/training-speed.md)."""
CPU_PROMPTS = 8
"""Prompts of a call on CPUs: small calls keep several engines busy (docs/lab/training-speed.md)."""
GPU_PROMPTS = 64
"""The most prompts of a call that ``rollout.prompts_per_call: auto`` sends to a GPU."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM has kernels for


@dataclass(frozen=True)
class Adapter:
    """A peft LoRA folder. A path never gets other weights, so engines may cache by path."""

    path: str


HALF_LOADED = Adapter("half loaded")  # not equal to any real adapter


@dataclass(frozen=True)
class Completion:
    """One rollout. `logprobs[t]` belongs to `token_ids[t]`.

    `text` ends with the stop string if `stopped`. An end-of-sequence token is part of `token_ids`
    but not of `text`.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    stopped: bool


FORCED = Completion("", [], [], stopped=False)
"""A completion that no engine wrote: the answer marker follows the prompt directly."""


@dataclass(frozen=True)
class EngineSpec:
    """The settings of an engine; picklable. With 0 `gpus` it runs on `threads` CPU threads."""

    model: str
    max_model_len: int
    prompts_per_call: int = 32
    dtype: str = "float32"
    trust_remote_code: bool = False
    stop: str = ANSWER
    temperature: float = 1.0
    max_new_tokens: int = 24
    adapter: str = "merged"
    lora_rank: int = 16
    kv_cache_mib: int | None = None
    gpu_memory_utilization: float = 0.4
    tensor_parallel: int = 1
    gpus: float = 0
    threads: int = 1
    scratch: str = "minirec-"  # prefix of temporary folders


class RolloutEngine(Protocol):
    """What the pool calls. Calls of an engine never overlap."""

    def generate(
        self,
        prompts: list[list[int]],
        *,
        n: int,
        seeds: list[int],
        greedy: bool = False,
        limits: list[int] | None = None,
        adapter: Adapter | None = None,
    ) -> list[list[Completion]]:
        """`n` completions for each prompt; rollout j of prompt i uses seed `seeds[i] + j`.

        Those of prompt i have at most `limits[i]` tokens; None: `EngineSpec.max_new_tokens`.

        The engine first loads the adapter if it is not active, so a restarted engine gives the
        same answer. `greedy` takes the likeliest token, needs ``n=1``, and gives log-probabilities
        at temperature 1.

        Raises:
            ValueError: as `check_call`.
            EngineError: the adapter cannot be loaded.
        """

    def load_adapter(self, adapter: Adapter | None) -> None:
        """Load `adapter` (None: the base weights) unless it is active."""

    def probe(self) -> dict[str, Any]:
        """Generate one token; returns the engine's name and the token."""


def resolve_engine(config: Config) -> str:
    """``vllm``, ``transformers`` or ``none``, see `engine_choice`."""
    return engine_choice(config)[0]


def engine_choice(config: Config) -> tuple[str, str]:
    """``vllm`` or ``transformers``, and the reason for it; ``none`` if the policy writes nothing.

    auto takes the engine that is faster for the model. It depends only on the settings and on the
    model's folder or GGUF file, not on the cluster, because two engines draw different tokens. So a
    name of the hub counts as large, whether or not it has been downloaded.
    """
    asked = config.rollout.engine
    if not config.rollout.analysis:
        return "none", "rollout.max_new_tokens=0: the policy ranks right after the prompt"
    if asked != "auto":
        return asked, f"rollout.engine={asked}"
    if not importlib.util.find_spec("vllm"):
        return "transformers", "vLLM is not installed"
    if config.resources.gpus_per_engine:
        return "vllm", "the engines have GPUs"
    shape = local_shape(config.model)
    if shape is None:
        return "vllm", "the model is not a folder, so it counts as large"
    limit, millions = SMALL_MODEL // 10**6, f"{shape.parameters / 1e6:,.1f} million parameters"
    if shape.parameters < SMALL_MODEL:
        return "transformers", f"faster on CPUs below {limit} million parameters, here {millions}"
    return "vllm", f"taken on CPUs from {limit} million parameters on, here {millions}"


def resolve_adapter(config: Config) -> str:
    """``lora`` or ``merged``; auto merges on the CPU, where an active LoRA halves the speed.

    It depends only on the settings, not on the cluster, because it changes the last digits.
    """
    if config.rollout.adapter != "auto":
        return config.rollout.adapter
    return "lora" if config.resources.gpus_per_engine else "merged"


def resolve_prompts_per_call(config: Config) -> int | None:
    """Prompts of a generate call; None: a step is cut into equal calls, one for each engine.

    The size of a call changes the last digits of logits. On CPUs it must not depend on the number
    of engines, so that a run gives the same bytes with any. On GPUs the bytes of a training vary
    anyway, and one engine would write many small calls slowly.
    """
    if config.rollout.prompts_per_call != "auto":
        return config.rollout.prompts_per_call
    return None if config.resources.gpus_per_engine else CPU_PROMPTS


def most_prompts_per_call(config: Config) -> int:
    """The most prompts that an engine gets in one call."""
    return resolve_prompts_per_call(config) or GPU_PROMPTS


def engine_spec(config: Config, model_path: str, max_model_len: int, *, shape: Shape) -> EngineSpec:
    """The engine settings of a run; `model_path` is a folder or hub name.

    Raises:
        ConfigError: the adapter setting does not work with this shape or LoRA rank.
    """
    rollout, model = config.rollout, config.model
    adapter = resolve_adapter(config)
    tensor_parallel = max(1, int(shape.gpus))
    if adapter == "merged" and tensor_parallel > 1:
        raise ConfigError(
            f"rollout.adapter=merged does not work with {tensor_parallel} tensor-parallel "
            "workers; set rollout.adapter=lora or resources.gpus_per_engine=1"
        )
    if adapter == "lora" and model.lora_rank > LORA_RANKS[-1]:
        raise ConfigError(
            f"model.lora_rank {model.lora_rank} exceeds {LORA_RANKS[-1]}, the largest rank that "
            "vLLM supports; lower it or set rollout.adapter=merged"
        )
    return EngineSpec(
        model=str(model_path),
        max_model_len=max_model_len,
        prompts_per_call=most_prompts_per_call(config),
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        temperature=rollout.temperature,
        max_new_tokens=rollout.max_new_tokens,
        adapter=adapter,
        lora_rank=model.lora_rank,
        kv_cache_mib=rollout.kv_cache_mib,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=tensor_parallel,
        gpus=shape.gpus,
        threads=shape.cpus,
    )


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables that must be set before the engine imports torch or vLLM."""
    # One process per engine: a kill leaves no orphans, and weights are not copied.
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_PLUGINS": "",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "://" in spec.model or Path(spec.model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if not spec.gpus:
        variables |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",  # compiling the first logprobs would take many seconds
            "OMP_NUM_THREADS": str(spec.threads),
        }
    return variables


class Vocabulary:
    """Where a rollout ends and what its text is, for both engines."""

    def __init__(self, spec: EngineSpec) -> None:
        from transformers import AutoTokenizer, GenerationConfig

        self.stop = spec.stop
        self.tokenizer = AutoTokenizer.from_pretrained(
            spec.model, trust_remote_code=spec.trust_remote_code
        )
        end = self.tokenizer.eos_token_id
        self.eos = set() if end is None else {end}
        try:
            more = GenerationConfig.from_pretrained(spec.model).eos_token_id
        except OSError:  # most small models have no generation_config.json
            more = None
        self.eos |= set(more if isinstance(more, list) else [more]) - {None}
        stop_ids = self.tokenizer.encode(spec.stop, add_special_tokens=False)
        self.final = self.eos | (set(stop_ids) if len(stop_ids) == 1 else set())
        self._tail = len(spec.stop.encode())  # a token has at least one byte

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def ended(self, tokens: list[int]) -> bool:
        """Whether the last token ended the rollout."""
        if not tokens:
            return False
        return tokens[-1] in self.final or self.stop in self.decode(tokens[-self._tail :])

    def completion(self, tokens: list[int], logprobs: list[float]) -> Completion:
        shown = tokens[:-1] if tokens and tokens[-1] in self.eos else tokens
        before, stop, _ = self.decode(shown).partition(self.stop)
        return Completion(before + stop, tokens, logprobs, stopped=bool(stop))


def check_call(
    spec: EngineSpec,
    prompts: list[list[int]],
    n: int,
    seeds: list[int],
    greedy: bool,
    limits: list[int] | None = None,
) -> list[int]:
    """The most tokens of a completion of each prompt.

    Raises:
        ValueError: the arguments of `RolloutEngine.generate` are not valid.
    """
    if len(seeds) != len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts came with {len(seeds)} seeds; give one seed for each"
        )
    if n < 1 or (greedy and n != 1):
        raise ValueError(f"n={n} with greedy={greedy}; n must be at least 1, and 1 if greedy")
    most = [spec.max_new_tokens] * len(prompts) if limits is None else limits
    if len(most) != len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts came with {len(most)} limits; give one limit for each"
        )
    wrong = [one for one in most if not 1 <= one <= spec.max_new_tokens]
    if wrong:
        raise ValueError(
            f"a completion was limited to {wrong[0]} tokens; a limit is at least 1, and at most "
            f"max_new_tokens {spec.max_new_tokens}"
        )
    for prompt, new in zip(prompts, most, strict=True):
        if not 1 <= len(prompt) <= spec.max_model_len - new:
            raise ValueError(
                f"a prompt has {len(prompt)} tokens; 1 to {spec.max_model_len - new} fit into "
                f"max_model_len {spec.max_model_len} with {new} new tokens"
            )
    return most
