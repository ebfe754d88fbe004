"""The stage `model` with a GGUF file as model.name."""

import json
import shutil

import pytest
from helpers.gguf_file import tiny_lm, tiny_tokenizer, write_gguf
from helpers.small import finish

from actors.engines.engine import engine_choice
from jobs import cli
from jobs.fingerprint import policy_settings
from jobs.plan import plan
from jobs.stage import base_model
from jobs.stages.train import TRAIN
from minirec.config.reading import load
from minirec.store.files import MANIFEST
from minirec.store.run import Run


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    return write_gguf(path, tiny_lm("llama", tied=True), tiny_tokenizer())


@pytest.fixture
def minirec(tmp_path, capsys):
    """A function that runs a command in a run directory; returns its status and output."""

    def command(name, *words):
        status = cli.main([name, f"run_dir={tmp_path / 'run'}", *words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


def test_it_is_converted_once_and_known_by_its_content(minirec, llama, tmp_path):
    status, printed = minirec("model", f"model.name={llama}")
    assert status == 0 and "converting" in printed and "0.1 million parameters" in printed
    config = load(None, [f"run_dir={tmp_path / 'run'}", f"model.name={llama}"])
    run = Run(config.run_dir)
    assert base_model(run, config) == str(tmp_path / "run" / "model")
    assert {path.name for path in (tmp_path / "run" / "model").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        MANIFEST,
    }
    moved = tmp_path / "moved.gguf"
    shutil.copy(llama, moved)
    status, printed = minirec("model", f"model.name={moved}", "model.dtype=bfloat16")
    assert status == 0 and "model: finished before, skipped" in printed
    other = write_gguf(tmp_path / "other.gguf", tiny_lm("llama", tied=False), tiny_tokenizer())
    status, printed = minirec("model", f"model.name={other}")
    assert status == 1 and "stage model" in printed and "was made with model.gguf=" in printed


def test_stages_that_use_it_depend_on_its_content_through_the_stage_model(llama, tmp_path):
    moved = tmp_path / "moved.gguf"
    shutil.copy(llama, moved)
    here, there = (load(None, [f"model.name={path}"]) for path in (llama, moved))
    assert here.model != there.model
    assert policy_settings(here) == policy_settings(there)
    assert "model" in TRAIN.inputs(here)


def test_the_engine_and_the_plan_are_the_same_before_and_after(minirec, llama, tmp_path):
    config = load(None, [f"run_dir={tmp_path / 'run'}", f"model.name={llama}"])
    before = plan(config), engine_choice(config)
    assert ("model", "GGUF file", "0.1 million parameters; as safetensors 0.00 GiB") in before[0]
    assert minirec("model", f"model.name={llama}")[0] == 0
    assert (plan(config), engine_choice(config)) == before


@pytest.mark.parametrize("command", ["plan", "run", "train"])
def test_a_bad_file_is_refused_before_anything_starts(minirec, tmp_path, command):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF\3\0\0\0")
    status, printed = minirec(command, f"model.name={path}")
    assert status == 2 and "bad.gguf is cut off or damaged; fetch it again" in printed
    status, printed = minirec(command, "model.name=none.gguf")
    assert status == 2 and "none.gguf is missing; give the path of a GGUF file" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.ray
def test_a_whole_run(llama, tmp_path):
    words = [f"model.name={llama}", "model.max_prompt_tokens=500", "training.steps=2"]
    finish(tmp_path / "run", "run", *words)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["policies"]["trained"]["test"]["ndcg@10"]["mean"] >= 0
