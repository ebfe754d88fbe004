"""Exercise: a judge of your own.

A judge is a function of a prompt and the texts of its rollouts that returns their positions, the
best first: ``[2, 0, 1]`` if text 2 is the best and text 1 the worst. Positions in a list of their
own are a tie: ``[2, [0, 1]]``. It is named by the setting ``reward.judge`` as
``package.module:function``, and may ask an LLM. It gets distinct texts, in a shuffled order.
"""

from __future__ import annotations

from minirec.config.choices import JUDGES
from minirec.config.reading import load
from minirec.rl.judge import judge_all


def most_words_of_its_own(prompt: str, texts: list[str]) -> list[int]:
    """The text with the most different words that the prompt does not have is the best."""
    known = set(prompt.lower().split())
    own = [len(set(text.lower().split()) - known) for text in texts]
    return sorted(range(len(texts)), key=lambda position: -own[position])


def test_the_setting_names_the_judge():
    reward = load(None, [f"reward.judge={__name__}:most_words_of_its_own"]).reward
    prompt = "1. blue pens\n2. red paper"
    texts = ["blue pens", "needs a desk next", "likes paper", "likes paper"]
    found = judge_all(
        JUDGES.find(reward.judge),
        [(prompt, texts)],
        [1],
        name=reward.judge,
        calls=reward.judge_calls,
        deadline_s=reward.judge_deadline_s,
    )
    # Three ranks of four rollouts: 1/4 for the worst text, 3/4 for the best, equal texts share.
    assert found == [[0.25, 0.75, 0.5, 0.5]]
