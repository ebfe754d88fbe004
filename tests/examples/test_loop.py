"""The example of the README: the whole algorithm in one process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from minirec.config.corpus import CorpusConfig, DemoConfig
from minirec.config.model import DemoModelConfig, ModelConfig
from minirec.config.run import Config
from minirec.config.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL = Config(
    corpus=CorpusConfig(demo=DemoConfig(users=40, items=40, tastes=4)),
    model=ModelConfig(
        max_prompt_tokens=120,
        max_item_tokens=12,
        demo=DemoModelConfig(vocabulary=400, hidden_size=32, heads=1, layers=1, warmup_steps=5),
    ),
    training=TrainingConfig(prompts_per_step=4, prompts_per_micro_batch=4, learning_rate=2e-3),
)


def test_the_example_trains_and_validates(tmp_path, capsys):
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("loop", ROOT / "examples" / "loop.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.run(SMALL, tmp_path, steps=2, seed=1, validated=8)
    printed = capsys.readouterr().out.splitlines()  # with a line of DeepSpeed, where it is imported
    steps = [line.split("  ")[0] for line in printed if line.startswith("step")]
    assert steps == ["step 1/2", "step 2/2"]
    assert printed[-1].startswith("validation NDCG@10: ") and printed[-1].endswith(" after")
    weights = [
        (tmp_path / f"adapter-{version}" / "adapter_model.safetensors").read_bytes()
        for version in (0, 1, 2)
    ]
    assert len(set(weights)) == 3  # each step changes the weights that the engine loads
