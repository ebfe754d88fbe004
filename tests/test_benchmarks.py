"""The benchmarks of real models and of the GPU run, with a tiny model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The benchmarks import each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import models

    return models.build(tmp_path_factory.mktemp("model"), models.TINY)


SIDES = (
    "minirec pass",
    "plain pass",
    "plain pass, logits of completions",
    "minirec step",
    "minirec step, catalogue encoded",
)


@pytest.mark.parametrize("side", SIDES)
def test_a_side_is_measured(model, side):
    import real_model
    import sides

    found = sides.measure(side, model, real_model.TINY, repeats=2)
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
    assert 0 < found["peak_gib"] < 4


@pytest.mark.slow
@pytest.mark.parametrize("side", ["trl step", "trl step, not checkpointed"])
def test_trl_takes_steps_of_the_same_sizes(model, side):
    """Its reward checks the lengths of the rollouts."""
    pytest.importorskip("trl")
    import real_model
    import sides

    found = sides.measure(side, model, real_model.TINY, repeats=2)
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0


def test_the_arithmetic_of_a_step_counts_nearly_all_that_torch_runs(model):
    """Torch also counts padding and masked pairs, so the arithmetic is the smaller one."""
    import real_model

    bench = real_model.Bench(model, real_model.TINY, repeats=1, product=64)
    figures, (goal,) = real_model.flops_case(bench)
    assert 0.85 < goal.value < 1
    # 12 items of 6 tokens, 4 candidates among them; 2 layers of 4 x 64 x 64 and 3 x 64 x 128
    # weights; LoRA of rank 16; 21 pairs in an item.
    weights, lora = 2 * (4 * 64 * 64 + 3 * 64 * 128), 2 * 16 * (4 * 128 + 3 * 192)
    catalogue = 2 * 12 * 6 * (weights + lora) + 4 * 12 * 21 * 2 * 64
    assert figures["by arithmetic"]["catalogue"] == catalogue


def test_the_plain_pass_reads_what_the_other_side_reads(model):
    """Its FLOPs: each rollout with its prompt, which the packed pass reads once."""
    import real_model
    import sides
    from one_step import process_group

    sizes = replace(real_model.TINY, rollouts=4, micro_batch=1)
    found = {}
    for side in ("minirec pass", "plain pass"):
        with process_group():
            once = sides.SIDES[side](model, sizes, Path())
            with real_model.counter() as counter:
                once()
        found[side] = counter.get_total_flops()
    # Tokens of a group: 40 + 4 x 8 against 4 x 48; logits of 8 tokens against 48.
    assert 2.5 < found["plain pass"] / found["minirec pass"] < 6


@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path):
    out = tmp_path / "out.json"
    words = ["step", "--tiny", "--repeats", "1", "--out", str(out)]
    subprocess.run([sys.executable, BENCHMARKS / "real_model.py", *words], check=True)
    case = json.loads(out.read_text())["cases"]["step"]
    seconds = case["figures"]["seconds"]
    parts = seconds["rollouts"] + seconds["training"] + seconds["synchronisation"]
    assert seconds["step"] == pytest.approx(parts)
    ideal = (
        sum(case["figures"]["FLOPs"].values()) / case["figures"]["FLOPs per second of a product"]
    )
    assert case["goals"][0]["value"] == pytest.approx(seconds["step"] / ideal)
