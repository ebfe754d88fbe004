"""A rollout engine: prompts of token ids in, completions with their logprobs out.

Two engines stand behind one interface. `VllmEngine` is the default; `TransformersEngine` serves
where vLLM cannot run and is the reference in tests. Both stop at the same string, end at the same
tokens, and report the logprob of each chosen token under the sampling temperature, so that either
can feed the trainer. The random numbers of a rollout come from its own seed and from nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from minirec.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import torch

    from minirec.config import Config, RolloutConfig

STOP = "<answer>"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM has kernels for


@dataclass(frozen=True)
class Adapter:
    """A peft LoRA folder. `version` is unique within a run and stage, and so is `path`."""

    version: int
    path: str


@dataclass(frozen=True)
class Completion:
    """One rollout. `logprobs[t]` is that of `token_ids[t]`; `text` ends at the stop string.

    `stopped` tells whether the stop string was reached (its tokens are part of the completion).
    An end-of-sequence token is part of `token_ids` but not of `text`.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    stopped: bool


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine needs; picklable. `gpus` 0 means the CPU with `threads` threads."""

    model: str
    max_model_len: int
    dtype: str = "float32"
    trust_remote_code: bool = False
    stop: str = STOP
    temperature: float = 1.0
    max_new_tokens: int = 24
    adapter: str = "merged"
    lora_rank: int = 16
    lora_alpha: float = 32.0
    kv_cache_mib: int = 128
    gpu_memory_utilization: float = 0.4
    tensor_parallel: int = 1
    gpus: float = 0
    threads: int = 1


class RolloutEngine(Protocol):
    """What the pool calls. An engine is used by one caller at a time."""

    def generate(
        self,
        prompts: list[list[int]],
        *,
        n: int,
        seeds: list[int],
        greedy: bool = False,
        adapter: Adapter | None = None,
    ) -> list[list[Completion]]:
        """`n` completions for each prompt; rollout j of prompt i is drawn with `seeds[i] + j`.

        The adapter is loaded first if it is not the active one, so an engine that was restarted
        answers like one that was not. `greedy` takes the likeliest token and needs ``n=1``; its
        logprobs are those at temperature 1.
        """

    def load_adapter(self, adapter: Adapter | None) -> None:
        """Make `adapter` the active one (None: the base weights); nothing if it is already."""

    def probe(self) -> dict[str, Any]:
        """Generate one token; returns the engine's name and the token."""

    def close(self) -> None:
        """Free the model."""


def resolve_engine(rollout: RolloutConfig) -> str:
    """``vllm`` or ``transformers``; auto takes vLLM where it is installed."""
    if rollout.engine != "auto":
        return rollout.engine
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def resolve_adapter(rollout: RolloutConfig) -> str:
    """``lora`` or ``merged``; auto merges on the CPU, where an active LoRA halves the speed."""
    if rollout.adapter != "auto":
        return rollout.adapter
    return "lora" if rollout.gpus_per_engine else "merged"


def resolve_threads(config: Config) -> int:
    """Threads of a CPU engine: its share of the cores.

    The demo model gets one: measured, two threads are slower for it, and much slower when other
    processes want the cores.
    """
    if config.model.name == "demo":
        return 1
    return max(1, (os.cpu_count() or 1) // config.rollout.engines)


def engine_spec(config: Config, model_path: str, max_model_len: int) -> EngineSpec:
    """The engine of a run: `model_path` is the model's folder or hub name."""
    rollout, model = config.rollout, config.model
    adapter = resolve_adapter(rollout)
    if adapter == "merged" and rollout.tensor_parallel > 1:
        raise ConfigError(
            f"rollout.adapter=merged cannot reach {rollout.tensor_parallel} tensor-parallel "
            "workers; set rollout.adapter=lora or rollout.tensor_parallel=1"
        )
    if adapter == "lora" and model.lora_rank > LORA_RANKS[-1]:
        raise ConfigError(
            f"model.lora_rank {model.lora_rank} exceeds {LORA_RANKS[-1]}, the most that vLLM "
            "serves as LoRA; lower it or set rollout.adapter=merged"
        )
    return EngineSpec(
        model=str(model_path),
        max_model_len=max_model_len,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        temperature=rollout.temperature,
        max_new_tokens=rollout.max_new_tokens,
        adapter=adapter,
        lora_rank=model.lora_rank,
        lora_alpha=model.lora_alpha,
        kv_cache_mib=rollout.kv_cache_mib,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_parallel,
        gpus=rollout.gpus_per_engine,
        threads=resolve_threads(config),
    )


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Variables that must stand before the engine's process imports torch or vLLM."""
    # One process per engine: no orphans after a kill, and weights are handed over by reference.
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_PLUGINS": "",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if Path(spec.model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if not spec.gpus:
        variables |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",  # else the first logprobs compile for many seconds
            "OMP_NUM_THREADS": str(spec.threads),
        }
    return variables


class VllmEngine:
    """vLLM in this process. Expects the variables of `engine_environment` to be set."""

    def __init__(self, spec: EngineSpec) -> None:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override kv_cache_memory_bytes
        from vllm import LLM

        options: dict[str, Any] = {"gpu_memory_utilization": spec.gpu_memory_utilization}
        if not spec.gpus:
            options = {"kv_cache_memory_bytes": spec.kv_cache_mib << 20, "enforce_eager": True}
        if spec.tensor_parallel > 1:
            options |= {"distributed_executor_backend": "mp"}
        if spec.adapter == "lora":
            rank = next(rank for rank in LORA_RANKS if rank >= spec.lora_rank)
            options |= {"enable_lora": True, "max_loras": 2, "max_lora_rank": rank}
        self.spec = spec
        self.vocabulary = _Vocabulary(spec)
        self._active: Adapter | None = None
        self._lora: Any = None
        self._loaded = 0
        self._weights: dict[str, torch.Tensor] | None = None
        self._llm = LLM(
            model=spec.model,
            dtype=spec.dtype,
            trust_remote_code=spec.trust_remote_code,
            load_format="safetensors",
            max_model_len=spec.max_model_len,
            # A seeded request dies on the CPU when its prefill is split: room for a whole batch.
            max_num_batched_tokens=max(32_768, spec.max_model_len),
            tensor_parallel_size=spec.tensor_parallel,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            **options,
        )

    def generate(
        self,
        prompts: list[list[int]],
        *,
        n: int,
        seeds: list[int],
        greedy: bool = False,
        adapter: Adapter | None = None,
    ) -> list[list[Completion]]:
        """See `RolloutEngine.generate`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        _check_call(self.spec, prompts, n, seeds, greedy)
        self.load_adapter(adapter)
        if not prompts:
            return []
        parameters = [
            SamplingParams(
                n=n,
                seed=seed,
                temperature=0.0 if greedy else self.spec.temperature,
                top_p=1.0,
                max_tokens=self.spec.max_new_tokens,
                stop=[self.spec.stop],
                include_stop_str_in_output=True,
                stop_token_ids=sorted(self.vocabulary.final),
                skip_special_tokens=False,  # else a special `<answer>` is not seen in the text
                spaces_between_special_tokens=False,
                logprobs=0,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for seed in seeds
        ]
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            parameters,
            use_tqdm=False,
            lora_request=self._lora,
        )
        return [
            [self._completion(one) for one in sorted(output.outputs, key=lambda one: one.index)]
            for output in outputs
        ]

    def _completion(self, output: Any) -> Completion:
        tokens = list(output.token_ids)
        chosen = [at[token].logprob for token, at in zip(tokens, output.logprobs, strict=True)]
        return self.vocabulary.completion(tokens, chosen)

    def load_adapter(self, adapter: Adapter | None) -> None:
        """See `RolloutEngine.load_adapter`."""
        if adapter == self._active:
            return
        if self.spec.adapter == "lora":
            self._swap(adapter)
        else:
            self._merge(adapter)
        self._active = adapter

    def _swap(self, adapter: Adapter | None) -> None:
        from vllm.lora.request import LoRARequest

        # A new name and a new id for each load: the same one again gives stale weights, or the
        # prefix cache of the old ones.
        old, self._lora = self._lora, None
        if adapter is not None:
            self._loaded += 1
            name = f"version-{adapter.version}-load-{self._loaded}"
            self._lora = LoRARequest(name, self._loaded, adapter.path)
            self._llm.llm_engine.add_lora(self._lora)
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)

    def _merge(self, adapter: Adapter | None) -> None:
        if self._weights is None:
            self._weights = base_weights(self.spec.model)
        updates = lora_updates(adapter.path) if adapter else {}
        # Until the reload is through, no version is active: an error must not leave half of one.
        self._active = Adapter(-1, "half loaded")
        weights = merged_weights(self._weights, updates)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()

    def probe(self) -> dict[str, Any]:
        """See `RolloutEngine.probe`."""
        from vllm import SamplingParams

        output = self._llm.generate(
            [{"prompt_token_ids": [0]}],
            SamplingParams(max_tokens=1, temperature=0.0, detokenize=False),
            use_tqdm=False,
        )
        return {"engine": "vllm", "token": output[0].outputs[0].token_ids[0]}

    def close(self) -> None:
        """See `RolloutEngine.close`."""
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = self._weights = None


class TransformersEngine:
    """transformers in this process: left-padded prompts, one KV cache, sampling by inversion."""

    def __init__(self, spec: EngineSpec) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.spec = spec
        self.vocabulary = _Vocabulary(spec)
        self.device = torch.device("cuda" if spec.gpus else "cpu")
        self._active: Adapter | None = None
        self._base: dict[str, torch.Tensor] = {}  # the weights that an adapter has changed
        self._model = AutoModelForCausalLM.from_pretrained(
            spec.model,
            dtype=getattr(torch, spec.dtype),
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
        )
        self._model.to(self.device).eval().requires_grad_(False)

    def generate(
        self,
        prompts: list[list[int]],
        *,
        n: int,
        seeds: list[int],
        greedy: bool = False,
        adapter: Adapter | None = None,
    ) -> list[list[Completion]]:
        """See `RolloutEngine.generate`.

        Every rollout draws its uniforms from a generator of its own, so that a batch changes a
        result only where rounding (1e-7) moves a probability across a drawn number.
        """
        import torch

        _check_call(self.spec, prompts, n, seeds, greedy)
        self.load_adapter(adapter)
        if not prompts:
            return []
        width = self.spec.max_new_tokens
        uniforms = torch.stack(
            [
                torch.rand(width, generator=_generator(seed + j), dtype=torch.float64)
                for seed in seeds
                for j in range(n)
            ]
        ).to(self.device)
        tokens, logprobs = self._sample(prompts, n, None if greedy else uniforms)
        rows = [self.vocabulary.completion(*row) for row in zip(tokens, logprobs, strict=True)]
        return [rows[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _sample(
        self, prompts: list[list[int]], n: int, uniforms: torch.Tensor | None
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and logprobs of ``len(prompts) * n`` rollouts; `uniforms` None is greedy."""
        import torch

        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            mask[i, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        tokens: list[list[int]] = [[] for _ in range(len(prompts) * n)]
        logprobs: list[list[float]] = [[] for _ in tokens]
        rows = list(range(len(tokens)))  # the rollout of each row of the batch
        with torch.inference_mode():
            out = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
            )
            # The group of a prompt shares its prefill.
            cache = out.past_key_values
            cache.batch_repeat_interleave(n)
            logits = out.logits[:, -1].repeat_interleave(n, 0)
            mask, last = mask.repeat_interleave(n, 0), positions[:, -1:].repeat_interleave(n, 0)
            for step in range(self.spec.max_new_tokens):
                drawn = None if uniforms is None else uniforms[rows, step]
                chosen, chosen_logprobs = self._draw(logits, drawn)
                pairs = zip(chosen.tolist(), chosen_logprobs.tolist(), strict=True)
                alive = []
                for row, (token, logprob) in enumerate(pairs):
                    rollout = rows[row]
                    if self.vocabulary.ended(tokens[rollout]):
                        continue
                    tokens[rollout].append(token)
                    logprobs[rollout].append(logprob)
                    if not self.vocabulary.ended(tokens[rollout]):
                        alive.append(row)
                if not alive or step + 1 == self.spec.max_new_tokens:
                    break
                if len(alive) <= len(rows) // 2:
                    keep = torch.tensor(alive, device=self.device)
                    cache.batch_select_indices(keep)
                    chosen, mask, last = chosen[keep], mask[keep], last[keep]
                    rows = [rows[row] for row in alive]
                last = last + 1
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
                logits = self._model(
                    input_ids=chosen[:, None],
                    attention_mask=mask,
                    position_ids=last,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
        return tokens, logprobs

    def _draw(
        self, logits: torch.Tensor, uniforms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chosen tokens (B,) and their logprobs (B,) from logits (B, V) and uniforms (B,)."""
        import torch

        if uniforms is None:
            logprobs = torch.log_softmax(logits.float(), -1)
            chosen = logprobs.argmax(-1)
        else:
            logprobs = torch.log_softmax(logits.float() / self.spec.temperature, -1)
            cumulative = logprobs.double().exp().cumsum(-1)
            reached = (uniforms * cumulative[:, -1])[:, None]
            chosen = torch.searchsorted(cumulative, reached, right=True)[:, 0]
            chosen = chosen.clamp(max=logits.shape[-1] - 1)
        return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]

    def load_adapter(self, adapter: Adapter | None) -> None:
        """See `RolloutEngine.load_adapter`."""
        if adapter == self._active:
            return
        updates = lora_updates(adapter.path) if adapter else {}
        parameters = dict(self._model.named_parameters())
        _check_targets(updates, parameters)
        for name in updates:
            self._base.setdefault(name, parameters[name].detach().clone())
        for name, weight in merged_weights(self._base, updates):
            parameters[name].data.copy_(weight)
        self._active = adapter

    def probe(self) -> dict[str, Any]:
        """See `RolloutEngine.probe`."""
        import torch

        with torch.inference_mode():
            logits = self._model(torch.zeros(1, 1, dtype=torch.long, device=self.device)).logits
        return {"engine": "transformers", "token": int(logits[0, -1].argmax())}

    def close(self) -> None:
        """See `RolloutEngine.close`."""
        self._model = None
        self._base = {}


class _Vocabulary:
    """What ends a rollout, and its text: one rule for both engines."""

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
        self._tail = len(spec.stop.encode())  # each token of the stop string has a byte or more

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


def base_weights(model: str) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint, by its name there; `model` is a folder or a hub name."""
    from huggingface_hub import snapshot_download
    from safetensors.torch import load_file

    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json"]))
    weights: dict[str, torch.Tensor] = {}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        weights |= load_file(folder / name)
    config = json.loads((folder / "config.json").read_text())
    # vLLM wants the head even where it is tied and therefore absent from the file.
    embedding = weights.get("model.embed_tokens.weight")
    if config.get("tie_word_embeddings") and embedding is not None:
        weights.setdefault("lm_head.weight", embedding)
    return weights


def lora_updates(path: str) -> dict[str, torch.Tensor]:
    """``(alpha / r) B A`` in float32 of a peft folder, by the name of the weight it is added to."""
    from safetensors.torch import load_file

    folder = Path(path)
    if not (folder / "adapter_model.safetensors").exists():
        raise EngineError(f"adapter {path} has no adapter_model.safetensors; publish it first")
    # Read without peft, whose import would cost an engine several seconds.
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("use_dora") or config.get("modules_to_save") or config["bias"] != "none":
        raise EngineError(
            f"adapter {path} has DoRA, bias or whole modules, which cannot be merged; "
            "set rollout.adapter=lora"
        )
    patterns = config.get("alpha_pattern") or {}
    tensors = load_file(folder / "adapter_model.safetensors")
    updates = {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        b = tensors[f"{module}.lora_B.weight"]
        module = module.removeprefix("base_model.model.")
        own = [alpha for name, alpha in patterns.items() if re.match(rf"(.*\.)?({name})$", module)]
        alpha, rank = (own or [config["lora_alpha"]])[0], a.shape[0]
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        update = scale * (b.float() @ a.float())
        updates[f"{module}.weight"] = update.T if config.get("fan_in_fan_out") else update
    if not updates:
        raise EngineError(f"adapter {path} has no LoRA matrices of linear layers")
    return updates


def merged_weights(
    base: dict[str, torch.Tensor], updates: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight of `base` with its update, added in float32 and rounded once."""
    _check_targets(updates, base)

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in base.items():
            update = updates.get(name)
            if update is None:
                yield name, weight
            else:
                yield name, (weight.float() + update.to(weight.device)).to(weight.dtype)

    return weights()


def _check_targets(updates: dict[str, Any], weights: dict[str, Any]) -> None:
    missing = sorted(updates.keys() - weights.keys())
    if missing:
        raise EngineError(
            f"the adapter changes {missing[0]} ({len(missing)} such), which the model's checkpoint "
            "does not name; set rollout.adapter=lora"
        )


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _check_call(
    spec: EngineSpec, prompts: list[list[int]], n: int, seeds: list[int], greedy: bool
) -> None:
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts came with {len(seeds)} seeds; give one each")
    if n < 1 or (greedy and n != 1):
        raise ValueError(f"n={n} with greedy={greedy}: n is 1 or more, and 1 when greedy")
    room = spec.max_model_len - spec.max_new_tokens
    lengths = [len(prompt) for prompt in prompts]
    if prompts and not 1 <= min(lengths) <= max(lengths) <= room:
        raise ValueError(
            f"prompts have {min(lengths)} to {max(lengths)} tokens; 1 to {room} fit into "
            f"max_model_len {spec.max_model_len} beside {spec.max_new_tokens} new ones"
        )
