"""The warm-up of the demo model: its texts, matching, and their effect."""

from __future__ import annotations

import math
import random
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import CONFIG, ITEMS, PAIRS, TITLES, built

from minirec.corpus import prompts
from minirec.model import demo
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, load_policy


def named_before_others(path, config):
    """Share of (item of the history, other item) pairs whose first is nearer to the prompt."""
    encoder = Encoder.load(path, config, category="demo")
    policy = load_policy(path, config, encoder.tokenizer)
    table = item_table(policy, [encoder.item(*item) for item in ITEMS])
    texts = [encoder.prompt([TITLES[i] for i in pair]) + encoder.answer_ids for pair in PAIRS]
    with torch.no_grad():
        scores = policy(texts)[0] @ table.T
    right = [
        scores[row, named] > scores[row, other]
        for row, pair in enumerate(PAIRS)
        for named in pair
        for other in set(range(5)) - set(pair)
    ]
    return float(torch.stack(right).float().mean())


@pytest.mark.slow
def test_matching_draws_a_history_to_the_items_that_it_names(tmp_path):
    shares = []
    for weight in (0, 3):  # large enough for an effect within a hundred steps
        warm = CONFIG.demo.model_copy(update={"warmup_steps": 100, "warmup_match": weight})
        config = CONFIG.model_copy(update={"demo": warm})
        shares.append(named_before_others(built(tmp_path / str(weight), config), config))
    assert shares[1] > 0.85 > 0.65 > shares[0]


def test_the_match_loss_is_that_of_the_one_named_item_among_those_not_named(folder, encoder):
    policy = load_policy(folder, CONFIG, encoder.tokenizer)
    table = item_table(policy, [encoder.item(*item) for item in ITEMS])
    vectors = torch.randn(2, table.shape[1], generator=torch.Generator().manual_seed(0))
    about = [(), (2, 3)]
    got = [
        float(demo._match_loss(policy, encoder, vectors, about, ITEMS, random.Random(seed)))
        for seed in range(12)
    ]
    scores = F.normalize(vectors[1], dim=0) @ table.T / CONFIG.temperature
    rivals = [0, 1, 4]
    expected = [
        float(torch.logsumexp(scores[[named, *rivals]], 0) - scores[named]) for named in (2, 3)
    ]
    near = [{i for i in (0, 1) if loss == pytest.approx(expected[i], rel=1e-4)} for loss in got]
    assert all(near)
    assert set.union(*near) == {0, 1}


def test_matching_is_with_items_that_the_prompt_still_names(encoder):
    demo_config = CONFIG.demo.model_copy(update={"warmup_match": 1.0})
    config = CONFIG.model_copy(update={"demo": demo_config, "max_prompt_tokens": 16})
    short = Encoder(encoder.tokenizer, config, category="demo")
    rng, cut = random.Random(0), 0
    for _ in range(20):
        made = demo._text(short, [[0, 1, 2, 3, 4]], ITEMS, rng)
        text = short.tokenizer.decode(made.ids)
        assert all(f"{TITLES[i]} |" in text or f"{TITLES[i]}\nLikes" in text for i in made.named)
        cut += 0 < len(made.named) < 5
    assert cut


def answered(encoder, *, match, max_item_tokens=CONFIG.max_item_tokens):
    """Prompts and analyses, as text, of twenty warm-up texts about two items."""
    update = {"warmup_match": match, "warmup_batch": 1}
    settings = {"demo": CONFIG.demo.model_copy(update=update), "max_item_tokens": max_item_tokens}
    changed = Encoder(encoder.tokenizer, CONFIG.model_copy(update=settings), category="demo")
    rng = random.Random(0)
    made = [demo._text(changed, [[0, 1]], ITEMS, rng) for _ in range(20)]
    decode = encoder.tokenizer.decode
    texts = [(decode(t.ids[: -t.answer]), decode(t.ids[-t.answer :])) for t in made if t.answer]
    assert 0 < len(texts) < 20
    return [(prompt, said.removesuffix(prompts.ANSWER)) for prompt, said in texts]


@pytest.mark.parametrize(("max_item_tokens", "whole"), [(2, 2), (12, 5)])
def test_a_matching_text_answers_in_words_that_its_prompt_shows(encoder, max_item_tokens, whole):
    texts = answered(encoder, match=1.0, max_item_tokens=max_item_tokens)
    assert all(
        {w.strip() for w in said.split(",")} <= {*re.findall(r"\w+", prompt), "anything"}
        for prompt, said in texts
    )
    assert any(said.strip() != "anything" for _, said in texts)
    shown = {t for t in TITLES if any(t in prompt for prompt, _ in texts)}
    assert len(shown) == whole  # the other titles are cut


def test_without_matching_the_answer_is_about_the_history_in_lower_case(encoder):
    words = {"jazz", "piano", "night", "sax", "morning"}
    for prompt, said in answered(encoder, match=0):
        assert prompt == "History: Jazz Piano Night | Jazz Sax Morning\nLikes:"
        assert {w.strip() for w in said.split(",")} <= words


def test_a_word_occurs_once_with_the_spelling_of_the_latest_title():
    said = prompts.analysis(["PEN pen", "Pen"], rng=random.Random(0), as_written=True)
    assert said == " Pen "


def test_answers_have_nine_tenths_of_the_next_token_loss():
    batch = [demo._Text([0, 1, 1], (4,), 1), demo._Text([0, 1])]
    ids, mask = torch.tensor([[0, 1, 1], [0, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    logits = torch.tensor([[[0.0, 0.0], [0.0, 2.0], [9.0, 0.0]], [[3.0, 0.0], [9.0, 0.0], [0, 0]]])
    even, said, item = math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(3))
    expected = 0.1 * (even + said + item) / 3 + 0.9 * said
    assert float(demo._next_token_loss(logits, ids, mask, batch)) == pytest.approx(expected)
