"""How a step is cut into the calls that engines take."""

import pytest

from actors.engines.engine import GPU_PROMPTS, most_prompts_per_call, resolve_prompts_per_call
from actors.pool.actor import calls_of
from jobs.fingerprint import rollout_settings
from minirec.config.reading import load

PROMPTS = [[i] for i in range(32)]
GPU = "resources.gpus_per_engine=1"


def sizes(prompts, *, size, engines):
    calls = calls_of(
        PROMPTS[:prompts], n=4, seeds=list(range(prompts)), size=size, engines=engines, greedy=False
    )
    assert [p for call in calls for p in call.prompts] == PROMPTS[:prompts]
    assert [s for call in calls for s in call.seeds] == list(range(prompts))
    assert all(call.n == 4 and not call.greedy for call in calls)
    return [len(call.prompts) for call in calls]


@pytest.mark.parametrize(
    ("prompts", "size", "engines", "expected"),
    [
        (32, 8, 1, [8, 8, 8, 8]),
        (32, 8, 6, [8, 8, 8, 8]),  # a number does not depend on the engines
        (12, 8, 2, [8, 4]),
        (32, None, 1, [32]),
        (32, None, 2, [16, 16]),
        (32, None, 6, [6, 6, 6, 6, 6, 2]),
        (3, None, 8, [1, 1, 1]),
        (5, None, 0, [5]),  # no engine is up yet
        (0, None, 2, []),
        (0, 8, 2, []),
    ],
)
def test_sizes_of_calls(prompts, size, engines, expected):
    assert sizes(prompts, size=size, engines=engines) == expected


def test_a_call_to_a_gpu_is_never_too_large():
    asked = [[i] for i in range(150)]
    calls = calls_of(asked, n=1, seeds=[0] * 150, size=None, engines=1, greedy=True)
    assert [len(call.prompts) for call in calls] == [50, 50, 50] and GPU_PROMPTS >= 50


@pytest.mark.parametrize(
    ("words", "expected", "most"),
    [
        ([], 8, 8),
        (["rollout.prompts_per_call=32"], 32, 32),
        ([GPU], None, 64),
        ([GPU, "rollout.prompts_per_call=32"], 32, 32),
        (["resources.gpus_per_engine=auto"], None, 64),
    ],
)
def test_auto_depends_on_the_settings_alone(words, expected, most):
    config = load(overrides=words)
    assert resolve_prompts_per_call(config) == expected
    assert most_prompts_per_call(config) == most
    assert rollout_settings(config)["prompts_per_call"] == (expected or "auto")


def test_by_default_four_engines_share_a_step():
    config = load()
    size = resolve_prompts_per_call(config)
    prompts = config.training.prompts_per_step
    assert len(sizes(min(prompts, 32), size=size, engines=1)) == 4
