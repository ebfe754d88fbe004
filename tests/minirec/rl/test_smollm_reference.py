"""The likelihood reward with a pretrained LM, SmolLM2-135M-Instruct."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.smollm import smollm

from actors.engines.engine import EngineSpec
from actors.engines.transformers import TransformersEngine
from minirec.config.model import ModelConfig
from minirec.corpus.table import Catalogue
from minirec.model.gguf import convert
from minirec.model.passes import hidden_states, item_table
from minirec.model.recommender import Encoder, load_policy
from minirec.rl.grpo import is_dead
from minirec.rl.likelihood import Likelihood
from minirec.rl.ranker import Ranker
from minirec.rl.reward import ndcg

pytestmark = pytest.mark.slow
FLOOR = 1e-3
SHOPS = [
    ["Acoustic guitar strings", "Guitar capo", "Clip-on guitar tuner", "Padded guitar strap"],
    ["Espresso machine", "Burr coffee grinder", "Milk frother", "Paper coffee filters"],
    ["Garden hose", "Pruning shears", "Tomato seeds", "Watering can"],
    ["Dog leash", "Chew toy for puppies", "Dry dog food", "Grooming brush for dogs"],
    ["Baby bottles", "Diapers size 2", "Crib mattress", "Baby monitor"],
    ["Two-person tent", "Sleeping bag", "Camping stove", "LED headlamp"],
    ["Ballpoint pens", "Stapler", "Desk lamp", "Printer paper"],
    ["Bike helmet", "Bicycle pump", "Inner tube 26 inch", "Cycling gloves"],
]
TITLES = [title for shop in SHOPS for title in shop]
ROLLOUTS = 4


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """Policy, encoder, groups of sampled rollouts, and the reward. Each user has three items of a
    shop, and the fourth is the target."""
    folder = tmp_path_factory.mktemp("smollm")
    convert(smollm(), folder)
    config = ModelConfig(max_prompt_tokens=200, max_item_tokens=16)
    encoder = Encoder.load(str(folder), config, category="things")
    policy = load_policy(str(folder), config, encoder.tokenizer)
    catalogue = Catalogue(titles=TITLES, texts=[""] * len(TITLES), category="things")
    items = encoder.items(catalogue)
    samples = [
        SimpleNamespace(
            history=[first, first + 1, first + 2],
            target=first + 3,
            excluded=[first, first + 1, first + 2],
            sample_id=first,
            following=[],
            history_rating=[],
        )
        for first in range(0, len(TITLES), 4)
    ]
    prompts = encoder.prompts(samples, catalogue)
    spec = EngineSpec(str(folder), max_model_len=300, max_new_tokens=24, prompts_per_call=8)
    written = TransformersEngine(spec).generate(
        prompts=prompts, n=ROLLOUTS, seeds=[*range(len(prompts))], greedy=False
    )
    groups = [encoder.group(*one) for one in zip(samples, prompts, written, strict=True)]
    reward = Likelihood([*map(encoder.item_words, items)], encoder.answer_ids)
    return SimpleNamespace(
        policy=policy, encoder=encoder, items=items, groups=groups, reward=reward
    )


def told(lm, group, *texts):
    """The rewards of texts instead of the rollouts of a group."""
    ids = [lm.encoder.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    said = replace(
        group,
        completions=[[*one, *lm.encoder.answer_ids] for one in ids],
        written=[len(one) for one in ids],
    )
    return lm.reward(lm.policy, [said])[0].tolist()


def without_history(text, titles):
    """The text with its words of the history masked."""
    known = {word for title in titles for word in re.findall(r"\w+", title.lower())}
    return re.sub(r"\w+", lambda word: "..." if word[0].lower() in known else word[0], text)


def equal_pairs(rewards):
    """The share of the pairs of rollouts whose rewards (P, G) are within the floor."""
    close = (rewards[:, :, None] - rewards[:, None]).abs() < FLOOR
    first, second = torch.triu_indices(ROLLOUTS, ROLLOUTS, 1)
    return float(close[:, first, second].float().mean())


def test_rewards_differ_in_each_group_and_more_than_ranks_do(lm):
    rewards = lm.reward(lm.policy, lm.groups)
    ranker = Ranker(item_table(lm.policy, lm.items), temperature=0.05)
    ranking = ranker.rank(hidden_states(lm.policy, lm.groups), ranker.targets(lm.groups))
    gain = ndcg(ranking, len(TITLES)).view(rewards.shape)
    assert not is_dead(rewards, floor=FLOOR).any()
    assert equal_pairs(rewards) < 0.05 < equal_pairs(gain)


def test_a_text_about_the_target_earns_most(lm):
    """Copying the history, or naming another item, must not do as well."""
    gained = []
    for group, (*history, target), (*_, other) in zip(
        lm.groups, SHOPS, SHOPS[1:] + SHOPS[:1], strict=True
    ):
        copied = f"The user likes {', '.join(history)}."
        texts = [f"The user needs {title} next." for title in (target, other)]
        right, wrong, copy, masked = told(
            lm, group, *texts, copied, without_history(copied, history)
        )
        assert right > max(wrong, copy) + 1
        gained.append(copy - masked)
    # The trap: words of the history alone raise the reward, if only a little. A rise of
    # `copied_text` in the log shows that a policy lives on it.
    assert 0 < sum(gained) / len(gained) < 0.6
