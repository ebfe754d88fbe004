"""The smallest demo model: five items, one layer."""

from __future__ import annotations

from minirec.config.model import DemoModelConfig, ModelConfig
from minirec.model import demo

TITLES = ["Jazz Piano Night", "Jazz Sax Morning", "Robot War", "Robot Dawn", "Alpine Trail"]
ITEMS = [(title, f"about {title}") for title in TITLES]
PAIRS = [[i, (i + 1) % 5] for i in range(5)]
CONFIG = ModelConfig(
    max_prompt_tokens=64,
    max_item_tokens=12,
    demo=DemoModelConfig(vocabulary=320, hidden_size=32, heads=1, layers=1, warmup_steps=3),
)


def built(path, config=CONFIG):
    """Folder of a model that was warmed up."""
    demo.build(path, histories=PAIRS, items=ITEMS, config=config, category="demo", seed=1)
    return str(path)
