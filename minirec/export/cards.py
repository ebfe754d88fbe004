"""The README of an exported folder."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from minirec.config.run import Config
from minirec.export.formats import FORMATS, ITEMS, LARGEST_ROW
from minirec.export.front import front_matter, of_subset

PLAIN_TEMPLATE = "{{ messages[0].content }}"
"""A chat template that returns the text of the only message unchanged."""

ANY_TRAINER = """`reward.py` has a reward function for each of TRL, verl and OpenRLHF; its class
`Scorer` serves any other trainer."""
COMMANDS = {
    "jsonl": ANY_TRAINER,
    "datasets": """```python
import os
from datasets import load_dataset

here = os.getcwd()  # the full path of this folder, or the name of a copy on the hub
samples = load_dataset(here, split="train")  # in training order
items = load_dataset(here, "items", split="train")
```
"""
    + ANY_TRAINER,
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
        max_steps={steps},
        num_generations={rollouts},
        per_device_train_batch_size={completions_per_pass},
        gradient_accumulation_steps={passes},
        max_completion_length={new_tokens},
        temperature={temperature},{unscaled_trl}
    ),
)
trainer.train()
```
A step has {batch} prompts with {rollouts} completions each, on one GPU. With more GPUs, divide
`gradient_accumulation_steps`.{left_out}""",
    "verl": """```
python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo \\{unscaled_verl}
    data.train_files=train.parquet data.val_files=train.parquet data.shuffle=False \\
    data.train_batch_size={batch} data.max_prompt_length={prompt_tokens} \\
    data.max_response_length={new_tokens} data.truncation=error \\
    actor_rollout_ref.model.path={model} \\{template}
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n={rollouts} \\
    actor_rollout_ref.rollout.temperature={temperature} \\
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 \\
    actor_rollout_ref.rollout.agent.num_workers={workers} \\
    actor_rollout_ref.actor.ppo_mini_batch_size={batch} \\
    actor_rollout_ref.actor.use_dynamic_bsz=True \\
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu={tokens_per_pass} \\
    reward.custom_reward_function.path=reward.py reward.num_workers=1 \\
    trainer.total_epochs={epochs} trainer.total_training_steps={steps} \\
    trainer.val_before_train=False trainer.n_gpus_per_node=1 trainer.logger=console
```
The function has verl's default name, `compute_score`. A step has {batch} prompts
with {rollouts} completions each. The number of GPUs must divide
{completions}.{left_out}{about_template}""",
    "openrlhf": """```
python -m openrlhf.cli.train_ppo_ray --data.prompt_dataset train.jsonl \\
    --data.input_key prompt --data.label_key label --actor.model_name_or_path {model} \\
    --reward.remote_url reward.py --algo.advantage.estimator {estimator} --algo.kl.init_coef 0 \\
    --rollout.batch_size {batch} --rollout.n_samples_per_prompt {rollouts} \\
    --rollout.temperature {temperature} --rollout.max_new_tokens {new_tokens} \\
    --data.max_len {tokens} --train.batch_size {completions} --train.num_episodes {episodes} \\
    --actor.num_gpus_per_node 1 --vllm.num_engines 1
```
Prompts hold the chat template already: do not give `--data.apply_chat_template`. A step has {batch}
prompts with {rollouts} completions each. OpenRLHF counts whole passes over the file: {episodes} of
them are about {episode_steps} steps, and MiniRec trains {steps}. It always shuffles its prompts, so
the order of the file has no effect. The numbers of GPUs are the minimum.""",
}


def data_card(
    config: Config,
    *,
    to: str,
    samples: int,
    steps: int,
    policy: str,
    has_template: bool,
    evaluation: dict[str, Any] | None = None,
) -> str:
    """README of an exported subset of `samples` rows, with the front matter of the hub.

    `to` is a key of `FORMATS`; `steps` are the optimizer steps of the run's own training; `policy`
    names the policy in `scorer/`; `evaluation` is the part of ``evaluation.json`` on the policy
    that the run trained on the subset, by split, or None.
    """
    command = COMMANDS[to].format(**_settings(config, samples, steps, has_template=has_template))
    front = of_subset(rows=samples, file=FORMATS[to][0], items=ITEMS.get(to))
    prior = "" if config.model.prior == "none" else PRIOR_OF_SAMPLES
    return f"""{front}# {samples:,} interactions, in training order

{_chosen(config, steps)}

{command}

Batch, completions and lengths are those of the run. Learning rate, optimizer, and LoRA or full
training are the trainer's settings: choose them for your model.

The reward of a completion is `{config.reward.name}`: how high the target ranks among all items
after the completion, by the frozen policy in `scorer/` ({policy}). In MiniRec the policy in
training ranks. Here the policy is frozen, because text trainers provide no hidden states. Text
after `<answer>` is ignored: if your trainer can stop there, this saves tokens.
{_rated(config, to)}{prior}{_trained_on(config, evaluation)}"""


def _trained_on(config: Config, evaluation: dict[str, Any] | None) -> str:
    """The figures of the policy that the run trained on the subset."""
    if evaluation is None:
        return ""
    return _paragraph(
        f"The figures of {config.model.name}, trained on these interactions by MiniRec:"
    ) + _figures(config, evaluation)


def _rated(config: Config, to: str) -> str:
    """What is relevant beside the target, what the training saw of the rewards, and weights."""
    said = ""
    if (horizon := config.reward.horizon) > 1:
        said += _paragraph(
            f"The user's next items in the train split count as relevant too "
            f"(`reward.horizon={horizon}`): they are in `following`, and the reward is that of all "
            f"relevant items over that of the best ranking."
        )
    if config.reward.feedback == "comparison":
        said += _paragraph(
            "In MiniRec the training saw only which of two completions has the larger reward "
            "(`reward.feedback=comparison`); `reward.py` returns the rewards."
        )
    return said + _weighted(config, to)


def _paragraph(text: str) -> str:
    return f"\n{_filled(text)}\n"


def _weighted(config: Config, to: str) -> str:
    how = (
        ": turn that off."
        if COMMANDS[to].endswith(ANY_TRAINER)
        else ". The command above turns the division off."
    )
    column = config.reward.item_weight
    if column is None:
        return ""
    return f"""
Each reward is multiplied by the factor of the target in `factors.npy`: its `{column}` over the mean
of the targets of train (`reward.item_weight={column}`). A trainer that divides by the standard
deviation of a group cancels this factor{how}
"""


def _chosen(config: Config, steps: int) -> str:
    """How the interactions were chosen, and how to use their order."""
    if config.selection.mode == "live":
        return "\n\n".join(map(_filled, _chosen_live(config, steps)))
    return _filled(
        f"Selected by MiniRec (arXiv 2602.04278): `selection.method={config.selection.method}`, "
        f"preset `{config.preset}`, seed {config.seed}. The order of the file is the curriculum: "
        f"train without shuffling."
    )


def _chosen_live(config: Config, steps: int) -> list[str]:
    live, training = config.live, config.training
    start = "the base model" if training.start == "base" else f"the adapter of `{training.start}`"
    value = " The rule also ranks by learnability, representativeness and diversity."
    took = (
        f"A sample was taken if its lift was in the band from {live.band[0]:g} to "
        f"{live.band[1]:g}, then if its lift was unknown, and otherwise only where there were too "
        f"few.{value if live.rule == 'value' else ''} The lift is the NDCG of the target above "
        f"chance, right after the prompt or in the rollouts."
    )
    if live.rule == "skip":
        took = (
            f"A sample whose rollouts had all earned the same n times in a row was taken with the "
            f"chance {live.explore:g} to the power n."
        )
    if live.rule == "influence":
        took = (
            f"For every {live.stage_steps} steps, samples were measured by one forward pass each, "
            f"and those whose gradients pointed the most as the mean gradient of "
            f"{live.validation_samples} validation samples were taken. So the validation split "
            f"does not measure this subset without bias; the test split does."
        )
    return [
        f"Chosen live by MiniRec (`selection.mode=live`, `live.rule={live.rule}`, preset "
        f"`{config.preset}`, seed {config.seed}): each of {steps:,} training steps took its "
        f"{training.prompts_per_step} prompts for the policy of that moment. The policy was "
        f"{config.model.name} with LoRA, trained from {start}. {took}",
        "The file has a row for each sample that was trained, in the order of first training. "
        "Another trainer has no live selection: it trains this subset statically, so train without "
        "shuffling. What was learnable for the policy above may be solved or hopeless for yours.",
    ]


def _filled(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


_HOW = {
    True: "the policy writes a short analysis of a history, ends it with\n"
    "`<answer>`, and its hidden state there",
    False: "the policy reads a history and writes nothing; its hidden\n"
    "state at the `<answer>` that follows the prompt",
}
"""What ranks, by `rollout.analysis`."""
PRIOR_OF_SAMPLES = f"""
The ranking adds the collaborative prior of each sample: co-occurrence, transitions and likeness of
titles, from training events before the sample's own time. `prior.npz` holds its values above 0 by
`sample_id`, of each sample at most the {LARGEST_ROW:,} highest.
"""


def _settings(config: Config, samples: int, steps: int, *, has_template: bool) -> dict[str, Any]:
    """Values for the commands. The batch is at most the file, or nothing would be trained."""
    training, model = config.training, config.model
    weighted = config.reward.item_weight is not None
    batch = min(training.prompts_per_step, samples)
    rollouts = training.rollouts_per_prompt
    per_pass = math.gcd(batch, training.prompts_per_micro_batch)
    tokens = model.max_prompt_tokens + config.rollout.max_new_tokens
    episodes = max(1, round(steps / (samples // batch)))
    template = about = left_out = ""
    if not has_template:
        key = "actor_rollout_ref.model.custom_chat_template"
        template = f"\n    '{key}=\"{PLAIN_TEMPLATE}\"' \\"
        about = (
            "\n\nThe model has no chat template and verl applies one to every prompt: "
            "`custom_chat_template`\nreturns the prompt unchanged. Keep it: verl fails without it."
        )
    if left := samples % batch:
        left_out = f"\nThe last {left} samples do not fill a batch and are left out of each epoch."
    return {
        "model": "scorer" if model.built else model.name,
        "batch": batch,
        "rollouts": rollouts,
        "completions": batch * rollouts,
        "completions_per_pass": per_pass * rollouts,
        "passes": batch // per_pass,
        "prompt_tokens": model.max_prompt_tokens,
        "new_tokens": config.rollout.max_new_tokens,
        "tokens": tokens,
        "tokens_per_pass": max(16384, tokens),
        "temperature": config.rollout.temperature,
        "steps": steps,
        "epochs": math.ceil(steps / (samples // batch)),
        "episodes": episodes,
        "episode_steps": episodes * (samples // batch),
        # verl gives every worker the same number of completions; 8 workers is its default.
        "workers": math.gcd(8, batch * rollouts),
        # A division by the deviation of a group would cancel the weights of items.
        "unscaled_trl": "\n        scale_rewards=False," if weighted else "",
        "unscaled_verl": "\n    algorithm.norm_adv_by_std_in_grpo=False \\" if weighted else "",
        "estimator": "dr_grpo" if weighted else "group_norm",
        "template": template,
        "about_template": about,
        "left_out": left_out,
    }


def model_card(
    config: Config,
    *,
    to: str,
    base: str,
    policy: str,
    evaluation: dict[str, Any] | None,
    weights: Mapping[str, float] | None = None,
    refreshed: bool = False,
) -> str:
    """README of an exported policy, with the front matter of the Hugging Face hub.

    Args:
        evaluation: the part of ``evaluation.json`` on this policy, by split; None: not evaluated.
        weights: of the parts of the collaborative prior; None: the policy has no prior.
        refreshed: whether the counts of the prior include events that the evaluation did not use.
    """
    what = {
        "trained": _trained(config),
        "proxy": "The proxy policy, trained on a small random subset",
        "warm": "The policy of the warm start, trained on forced answers",
    }[policy]
    number = "cosine" if weights is None else "score"
    library = "peft" if to == "adapter" else "transformers"
    head: dict[str, Any] = {
        "library_name": library,
        "tags": ["recommendation", "grpo", "lora", "minirec"],
    }
    if base != "base":
        head["base_model"] = base
    return f"""{front_matter(head)}# LLM recommender

{what} of {" ".join(filter(None, (config.corpus.source, config.corpus.category)))} by MiniRec
(arXiv 2602.04278): {_HOW[config.rollout.analysis]} is compared with the vectors of all items.

    python recommender.py "Title one" "Title two"

or

```python
from recommender import Recommender

recommender = Recommender(".")
for item, {number} in recommender.rank([0, 1], top=10):
    print({number}, recommender.titles[item])
```

`items.npy` has a unit vector for each line of `items.jsonl`.
{_choices(config)}{_prior(config, weights, refreshed)}{_figures(config, evaluation)}"""


def _choices(config: Config) -> str:
    if not config.corpus.choices:
        return ""
    return _paragraph(
        f"The policy was trained with up to {config.corpus.choices} pairs of the history in the "
        f"prompt, of which the user rated the first higher. Give the ratings of a history, "
        f"`rank([0, 1], top=10, ratings=[3, 5])`, and the prompt has them too."
    )


def _trained(config: Config) -> str:
    if config.selection.mode == "live":
        return f"Trained on interactions that live selection (`live.rule={config.live.rule}`) took"
    method = config.selection.method
    if method == "full":
        return "Trained on all interactions"
    return f"Trained on the interactions that `selection.method={method}` chose"


def _prior(config: Config, weights: Mapping[str, float] | None, refreshed: bool) -> str:
    if weights is None:
        return ""
    parts = {"cooccurrence": "co-occurrence", "titles": "likeness of titles"}
    terms = " + ".join(f"{w:.2f} * {parts.get(part, part)}" for part, w in weights.items())
    events = "all events up to a refresh after training" if refreshed else "the training events"
    later = " The figures below were measured without the later events." if refreshed else ""
    return f"""
The ranking has a collaborative prior: the score is cosine / {config.model.temperature:g} + {terms}.
Each part is at most 1 and comes from {events} and the titles (`prior.npz`, read
by `prior.py`, which needs scipy). An item or history without events gets 0 from the first two
parts.{later}
"""


TASKS = {
    "exclude": "the next visit of a user",
    "keep": "the next event of a user, which may belong to the same visit",
}
"""By `corpus.same_time`."""


def _figures(config: Config, evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return ""
    lines = ["", "| split | metric | mean | 95% interval |", "|---|---|---|---|"]
    for split, metrics in evaluation.items():
        for name in ("value@10", "ndcg@10", "hr@10", "mrr"):
            m = metrics.get(name)
            if m:
                lines.append(
                    f"| {split} | {name} | {m['mean']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
                )
    same_time = config.corpus.same_time
    decoding = "greedy decoding" if config.rollout.analysis else "no analysis"
    task = f"The target is {TASKS[same_time]} (`corpus.same_time={same_time}`)."
    if column := config.reward.item_weight:
        task += (
            f" value@10 is NDCG@10 times the target's `{column}` over the mean of the targets of "
            f"train; rewards and losses had the same factor."
        )
    return "\n".join([*lines, "", f"Full ranking of the catalogue, {decoding}. {task}", ""])
