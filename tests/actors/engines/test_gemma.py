"""Engine and trainer compute the same Gemma 2: capped attention scores, sliding windows, BOS."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import ray
import torch
import transformers
from helpers.tiny_model import VOCABULARY, build_model, prompts
from transformers import AutoTokenizer

from actors.engines.engine import EngineSpec
from actors.engines.transformers import TransformersEngine
from actors.pool.actor import Call
from actors.pool.pool import Pool
from minirec.config.model import ModelConfig
from minirec.corpus.table import Sample
from minirec.model.recommender import Encoder, trainable_policy

CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Weights so large that the caps bite. Prompts are longer than the sliding window."""
    folder = tmp_path_factory.mktemp("gemma")
    build_model(folder)  # for its tokenizer
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=2,
        sliding_window=16,
        max_position_embeddings=512,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        **CAPS,
    )
    transformers.Gemma2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def spec(model):
    return EngineSpec(model=model, max_model_len=128, max_new_tokens=12, temperature=0.8)


def trainer_logprobs(model, asked, groups):
    """The log-probabilities of the engine's rollouts by the policy in training."""
    config = ModelConfig(name=model)
    encoder = Encoder(AutoTokenizer.from_pretrained(model), config, category="things")
    policy = trainable_policy(model, config, encoder.tokenizer, rollout_temperature=0.8, seed=0)
    sample = Sample(sample_id=0, history=[], target=0)
    for prompt, rollouts in zip(asked, groups, strict=True):
        group = encoder.group(sample, prompt, rollouts)
        found = policy(groups=[group])[1].split([len(c) for c in group.completions])
        for one, values in zip(rollouts, found, strict=True):
            yield one.logprobs, values[: len(one.token_ids)].tolist()


def test_the_engine_of_transformers_has_the_log_probabilities_of_the_trainer(model):
    asked = prompts(3, 40)
    groups = TransformersEngine(spec(model)).generate(asked, n=3, seeds=[1, 2, 3])
    for engine, trainer in trainer_logprobs(model, asked, groups):
        assert engine == pytest.approx(trainer, abs=1e-4)


def test_the_caps_matter_here(model, tmp_path):
    """Otherwise the other tests would pass without them."""
    asked = prompts(2, 40)
    groups = TransformersEngine(spec(model)).generate(asked, n=3, seeds=[1, 2])
    (tmp_path / "x").mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "x" / name).symlink_to(f"{model}/{name}")
    config = json.loads((Path(model) / "config.json").read_text()) | {
        "attn_logit_softcapping": None
    }
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    both = list(trainer_logprobs(str(tmp_path / "x"), asked, groups))
    assert max(abs(a - b) for e, t in both for a, b in zip(e, t, strict=True)) > 1e-2


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is absent")
@pytest.mark.vllm
@pytest.mark.ray
@pytest.mark.slow
def test_vllm_has_the_log_probabilities_of_the_trainer(model, cluster):
    asked = prompts(3, 40)
    with Pool(spec(model), engines=1, engine="vllm", start_deadline_s=240) as pool:
        (groups,) = pool.handle().generate([Call(asked, 3, [1, 2, 3])])
    for engine, trainer in trainer_logprobs(model, asked, groups):
        assert engine == pytest.approx(trainer, abs=1e-4)
