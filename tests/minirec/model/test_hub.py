"""Models of the hub are fetched before they are used, and what fails is one sentence."""

import fnmatch

import pytest
from huggingface_hub import errors

from minirec.config.model import ModelConfig
from minirec.errors import ConfigError
from minirec.model.hub import FILES, NOT, downloaded, fetch_model, hub_name


def test_only_names_of_the_hub_are_fetched(tmp_path):
    assert hub_name(ModelConfig(name="Qwen/Qwen2.5-0.5B-Instruct")) == "Qwen/Qwen2.5-0.5B-Instruct"
    for name in ("demo", str(tmp_path), "models/a.gguf", "s3://bucket/model"):
        assert hub_name(ModelConfig(name=name)) is None
    for name in (f"{tmp_path}/none", "./none"):
        with pytest.raises(ConfigError, match=r"none is no folder on this machine; give the fold"):
            hub_name(ModelConfig(name=name))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("tokenizer.model", True),
        ("merges.txt", True),
        ("chat_template.jinja", True),
        ("modeling_own.py", True),
        ("pytorch_model.bin", False),
        ("original/consolidated.safetensors", False),
        ("consolidated.safetensors", False),
        ("model.gguf", False),
        ("README.md", False),
    ],
)
def test_which_files_are_fetched(name, read):
    def matches(patterns):
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert (matches(FILES) and not matches(NOT)) == read


def test_the_folder_of_a_fetched_model(tmp_path):
    asked = []

    def download(name, *, allow_patterns, ignore_patterns):
        asked.append((name, allow_patterns, ignore_patterns))
        return str(tmp_path)

    with pytest.raises(ConfigError, match="the model a/b .*has no safetensors; choose another"):
        fetch_model("a/b", download=download)
    (tmp_path / "model.safetensors").touch()
    assert fetch_model("a/b", download=download) == str(tmp_path)
    assert asked[1] == ("a/b", list(FILES), list(NOT))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.LocalEntryNotFoundError("nothing"), r"cannot be reached \(LocalEntryNotFoundErr"),
        (
            errors.OfflineModeIsEnabled("offline"),
            r"cannot be reached \(OfflineModeIsEnabled\), and",
        ),
        (errors.HFValidationError("a name"), "has no model a/b for you; correct model.name"),
    ],
)
def test_a_hub_that_gives_nothing_is_one_sentence(error, sentence):
    def download(name, **_):
        raise error

    with pytest.raises(ConfigError, match=sentence) as raised:
        fetch_model("a/b", download=download)
    assert str(raised.value).endswith("or give a local folder or GGUF file as model.name")


def test_a_full_disk_is_reported_as_such():
    def download(name, **_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fetch_model("a/b", download=download)


def test_an_unreachable_hub_in_truth(tmp_path):
    """The real client, with an address where nothing listens."""
    from huggingface_hub import snapshot_download

    def download(name, **patterns):
        return snapshot_download(
            name, cache_dir=tmp_path, endpoint="http://127.0.0.1:9", **patterns
        )

    with pytest.raises(ConfigError, match="the Hugging Face hub cannot be reached"):
        fetch_model("a/b", download=download)


def test_a_model_that_was_not_fetched_or_is_no_model_of_the_hub_stays_as_it_is(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path), "s3://bucket/model", "nobody/has-this-model", "not a name!"):
        assert downloaded(name) == name
