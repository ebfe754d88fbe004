"""The rollout engine that uses vLLM, with adapters as LoRA or merged into the weights."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from actors.engines.engine import (
    HALF_LOADED,
    LORA_RANKS,
    Adapter,
    Completion,
    EngineSpec,
    Vocabulary,
    check_call,
)
from actors.engines.merging import base_weights, check_targets, lora_updates, merged_weights

if TYPE_CHECKING:
    import torch


CPU_KV_CACHE_MIB = 128


def engine_options(spec: EngineSpec) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``."""
    options: dict[str, Any] = {
        "model": spec.model,
        "dtype": spec.dtype,
        "trust_remote_code": spec.trust_remote_code,
        "load_format": "safetensors",
        "max_model_len": spec.max_model_len,
        "tensor_parallel_size": spec.tensor_parallel,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
    }
    cache = spec.kv_cache_mib
    if spec.gpus:
        # vLLM compares this share with the free memory, also where the cache has a fixed size.
        options["gpu_memory_utilization"] = spec.gpu_memory_utilization
    else:
        # On the CPU, a seeded request fails if its prefill is split: a batch must fit.
        batched = max(32_768, spec.prompts_per_call * spec.max_model_len)
        options |= {"enforce_eager": True, "max_num_batched_tokens": batched}
        cache = cache or CPU_KV_CACHE_MIB
    if cache:
        options["kv_cache_memory_bytes"] = cache << 20
    if spec.tensor_parallel > 1:
        options["distributed_executor_backend"] = "mp"
    if spec.adapter == "lora":
        rank = next(rank for rank in LORA_RANKS if rank >= spec.lora_rank)
        options |= {"enable_lora": True, "max_loras": 2, "max_lora_rank": rank}
    return options


class VllmEngine:
    """A `RolloutEngine`. The variables of `engine_environment` must be set."""

    def __init__(self, spec: EngineSpec) -> None:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override kv_cache_memory_bytes
        from vllm import LLM

        self.spec = spec
        self.vocabulary = Vocabulary(spec)
        self._active: Adapter | None = None
        self._lora: Any = None
        self._loaded = 0
        self._weights: dict[str, torch.Tensor] | None = None
        with _rendezvous(spec.scratch):
            self._llm = LLM(**engine_options(spec))

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
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        most = check_call(self.spec, prompts, n, seeds, greedy, limits)
        self.load_adapter(adapter)
        if not prompts:
            return []
        parameters = [
            SamplingParams(
                n=n,
                seed=seed,
                temperature=0.0 if greedy else self.spec.temperature,
                top_p=1.0,
                max_tokens=new,
                stop=[self.spec.stop],
                include_stop_str_in_output=True,
                stop_token_ids=sorted(self.vocabulary.final),
                skip_special_tokens=False,  # a special `<answer>` must be in the text
                spaces_between_special_tokens=False,
                logprobs=0,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for seed, new in zip(seeds, most, strict=True)
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
        if adapter == self._active:
            return
        if self.spec.adapter == "lora":
            self._swap(adapter)
        else:
            self._merge(adapter)
        self._active = adapter

    def _swap(self, adapter: Adapter | None) -> None:
        from vllm.lora.request import LoRARequest

        # Each load gets a new name and id: vLLM would answer a known one from the old weights or
        # their prefix cache.
        old, new = self._lora, None
        if adapter is not None:
            self._loaded += 1
            new = LoRARequest(f"load-{self._loaded}", self._loaded, adapter.path)
            self._llm.llm_engine.add_lora(new)
        self._lora = new
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)

    def _merge(self, adapter: Adapter | None) -> None:
        if self._weights is None:
            self._weights = base_weights(self.spec.model)
        updates = lora_updates(adapter.path) if adapter else {}
        check_targets(updates, self._weights)
        # An error may leave a mixture of two versions, so none is active until the reload ends.
        self._active = HALF_LOADED
        weights = merged_weights(self._weights, updates)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()

    def probe(self) -> dict[str, Any]:
        from vllm import SamplingParams

        output = self._llm.generate(
            [{"prompt_token_ids": [0]}],
            SamplingParams(max_tokens=1, temperature=0.0, detokenize=False),
            use_tqdm=False,
        )
        return {"engine": "vllm", "token": output[0].outputs[0].token_ids[0]}


@contextlib.contextmanager
def _rendezvous(prefix: str) -> Iterator[None]:
    """Give vLLM a new temporary folder for the file through which its processes connect.

    The engine needs the file until it ends. After a kill, `actors.pool.pool` removes the folder.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cache_dir()  # torch remembers the folder: it must choose before tempdir changes
    before, tempfile.tempdir = tempfile.tempdir, tempfile.mkdtemp(prefix=prefix)
    try:
        yield
    finally:
        tempfile.tempdir = before
