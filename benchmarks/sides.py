"""The sides that real_model.py compares, each in a process of its own for its peak memory.

.venv/bin/python benchmarks/sides.py NAME --model FOLDER --sizes JSON [--repeats 1]

Prints JSON: seconds of each repeat after one to warm up, and the peak memory in GiB above the
memory before the model was loaded, when all libraries were.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sized_models as models
import torch
from one_step import RANK, Sizes, Step, seconds

from actors.process import trim
from minirec.rl.candidates import Candidates


def memory(key: str) -> int:
    """Bytes of this process: VmRSS is resident now, VmHWM was resident at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {key}; run this on Linux")


def load_libraries(side: str) -> None:
    """Import what the side needs, so that its memory is not counted."""
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import actors.engines.transformers  # noqa: F401

    if side.startswith("trl"):
        import datasets  # noqa: F401
        from trl import GRPOConfig, GRPOTrainer  # noqa: F401


# Forward and backward


def minirec_pass(model: str, sizes: Sizes, folder: Path, *, checkpointing: bool = False) -> Any:
    """Forward and backward of a step, with rewards and both losses; the table is random."""
    step = Step(model, sizes, folder=folder)
    step.policy.checkpoint_activations(checkpointing)
    groups = step.random_groups()
    table = torch.nn.functional.normalize(torch.randn(sizes.items, step.shape.hidden), dim=-1)
    ids = torch.tensor(sorted({group.target for group in groups}))

    def once() -> None:
        vectors = table[ids].clone().requires_grad_(True)
        step.forward_backward(groups, Candidates(ids, vectors, table))

    return once


def checkpointed_pass(model: str, sizes: Sizes, folder: Path) -> Any:
    return minirec_pass(model, sizes, folder, checkpointing=True)


def plain_pass(model: str, sizes: Sizes, folder: Path, *, completions_only: bool = False) -> Any:
    """The same prompts with transformers and peft: each rollout with its prompt, and the
    policy-gradient loss alone. Prompts share a micro-batch as in `minirec_pass`.

    Args:
        completions_only: logits of the completions only (`logits_to_keep`), else of all tokens.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    lm = get_peft_model(lm, lora)
    vocabulary, count = models.shape_in(model).vocabulary, sizes.prompts * sizes.rollouts
    prompts = models.random_tokens(sizes.prompts, sizes.prompt, vocabulary=vocabulary, seed=1)
    # With the answer marker, as in the groups of the other side.
    written = models.random_tokens(count, sizes.completion, vocabulary=vocabulary, seed=3)
    ids = torch.tensor([prompts[n // sizes.rollouts] + row for n, row in enumerate(written)])
    advantage = torch.randn(count)
    length, rows = sizes.completion, sizes.micro_batch * sizes.rollouts
    kept = {"logits_to_keep": length + 1} if completions_only else {}

    def once() -> None:
        for batch, weight in zip(ids.split(rows), advantage.split(rows), strict=True):
            logits = lm(input_ids=batch, attention_mask=torch.ones_like(batch), **kept).logits
            logprobs = torch.log_softmax(logits[:, -length - 1 : -1], -1)
            chosen = logprobs.gather(-1, batch[:, -length:, None])[..., 0]
            (-(chosen * weight[:, None]).sum() / (count * length)).backward()

    return once


def lean_pass(model: str, sizes: Sizes, folder: Path) -> Any:
    return plain_pass(model, sizes, folder, completions_only=True)


# A whole step


def minirec_step(model: str, sizes: Sizes, folder: Path, *, refresh: bool = False) -> Any:
    """Rollouts, passes, optimizer and synchronisation.

    Args:
        refresh: encode the catalogue anew in each step; otherwise the first table stays.
    """
    step = Step(model, sizes, folder=folder, refresh_steps=1 if refresh else 10**9)

    def once() -> None:
        step.train(step.roll_out())
        step.sync()

    return once


def refreshed_step(model: str, sizes: Sizes, folder: Path) -> Any:
    return minirec_step(model, sizes, folder, refresh=True)


def trl_step(model: str, sizes: Sizes, folder: Path, *, checkpointing: bool = True) -> Any:
    """A step of TRL's GRPOTrainer: its defaults, with `use_cpu` and LoRA by `peft_config`.

    Args:
        checkpointing: `gradient_checkpointing`, which TRL turns on by default.
    """
    import datasets
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    vocabulary = models.shape_in(model).vocabulary
    rows = models.random_tokens(sizes.prompts, sizes.prompt, vocabulary=vocabulary, seed=1)
    prompts = [{"prompt": tokenizer.decode(row)} for row in rows]

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert all(len(ids) == sizes.completion for ids in completion_ids)
        return [ids[-1] / vocabulary for ids in completion_ids]

    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=sizes.prompts * sizes.rollouts,
        num_generations=sizes.rollouts,
        max_completion_length=sizes.completion,
        generation_kwargs={"min_new_tokens": sizes.completion},
        gradient_checkpointing=checkpointing,
        max_steps=10**6,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=datasets.Dataset.from_list(prompts),
        processing_class=tokenizer,
        peft_config=lora,
    )


def trl_plain_step(model: str, sizes: Sizes, folder: Path) -> Any:
    return trl_step(model, sizes, folder, checkpointing=False)


def trainer_seconds(trainer: Any, repeats: int) -> list[float]:
    """Seconds of each step of a Trainer after the first, from end to end."""
    import time

    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            ends.append(time.perf_counter())
            control.should_training_stop = len(ends) > repeats
            return control

    trainer.add_callback(Clock())
    trainer.train()
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]


SIDES: dict[str, Callable[[str, Sizes, Path], Any]] = {
    "minirec pass": minirec_pass,
    "minirec pass, checkpointed": checkpointed_pass,
    "plain pass": plain_pass,
    "plain pass, logits of completions": lean_pass,
    "minirec step": minirec_step,
    "minirec step, catalogue encoded": refreshed_step,
    "trl step": trl_step,
    "trl step, not checkpointed": trl_plain_step,
}


def measure(side: str, model: str, sizes: Sizes, *, repeats: int) -> dict[str, Any]:
    """Seconds of each repeat after the first, and the peak in GiB."""
    load_libraries(side)
    trim()
    start = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        once = SIDES[side](model, sizes, Path(folder))
        if side.startswith("trl"):
            taken = trainer_seconds(once, repeats)
        else:
            taken = [seconds(once)[0] for _ in range(1 + repeats)][1:]
    return {"seconds": taken, "peak_gib": (memory("VmHWM") - start) / 2**30}


def main() -> None:
    """Measure one side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", required=True, type=json.loads)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    found = measure(args.side, args.model, Sizes(**args.sizes), repeats=args.repeats)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
