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
    import sized_models as models

    return models.build(tmp_path_factory.mktemp("model"), models.TINY)


SIDES = (
    "minirec pass",
    "minirec pass, checkpointed",
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

    sizes = replace(real_model.TINY, rollouts=4, micro_batch=1)
    found = {}
    for side in ("minirec pass", "plain pass"):
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


@pytest.mark.slow
def test_the_gpu_benchmark_runs_all_its_parts_on_a_cpu(tmp_path):
    """With a tiny model. DeepSpeed makes a step, and the engine agrees with the trainer."""
    out = tmp_path / "gpu.json"
    words = ["--tiny", "--repeats", "1", "--out", str(out)]
    subprocess.run([sys.executable, BENCHMARKS / "gpu.py", *words], check=True)
    parts = json.loads(out.read_text())["parts"]
    assert not [name for name, part in parts.items() if {"skipped", "failed"} & part.keys()]
    assert parts["training"]["training tokens per second"] > 0
    assert parts["rollouts"]["mean abs log-ratio"] < 1e-4
    assert parts["MaxMin"].keys() == {"MaxMin seconds", "MaxMin seconds with NumPy"}


def test_figures_are_judged_by_the_bounds_of_the_gpu():
    import gpu

    figures = {"training tokens per second": 75, "MaxMin seconds": 0.2, "MFU of training": None}
    bounds = {"training tokens per second": 100, "MaxMin seconds": 0.13}
    goals = {"training tokens per second": {"value": 70, "from": "a table"}}
    lines, kept = gpu.judged(figures, bounds, goals)
    # 75 is at least 0.7 x 100; 0.2 is more than 0.13 / 0.7 = 0.186.
    assert lines == [
        "training tokens per second: 75; bound 100 kept; goal 70 met (a table)",
        "MaxMin seconds: 0.2; bound 0.13 BROKEN",
    ]
    assert not kept


def test_bounds_are_those_of_known_gpus():
    import gpu

    stored = json.loads(gpu.BOUNDS.read_text())
    assert stored["goals"].keys() <= gpu.FIGURES.keys()
    assert all(bounds.keys() <= gpu.FIGURES.keys() for bounds in stored["bounds"].values())


def test_a_part_without_its_library_is_skipped():
    import gpu

    def needs_a_library():
        import no_such_library  # noqa: F401

    assert gpu.part(needs_a_library) == {"skipped": "no_such_library is not installed"}
    assert "failed" in gpu.part(lambda: 1 / 0)


def test_pseudo_targets_are_counted_by_their_confidence():
    import pandas as pd
    import pseudo_targets

    rows = [
        (1.0, True, 7, True, False, True),
        (1.0, True, 7, False, False, False),
        (0.5, True, 2, False, True, False),
        (0.5, False, 3, True, False, True),
    ]
    names = ["confidence", "unique", "item", "pseudo-target", "popularity", "without rollout"]
    found = pseudo_targets.by_confidence(pd.DataFrame(rows, columns=names))
    assert found["prompts"].tolist() == [1, 2, 4]
    assert found["pseudo-target"].tolist() == [0, 0.5, 0.5]
    assert found["popularity"].tolist() == [1, 0, 0.25]
    assert found["largest share of an item"].tolist()[:2] == [1, 1]


def test_the_load_counts_each_answer_and_each_failure():
    """Of twelve requests every third gets a 503, and every fourth no answer at all."""
    import asyncio
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import serving

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            number = int(self.path[1:])
            if number % 4 == 0:
                self.close_connection = True
                return
            body = b'{"items": []}'
            self.send_response(503 if number % 3 == 0 else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    requests = [
        f"POST /{number} HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        for number in range(1, 13)
    ]
    seconds, failures, wall = asyncio.run(serving.load(server.server_port, requests, connections=3))
    server.shutdown()
    assert len(seconds) == 9  # 4, 8 and 12 have no answer
    assert failures == 3 + 3  # 3, 6 and 9
    found = serving.figures([(seconds, failures, wall)])
    assert (found["answers"], found["failures"]) == (9, 6)
