"""Preference pairs: which rollouts they hold, and that TRL's DPO trainer takes them."""

from __future__ import annotations

import json
import math

import pytest
from helpers.loop import MODEL, one_process, spec_of

from minirec.config.training import TrainingConfig
from minirec.corpus.table import load_catalogue, load_samples
from minirec.export import formats
from minirec.export.formats import Example, Sample
from minirec.export.pairs import pair_of, preference_rows
from minirec.model.recommender import Encoder


def test_the_first_best_and_the_first_worst_rollout():
    found = pair_of(["a", "b", "c", "d", "e"], [0.2, 0.9, 0.1, 0.9, 0.1], floor=0.001)
    assert (found["chosen"], found["rejected"]) == ("b", "c")
    assert (found["chosen_reward"], found["rejected_reward"]) == (0.9, 0.1)


@pytest.mark.parametrize(
    ("texts", "rewards"),
    [([], []), (["a", "b"], [0.5, 0.5]), (["a", "b"], [0.5, 0.5005]), (["a", "a"], [0.1, 0.9])],
)
def test_rollouts_that_do_not_differ_have_no_pair(texts, rewards):
    assert pair_of(texts, rewards, floor=0.001) is None


def test_a_chat_has_messages():
    prompt = [{"role": "user", "content": "read"}]
    one = Example(4, Sample(7, [1], 2), prompt, "text")
    (row,) = preference_rows([one], {7: (["x", "y"], [0.0, 1.0])}, floor=0.1)
    assert row["chosen"] == [{"role": "assistant", "content": "y"}]
    assert (row["prompt"], row["sample_id"], row["rank"]) == (prompt, 7, 4)
    assert [*preference_rows([one], {}, floor=0.1)] == []


@pytest.mark.slow
def test_trl_trains_on_them(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with one_process():
        spec = spec_of(tmp_path, TrainingConfig(steps=1))
    catalogue = load_catalogue(tmp_path / "corpus")
    encoder = Encoder.load(spec.model_path, MODEL, category=catalogue.category)
    samples = load_samples(tmp_path / "corpus", "train")[:4]
    examples = [formats.example(i, s, encoder, catalogue) for i, s in enumerate(samples)]
    rollouts = {s.sample_id: (["likes blue <answer>", "none"], [0.9, 0.1]) for s in samples}
    file = tmp_path / "train.jsonl"
    formats.write(file, preference_rows(examples, rollouts, floor=0.001))
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 4
    pairs = datasets.load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec.model_path),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "dpo"),
            beta=0.1,
            max_length=128,
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
        ),
        train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=AutoTokenizer.from_pretrained(spec.model_path),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # Before the first update the policy is the reference: ln 2. The pairs are alike, so it falls.
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses[1] < losses[0]
