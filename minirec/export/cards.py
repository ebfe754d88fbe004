"""The README of an exported folder."""

from __future__ import annotations

import json
from typing import Any

from minirec.config import Config

COMMANDS = {
    "jsonl": "`reward.py` has a reward function for each of TRL, verl and OpenRLHF; its class\n"
    "`Scorer` serves any other trainer.",
    "trl": """```python
from datasets import load_dataset
from reward import reward
from trl import GRPOConfig, GRPOTrainer

trainer = GRPOTrainer(
    model="{model}",
    reward_funcs=reward,
    train_dataset=load_dataset("json", data_files="train.jsonl", split="train"),
    args=GRPOConfig(
        shuffle_dataset=False,
        max_completion_length={new_tokens},
    ),
)
trainer.train()
```""",
    "verl": """```
python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo \\
    data.train_files=train.parquet data.val_files=train.parquet data.shuffle=False \\
    data.max_response_length={new_tokens} actor_rollout_ref.model.path={model} \\
    reward.custom_reward_function.path=reward.py
```
The default name of the function, `compute_score`, is that in the file.""",
    "openrlhf": """```
python -m openrlhf.cli.train_ppo_ray --data.prompt_dataset train.jsonl \\
    --data.input_key prompt --data.label_key label --actor.model_name_or_path {model} \\
    --reward.remote_url reward.py
```
Prompts hold the chat template already: do not give `--data.apply_chat_template`.""",
}


def data_card(config: Config, *, to: str, samples: int, policy: str) -> str:
    """README of an exported subset."""
    command = COMMANDS[to].format(
        model="scorer" if config.model.name == "demo" else config.model.name,
        new_tokens=config.rollout.max_new_tokens,
    )
    return f"""# {samples:,} interactions, in training order

Chosen by MiniRec (arXiv 2602.04278): `selection.method={config.selection.method}`, preset
`{config.preset}`, seed {config.seed}. The order of the file is the curriculum: train without
shuffling.

{command}

The reward of a completion is `{config.reward.name}`: how high the target ranks among all items
after the completion, as the frozen policy in `scorer/` ({policy}) sees it. In MiniRec itself the
policy that is trained ranks; here it is frozen, since a trainer of text hands over no hidden
states. What follows `<answer>` does not count: where your trainer can stop there, let it, to save
tokens.
"""


def model_card(
    config: Config, *, to: str, base: str, policy: str, evaluation: dict[str, Any] | None
) -> str:
    """README of an exported policy, with front matter as the Hugging Face hub reads it.

    `evaluation` is that of ``evaluation.json`` for this policy, by split; None: not evaluated.
    """
    method = config.selection.method
    what = {
        "trained": "Trained on all interactions"
        if method == "full"
        else f"Trained on the interactions that `selection.method={method}` chose",
        "proxy": "The proxy policy, trained on a small random subset",
    }[policy]
    library = "peft" if to == "adapter" else "transformers"
    head = {"library_name": library, "tags": ["recommendation", "grpo", "lora", "minirec"]}
    if base != "base":
        head["base_model"] = base
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    return f"""---
{front}
---
# LLM recommender

{what} of {config.corpus.source} {config.corpus.category or ""} by MiniRec
(arXiv 2602.04278): the policy writes a short analysis of a history, ends it with
`<answer>`, and its hidden state there is compared with the vectors of all items.

    python recommender.py "Title one" "Title two"

or

```python
from recommender import Recommender

recommender = Recommender(".")
for item, cosine in recommender.rank([0, 1], top=10):
    print(cosine, recommender.titles[item])
```

`items.npy` has a unit vector for each line of `items.jsonl`.
{_figures(evaluation)}"""


def _figures(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return ""
    lines = ["", "| split | metric | mean | 95% interval |", "|---|---|---|---|"]
    for split, metrics in evaluation.items():
        for name in ("ndcg@10", "hr@10", "mrr"):
            m = metrics.get(name)
            if m:
                lines.append(
                    f"| {split} | {name} | {m['mean']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
                )
    return "\n".join([*lines, "", "Full ranking of the catalogue, greedy decoding.", ""])
