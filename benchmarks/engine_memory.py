"""Resident memory of a vLLM engine over calls with prompts of varying length, on the CPU.

.venv/bin/python benchmarks/engine_memory.py runs/demo/model [--calls 240] [--trim 8]

`--trim` is the number of calls after which free memory is returned to the system, like
`actors.pool.actor.TRIM_CALLS`; 0: never.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

from actors.engines.engine import EngineSpec, engine_environment
from actors.pool.actor import TRIM_CALLS
from actors.process import trim

PROMPTS, ROLLOUTS = 32, 2
LENGTHS = (60, 127)


def resident_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Print the memory every 40 calls, and the seconds of all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--trim", type=int, default=TRIM_CALLS)
    args = parser.parse_args()
    spec = EngineSpec(model=args.model, max_model_len=LENGTHS[1] + 13, max_new_tokens=12)
    os.environ.update(engine_environment(spec))
    from actors.engines.vllm import VllmEngine

    engine = VllmEngine(spec)
    draw = random.Random(0)
    print(f"started: {resident_mib():,.0f} MiB")
    start = time.monotonic()
    for call in range(1, args.calls + 1):
        prompts = [
            [draw.randrange(300) for _ in range(draw.randint(*LENGTHS))] for _ in range(PROMPTS)
        ]
        engine.generate(prompts, n=ROLLOUTS, seeds=[draw.randrange(2**40) for _ in prompts])
        if args.trim and call % args.trim == 0:
            trim()
        if call % 40 == 0:
            print(
                f"{call:,} calls, {call * PROMPTS * ROLLOUTS:,} rollouts: {resident_mib():,.0f} MiB"
            )
    print(f"{time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
