"""The recipes for real models, and the estimates of `plan` for them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from helpers.saved import saved_bytes
from helpers.smollm import smollm
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from actors.engines.engine import most_prompts_per_call
from jobs import cli, plan_costs
from jobs.plan import plan
from jobs.plan_costs import catalogue_rows, estimated, memory, memory_rows
from minirec.config.reading import PRESETS, _read_yaml, load
from minirec.config.resources import ResourcesConfig
from minirec.model.recommender import Policy
from minirec.resources.estimates import GPUS, KNOWN
from minirec.rl.group import Group
from minirec.store.files import write_json

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {"qwen2.5-0.5b": "L4", "qwen2.5-3b": "A100-80", "gemma-2-2b": "A100-80"}
KEPT = "training.gradient_checkpointing=false"
ITEMS = 12_024  # of the paper's CDs_and_Vinyl


def rows(name, *overrides):
    config = load(CONFIGS / f"{name}.yaml", list(overrides))
    return [(f"{stage} {what}", value) for stage, what, value in memory_rows(config, ITEMS)]


def test_the_setting_knows_the_gpus_of_the_table():
    kind = ResourcesConfig.model_fields["gpu"].annotation
    assert set(get_args(get_args(kind)[0])) == set(GPUS)


@pytest.mark.parametrize("category", ["CDs_and_Vinyl", "Musical_Instruments", "Video_Games"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_is_planned(name, category, tmp_path):
    words = [f"run_dir={tmp_path}", f"corpus.category={category}"]
    config = load(CONFIGS / f"{name}.yaml", words)
    assert config.corpus.category == category and config.corpus.download == "5core"
    assert (config.corpus.start, config.corpus.end) == ("2022-10-01", "2023-10-01")
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 10_748}, "items": 12_024})
    planned = {(stage, what): value for stage, what, value in plan(config)}
    # 1,024 samples for 10 epochs in steps of 12 prompts; 256 of the proxy.
    assert planned["train", "optimizer steps"].startswith("854 of 12")
    assert planned["proxy", "optimizer steps"].startswith("214 of 12")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_the_gpu_that_it_names(name):
    """By the estimates, which other tests compare with published and with counted numbers."""
    found = dict(rows(name))
    assert found["estimate GPU"].startswith(f"{RECIPES[name]} (resources.gpu)")
    assert {
        f"estimate {process}, memory" for process in ("engine", "training worker", "scorer")
    } <= (found.keys())
    assert not [what for what in found if what.startswith("warning")], found


def test_the_recipe_for_a_laptop_is_planned(tmp_path):
    config = load(CONFIGS / "smollm-amazon.yaml", [f"run_dir={tmp_path}", f"model.name={smollm()}"])
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1826}, "items": 356})
    planned = {(stage, what): value for stage, what, value in plan(config)}
    assert planned["model", "GGUF file"].startswith("134.5 million parameters")
    assert planned["warm", "optimizer steps"] == "40 of 16 prompts"
    assert planned["train", "rollouts"] == "1,280"


def test_the_settings_of_a_recipe_reach_the_estimate():
    """Computed by hand from the numbers of Qwen2.5-3B's config.json and of the recipe."""
    config = load(CONFIGS / "qwen2.5-3b.yaml")
    found = memory(config, KNOWN["Qwen/Qwen2.5-3B-Instruct"], ITEMS)
    weights = 3_085_938_688 * 2  # bfloat16
    assert all(parts["weights"] == weights for parts in found.values())
    length = config.model.max_prompt_tokens + config.rollout.max_new_tokens
    # Keys and values of 36 layers, 2 heads of 128 numbers of 2 bytes; 256 sequences at once.
    assert most_prompts_per_call(config) * config.scoring.stages[-1] >= 256
    assert found["engine"]["KV cache"] == 256 * length * 2 * 36 * 2 * 128 * 2
    assert found["scorer"]["item table"] == ITEMS * 2048 * 4
    # A LoRA pair on each of q, k, v, o, gate, up and down; weight, gradient and Adam's two states
    # in float32.
    sums = [4096, 2304, 2304, 4096, 13056, 13056, 13056]
    lora = 36 * config.model.lora_rank * sum(sums)
    assert found["training worker"]["LoRA and optimizer"] == lora * (4 + 4 + 8)


@pytest.mark.slow
def test_a_micro_batch_of_a_recipe_keeps_what_the_plan_says():
    """The bytes that autograd saves in one block of Qwen2.5-0.5B, for one prompt of the recipe."""
    config = load(CONFIGS / "qwen2.5-0.5b.yaml", ["model.dtype=float32"])
    prompt, completion = config.model.max_prompt_tokens, config.rollout.max_new_tokens
    rollouts = config.training.rollouts_per_prompt
    # Few words, so that the logits weigh nothing.
    shape = replace(KNOWN["Qwen/Qwen2.5-0.5B-Instruct"], layers=1, vocabulary=64)
    one = config.model_copy(
        update={"training": config.training.model_copy(update={"prompts_per_micro_batch": 1})}
    )
    said = memory(one, shape, ITEMS)["training worker"]["activations and logits"]
    written = Group(
        prompt=[1] * prompt,
        completions=[[1] * completion] * rollouts,
        written=[completion] * rollouts,
        excluded=[],
        target=0,
    )
    policy = Policy(with_lora(shape, config.model.lora_rank), pad_id=0)
    assert saved_bytes(lambda: policy(groups=[written]), policy) == pytest.approx(said, rel=0.15)


def test_a_plan_of_a_recipe_has_no_seconds_and_no_speeds(tmp_path):
    """No GPU has been measured, so no figure of the plan may say how long it takes."""
    for name in RECIPES:
        words = [f"run_dir={tmp_path}", "resources.gpu=H100"]
        config = load(CONFIGS / f"{name}.yaml", words)
        for _, what, value in plan(config, starts=False) + memory_rows(config, ITEMS):
            assert not re.search(r"\b(second|minute|hour|day|FLOP)s?\b|/s\b", f"{what} {value}")


def with_lora(shape, rank):
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True,
    )
    lora = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(Qwen2ForCausalLM(config), lora)


def test_a_warning_has_the_needed_and_the_available_memory():
    found = rows("qwen2.5-3b", "resources.gpu=L4", KEPT)
    texts = [text for what, text in found if what == "warning memory"]
    assert any("a training worker needs" in text and "the L4 has 22.5" in text for text in texts)
    found = rows("qwen2.5-3b", "resources.gpu=L4", "rollout.gpu_memory_utilization=0.3")
    texts = [text for what, text in found if what == "warning memory"]
    assert any("rollout.gpu_memory_utilization leaves it 6.8" in text for text in texts)
    more = rows("qwen2.5-0.5b", "training.prompts_per_micro_batch=12", KEPT)
    texts = [text for what, text in more if what == "warning memory"]
    assert (
        len(texts) == 1 and "beside an engine; lower training.prompts_per_micro_batch" in texts[0]
    )


def test_activations_that_do_not_fit_are_computed_again():
    """As training does with `gradient_checkpointing: auto`, so there is nothing to warn of."""
    small, large = (
        dict(rows("qwen2.5-3b", f"resources.gpu={gpu}"))["estimate training worker, memory"]
        for gpu in ("L4", "A100-80")
    )
    assert "checkpointed activations and logits" in small and "checkpointed" not in large
    assert (
        "checkpointed"
        not in dict(rows("qwen2.5-3b", "resources.gpu=L4", KEPT))[
            "estimate training worker, memory"
        ]
    )


def test_without_a_gpu_or_with_the_demo_model_nothing_is_added():
    assert plan_costs.estimated(load()) == []
    none = [f"resources.gpus_per_{process}=0" for process in ("engine", "scorer", "worker")]
    assert rows("qwen2.5-3b", *none) == []


def test_with_an_unknown_gpu_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(plan_costs, "installed_gpu", lambda: None)
    config = load(CONFIGS / "qwen2.5-3b.yaml", ["resources.gpu=null"])
    found = {what: value for _, what, value in memory_rows(config, None)}
    assert found["model"] == "3.09B parameters"
    assert "set resources.gpu to one of H200" in found["GPU"]
    assert "10,000 items" in found["assuming"]
    assert "training worker, memory" in found


def test_the_plan_prints_estimates(capsys, tmp_path):
    words = ["plan", "--config", str(CONFIGS / "qwen2.5-3b.yaml"), f"run_dir={tmp_path}"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "3.09B parameters" in printed and "training worker, memory" in printed


def test_paper_amazon_selects_as_paper_does():
    paper, amazon = (_read_yaml(PRESETS / f"{name}.yaml") for name in ("paper", "paper-amazon"))
    assert paper["selection"].items() <= amazon["selection"].items()
    assert paper["proxy"].items() <= amazon["proxy"].items()


def test_the_plan_says_what_the_catalogue_costs(tmp_path):
    words = [f"run_dir={tmp_path}", "training.item_negatives=null"]
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 9}, "items": 10**6})
    config = load(CONFIGS / "qwen2.5-0.5b.yaml", words)
    rows = {(stage, what): value for stage, what, value in estimated(config)}
    # A million vectors of 896 numbers of 4 bytes.
    assert rows["catalogue", "item table"] == "3.34 GiB: 1,000,000 items x 896 numbers"
    assert rows["catalogue", "a new table, at most"].endswith(
        "each item_refresh_steps steps and for a validation"
    )
    assert "1,000,000 items with gradient" in rows["warning", "training.item_negatives"]
    assert catalogue_rows(config, None) == []

    supervised = load(
        CONFIGS / "qwen2.5-0.5b.yaml",
        [words[0], "training.loss=supervised", "training.item_candidates=batch"],
    )
    rows = {(stage, what): value for stage, what, value in catalogue_rows(supervised, 10**6)}
    assert rows["catalogue", "a new table, at most"].endswith("no step needs it")
    assert ("warning", "training.item_negatives") not in rows
