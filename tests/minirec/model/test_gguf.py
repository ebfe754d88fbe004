"""GGUF files: what their header says, which are refused, and that a conversion changes nothing."""

import json
import shutil
import unicodedata

import pytest
import torch
from helpers.gguf_file import TEMPLATE, tiny_lm, tiny_tokenizer, write_gguf
from helpers.smollm import smollm
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2Tokenizer

from minirec.config.model import ModelConfig
from minirec.errors import ConfigError
from minirec.model.gguf import convert, read_header, sha256
from minirec.resources.estimates import local_shape, shape_of

PRE = {"llama": "smollm", "qwen2": "qwen2"}
TEXTS = ["the user likes  42 blue pens", "<|im_start|>a desk<|im_end|>", "Café of 1999 ☕"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    return write_gguf(path, tiny_lm("llama", tied=True), tiny_tokenizer())


def written(path, family, *, tied=True, **values):
    """A GGUF file of a tiny model, and the model."""
    lm = tiny_lm(family, tied=tied)
    rules = {"tokenizer.ggml.pre": PRE[family]} | values
    return write_gguf(path, lm, tiny_tokenizer(), **rules), lm


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("qwen2", True)])
def test_a_converted_model_gives_the_logits_of_the_original(tmp_path, family, tied):
    path, lm = written(tmp_path / "a.gguf", family, tied=tied)
    folder = tmp_path / "model"
    folder.mkdir()
    convert(path, folder)
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    ids = torch.arange(60)[None] * 5
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, lm(ids).logits, atol=1e-5, rtol=0)
    shape = shape_of(str(folder))
    assert shape == local_shape(ModelConfig(name=str(path)))
    assert (
        shape.parameters == read_header(path).parameters == sum(map(torch.numel, lm.parameters()))
    )


def test_the_tokenizer_and_its_chat_template_survive(llama, tmp_path):
    convert(llama, tmp_path)
    before, after = tiny_tokenizer(), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = before.encode(text, add_special_tokens=False)
        assert after.encode(text, add_special_tokens=False) == ids
        assert after.decode(ids) == text
    names = ("eos_token_id", "bos_token_id", "pad_token_id", "chat_template")
    assert [getattr(after, name) for name in names] == [2, 1, 2, TEMPLATE]
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 2


def test_qwen2_splits_texts_by_its_own_rules(tmp_path):
    """Other rules than GPT-2's: each digit alone, and words with the sign before them."""
    path, _ = written(tmp_path / "a.gguf", "qwen2")
    convert(path, tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    content = json.loads(found.backend_tokenizer.to_str())["model"]
    own = Qwen2Tokenizer(vocab=content["vocab"], merges=[tuple(m) for m in content["merges"]])
    for text in [*TEXTS[::2], "It's (pens)\n\n  12345 I'LL", unicodedata.normalize("NFD", "Café")]:
        ids = own.encode(text, add_special_tokens=False)
        assert found.encode(text, add_special_tokens=False) == ids
    assert found.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a (pens)") == (
        own.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a (pens)")
    )


def test_two_conversions_write_the_same_bytes(llama, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        convert(llama, tmp_path / name)
    first = {path.name: sha256(path) for path in (tmp_path / "a").iterdir()}
    assert first == {path.name: sha256(path) for path in (tmp_path / "b").iterdir()}


def test_a_file_is_known_by_its_content(llama, tmp_path):
    copy = tmp_path / "other.gguf"
    shutil.copy(llama, copy)
    assert sha256(copy) == sha256(llama)
    copy.write_bytes(llama.read_bytes()[:-1] + b"!")
    assert sha256(copy) != sha256(llama)


@pytest.mark.parametrize("left", [4, 20, 400, 4000, -1])
def test_a_truncated_file_is_refused(llama, tmp_path, left):
    part = tmp_path / "part.gguf"
    part.write_bytes(llama.read_bytes()[:left])
    with pytest.raises(ConfigError, match=r"model.name=.*part.gguf is cut off or damaged; fetch"):
        read_header(part)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\3\4 a zip file"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no GGUF file: it does not begin with GGUF"):
        read_header(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a.gguf is missing; give the path of a GGUF file"):
        read_header(tmp_path / "a.gguf")
    with pytest.raises(ConfigError, match="is not on this machine; give a local GGUF file"):
        read_header("s3://bucket/a.gguf")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, "its tokenizer is gpt2 with the rules tekken"),
        ({"llama.rope.scaling.type": "yarn"}, "it scales the positions of tokens"),
    ],
)
def test_a_file_that_would_become_another_model_is_refused(tmp_path, values, why):
    path, _ = written(tmp_path / "a.gguf", "llama", **values)
    with pytest.raises(ConfigError, match=f"cannot be converted faithfully: {why}; take the fold"):
        read_header(path)


def test_an_unknown_architecture_is_refused(llama, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(
        llama.read_bytes().replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0mamba", 1)
    )
    with pytest.raises(ConfigError, match="its architecture is mamba, not llama or qwen2"):
        read_header(path)


def test_missing_weights_are_not_made_up(llama, tmp_path):
    """transformers would draw them at random."""
    path = tmp_path / "a.gguf"
    path.write_bytes(llama.read_bytes().replace(b"blk.1.ffn_up", b"blk.9.ffn_up"))
    with pytest.raises(ConfigError, match=r"lacks the weights model.layers.1.mlp.up_proj.weight"):
        convert(path, tmp_path)


@pytest.mark.long
def test_smollm2_answers_after_its_conversion(tmp_path):
    """Wrong weights, positions or tokens would give another answer."""
    convert(smollm(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(prompt, add_special_tokens=False, return_tensors="pt")
    written = lm.generate(ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=12)
    assert "Paris" in tokenizer.decode(written[0, ids.shape[1] :])
    assert tokenizer.eos_token == "<|im_end|>"
    assert local_shape(ModelConfig(name=str(smollm()))) == shape_of(str(tmp_path))
