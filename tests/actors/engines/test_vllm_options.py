"""The arguments that vLLM gets."""

from actors.engines.engine import EngineSpec
from actors.engines.vllm import engine_options

MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_batched_tokens")


def memory(**changes):
    """The options that decide about memory, None where vLLM decides."""
    settings = {"model": "m", "max_model_len": 1000, "gpu_memory_utilization": 0.3} | changes
    options = engine_options(EngineSpec(**settings))
    return tuple(options.get(name) for name in MEMORY)


def test_a_cpu_has_a_fixed_cache_and_room_for_a_whole_call():
    assert memory() == (None, 128 << 20, 32_768)
    assert memory(kv_cache_mib=64, prompts_per_call=50) == (None, 64 << 20, 50_000)


def test_a_gpu_profiles_its_memory_unless_the_cache_is_given():
    assert memory(gpus=1) == (0.3, None, None)
    assert memory(gpus=0.5, kv_cache_mib=2048) == (0.3, 2048 << 20, None)


def test_lora_takes_the_next_rank_that_vllm_has():
    spec = EngineSpec(model="m", max_model_len=100, adapter="lora", lora_rank=9)
    assert engine_options(spec)["max_lora_rank"] == 16
    assert "enable_lora" not in engine_options(EngineSpec(model="m", max_model_len=100))


def test_several_gpus_are_tensor_parallel():
    options = engine_options(EngineSpec(model="m", max_model_len=9, gpus=2, tensor_parallel=2))
    assert options["tensor_parallel_size"] == 2
    assert options["distributed_executor_backend"] == "mp"
