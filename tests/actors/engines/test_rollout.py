import dataclasses
import importlib.util
import json
import os
import signal
import threading
import time

import pytest
import ray
import torch
from helpers.tiny_model import RANK, build_adapter, build_model, policy, prompts, teacher_forced

from actors.engines import transformers
from actors.engines.engine import (
    Adapter,
    EngineSpec,
    engine_choice,
    engine_spec,
    resolve_adapter,
    resolve_engine,
)
from actors.engines.merging import merged_weights
from actors.engines.transformers import TransformersEngine
from actors.pool.actor import Call
from actors.pool.pool import Pool
from minirec.config.model import ModelConfig, RolloutConfig
from minirec.config.resources import ResourcesConfig
from minirec.config.run import Config
from minirec.errors import ConfigError, EngineError
from minirec.resources.allocation import Shape


def vllm_test(test):
    skip = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is absent")
    for mark in (skip, pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [build_adapter(model, folder / str(version), version) for version in (1, 2)]


@pytest.fixture(scope="module")
def spec(model):
    return EngineSpec(model=model, max_model_len=320, temperature=0.8, lora_rank=RANK)


@pytest.fixture(scope="module")
def engine(spec):
    return TransformersEngine(spec)


def flat(groups):
    return [one for group in groups for one in group]


def assert_logprobs_equal(a, b):
    assert [one.token_ids for one in flat(a)] == [one.token_ids for one in flat(b)]
    for one, other in zip(flat(a), flat(b), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def assert_logprobs_are_the_models(groups, asked, model, adapter, temperature):
    for prompt, group in zip(asked, groups, strict=True):
        for one in group:
            expected = teacher_forced(model, adapter, prompt, one.token_ids, temperature)
            assert one.logprobs == pytest.approx(expected, abs=1e-4)


def assert_endings(groups, width):
    """Each rollout ends at `<answer>` (kept), at the end of sequence (dropped), or at the limit."""
    for one in flat(groups):
        assert len(one.token_ids) == len(one.logprobs)
        assert one.stopped == (one.token_ids[-1] == 1) == one.text.endswith("<answer>")
        assert one.stopped or one.token_ids[-1] == 0 or len(one.token_ids) == width
        assert not {0, 1} & set(one.token_ids[:-1])
        assert "<|endoftext|>" not in one.text
    assert any(one.stopped for one in flat(groups))
    assert any(one.token_ids[-1] == 0 for one in flat(groups))


def test_transformers_logprobs_and_endings(engine, spec, model, adapters):
    asked = prompts(8, 40) + [prompt[:7] for prompt in prompts(8, 40)]
    for adapter in (None, *adapters, None):
        groups = engine.generate(asked, n=6, seeds=[100 * i for i in range(16)], adapter=adapter)
        assert_logprobs_are_the_models(groups[::5], asked[::5], model, adapter, spec.temperature)
        if adapter is None:
            assert_endings(groups, spec.max_new_tokens)


def test_transformers_results_do_not_depend_on_the_batch(engine):
    asked = [prompt[: 5 + 6 * i] for i, prompt in enumerate(prompts(6, 40))]
    seeds = [7, 7, 1000, 2000, 3000, 4000]
    together = engine.generate(asked, n=4, seeds=seeds)
    for prompt, seed, group in zip(asked, seeds, together, strict=True):
        assert_logprobs_equal(engine.generate([prompt], n=4, seeds=[seed]), [group])
        # Rollout j uses seed + j.
        assert_logprobs_equal(engine.generate([prompt], n=1, seeds=[seed + 2]), [group[2:3]])


def limited(one, limit):
    return dataclasses.replace(one, token_ids=one.token_ids[:limit], logprobs=one.logprobs[:limit])


def test_a_limit_cuts_completions_and_changes_no_token_before(engine, spec):
    asked = [prompt[: 5 + 6 * i] for i, prompt in enumerate(prompts(6, 40))]
    seeds, limits = [100 * i for i in range(6)], [1, spec.max_new_tokens, 3, 5, 2, 9]
    free = engine.generate(asked, n=4, seeds=seeds)
    cut = engine.generate(asked, n=4, seeds=seeds, limits=limits)
    for wide, group, limit in zip(free, cut, limits, strict=True):
        assert_logprobs_equal([[limited(one, limit) for one in wide]], [group])
    # Less room for new tokens is more room for the prompt.
    (long,) = engine.generate([[5] * 319], n=1, seeds=[0], limits=[1])
    assert len(long[0].token_ids) == 1


def test_a_stop_string_of_several_tokens(engine, spec):
    asked, seeds = prompts(16, 30), list(range(16))
    free = flat(engine.generate(asked, n=1, seeds=seeds))
    decode = engine.vocabulary.decode
    # Three tokens in a row that are ASCII text and do not occur before.
    which, end, text = next(
        (i, t, text)
        for i, one in enumerate(free)
        for t in range(4, len(one.token_ids))
        if (text := decode(one.token_ids[t - 3 : t])).isascii()
        and text not in decode(one.token_ids[: t - 1])
    )
    with_stop = TransformersEngine(dataclasses.replace(spec, stop=text))
    stopped = flat(with_stop.generate(asked, n=1, seeds=seeds))[which]
    assert stopped.stopped and stopped.text.endswith(text)
    assert stopped.token_ids == free[which].token_ids[:end]


def test_greedy_takes_the_likeliest_token(engine, model):
    prompt = prompts(1, 20)[0]
    (one,) = engine.generate([prompt], n=1, seeds=[0], greedy=True)[0]
    with torch.inference_mode():
        logits = policy(model, None)(torch.tensor([prompt + one.token_ids])).logits[0, 19:-1]
    assert one.token_ids == logits.argmax(-1).tolist()
    assert one.logprobs == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-4)


def test_sampling_follows_the_probabilities(model, spec):
    engine = TransformersEngine(dataclasses.replace(spec, max_new_tokens=1))
    prompt = prompts(1, 20)[0]
    groups = engine.generate([prompt], n=4000, seeds=[0])
    first = [one.token_ids[0] for one in groups[0]]
    for token in sorted(set(first), key=first.count)[-3:]:
        (logprob,) = teacher_forced(model, None, prompt, [token], spec.temperature)
        share, expected = first.count(token) / 4000, 2.718281828**logprob
        assert abs(share - expected) < 4 * (expected / 4000) ** 0.5


def test_refused_calls(engine, spec):
    with pytest.raises(ValueError, match="2 prompts came with 1 seeds"):
        engine.generate([[5], [6]], n=1, seeds=[0])
    with pytest.raises(ValueError, match="1 to 296 fit"):
        engine.generate([[5] * 297], n=1, seeds=[0])
    with pytest.raises(ValueError, match="1 to 317 fit"):
        engine.generate([[5] * 318], n=1, seeds=[0], limits=[3])
    with pytest.raises(ValueError, match="2 prompts came with 1 limits"):
        engine.generate([[5], [6]], n=1, seeds=[0, 1], limits=[3])
    with pytest.raises(ValueError, match="limited to 25 tokens; a limit is at least 1"):
        engine.generate([[5]], n=1, seeds=[0], limits=[25])
    with pytest.raises(ValueError, match="n=2 with greedy=True"):
        engine.generate([[5]], n=2, seeds=[0], greedy=True)
    assert engine.generate([], n=1, seeds=[]) == []


def test_a_missing_adapter(engine, tmp_path):
    with pytest.raises(EngineError, match="no adapter_model.safetensors"):
        engine.load_adapter(Adapter(str(tmp_path)))


def test_a_half_loaded_adapter_is_loaded_again(spec, adapters, monkeypatch):
    engine = TransformersEngine(spec)
    engine.load_adapter(adapters[0])
    expected = engine.generate(prompts(2, 20), n=2, seeds=[1, 2], adapter=adapters[0])

    def half(base, updates):
        yield next(iter(merged_weights(base, updates)))
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(transformers, "merged_weights", half)
        engine.load_adapter(adapters[1])
    assert engine.generate(prompts(2, 20), n=2, seeds=[1, 2], adapter=adapters[0]) == expected


def test_auto_takes_the_engine_that_is_faster_for_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # vLLM is installed
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
    small = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 1000} | sizes
    for name, config in (("small", small), ("large", small | {"vocab_size": 10**8})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    on_gpu = ResourcesConfig(gpus_per_engine="auto")
    for config, engine, reason in (
        (Config(), "transformers", "here 0.5 million parameters"),
        (Config(resources=on_gpu), "vllm", "the engines have GPUs"),
        (Config(model=ModelConfig(name=str(tmp_path / "small"))), "transformers", "here 0.2 mill"),
        (Config(model=ModelConfig(name=str(tmp_path / "large"))), "vllm", "here 12,800.0 mill"),
        (Config(model=ModelConfig(name="hub/name")), "vllm", "counts as large"),
        (Config(rollout=RolloutConfig(engine="vllm")), "vllm", "rollout.engine=vllm"),
    ):
        chosen, why = engine_choice(config)
        assert (chosen, resolve_engine(config)) == (engine, engine)
        assert reason in why
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engine_choice(Config(resources=on_gpu)) == ("transformers", "vLLM is not installed")
    assert resolve_engine(Config(rollout=RolloutConfig(engine="vllm"))) == "vllm"


def test_how_an_adapter_is_loaded():
    assert resolve_adapter(Config()) == "merged"
    assert resolve_adapter(Config(resources=ResourcesConfig(gpus_per_engine=1))) == "lora"


def test_engine_spec_refuses_merging_with_tensor_parallel():
    merged = Config(rollout=RolloutConfig(adapter="merged"))
    with pytest.raises(ConfigError, match="rollout.adapter=lora or resources.gpus_per_engine=1"):
        engine_spec(merged, "model", 128, shape=Shape(1, 2))
    shared = engine_spec(merged, "model", 128, shape=Shape(3, 0.5))
    assert (shared.tensor_parallel, shared.threads, shared.gpus) == (1, 3, 0.5)


@pytest.fixture(scope="module")
def pools(spec):
    """A merged and a LoRA vLLM engine, started at the same time."""
    lora_spec = dataclasses.replace(spec, adapter="lora")
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=200_000_000)
    with (
        Pool(spec, engine="vllm", engines=1, name="merged") as merged,
        Pool(lora_spec, engine="vllm", engines=1, name="lora") as lora,
    ):
        yield {"merged": merged.wait_ready().handle(), "lora": lora.wait_ready().handle()}
    ray.shutdown()


@vllm_test
def test_vllm_gives_the_models_logprobs_merged_and_as_lora(pools, spec, model, adapters):
    # More than one cache block (128 tokens), so that the test would notice a stale prefix cache.
    asked = prompts(6, 220)
    call = Call(asked, n=4, seeds=[100 * i for i in range(6)])
    seen = []
    for adapter in (None, *adapters, None, adapters[0]):
        (merged,) = pools["merged"].generate([call], adapter)
        (lora,) = pools["lora"].generate([call], adapter)
        assert_logprobs_equal(merged, lora)
        assert_logprobs_are_the_models(merged[::2], asked[::2], model, adapter, spec.temperature)
        seen.append(merged)
    assert seen[0] == seen[3] and seen[1] == seen[4]
    assert seen[0] != seen[1] != seen[2]


@vllm_test
def test_vllm_seeds_and_endings(pools, spec):
    asked = prompts(16, 40)
    seeds = [100 * i for i in range(16)]
    (together,) = pools["merged"].generate([Call(asked, n=6, seeds=seeds)])
    assert_endings(together, spec.max_new_tokens)
    # One prompt at a time, in another order, gives the same bytes; rollout j uses seed + j.
    alone = [Call([asked[i]], n=6, seeds=[seeds[i]]) for i in (3, 2, 1, 0)]
    assert [flat(one) for one in pools["merged"].generate(alone)] == together[3::-1]
    (third,) = pools["merged"].generate([Call(asked[:1], n=1, seeds=[2])])
    assert third[0][0] == together[0][2]


@vllm_test
def test_vllm_greedy_equals_transformers(pools, engine, adapters):
    asked = prompts(6, 50)
    call = Call(asked, n=1, seeds=[0] * 6, greedy=True)
    for adapter in (None, adapters[1]):
        (ours,) = pools["merged"].generate([call], adapter)
        theirs = engine.generate(asked, n=1, seeds=[0] * 6, greedy=True, adapter=adapter)
        assert_logprobs_equal(ours, theirs)


@vllm_test
@pytest.mark.long
def test_vllm_killed_during_generate_gives_the_same_bytes(pools, adapters):
    call = Call(prompts(32, 220), n=8, seeds=[100 * i for i in range(32)])
    handle = pools["merged"]
    expected = handle.generate([call], adapters[0])
    actor = next(iter(handle.actors.values()))
    pid = ray.get(actor.status.remote())["pid"]

    def kill_when_busy():
        while ray.get(actor.status.remote())["call"] is None:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_when_busy)
    thread.start()
    assert handle.generate([call], adapters[0]) == expected
    thread.join()
    assert ray.get(actor.status.remote())["pid"] != pid
