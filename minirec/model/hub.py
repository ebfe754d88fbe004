"""Fetches a model from the Hugging Face hub before anything waits for it; loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minirec.config.model import ModelConfig
from minirec.errors import ConfigError

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
"""What transformers and vLLM read: configs, weights, tokenizer, chat template, code."""
NOT = ("*/*.safetensors", "consolidated*")
"""A second copy of the weights that some models have."""


def hub_name(model: ModelConfig) -> str | None:
    """The name of the model on the hub; None if it is built or in a folder.

    Raises:
        ConfigError: it can only be a folder, and this machine has none there.
    """
    if model.built or "://" in model.name or Path(model.name).is_dir():
        return None
    if model.name.startswith(("/", ".")):
        raise ConfigError(
            f"model.name={model.name} is no folder on this machine; give the folder of a model, a "
            f"GGUF file, or a name on the hub such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    return model.name


def fetch_model(name: str, *, download: Callable[..., str] | None = None) -> str:
    """Fetch what is missing of a model into the cache of this machine; returns the folder there.

    Without a network, a model that is in the cache is taken as it is.

    Args:
        download: replaces `huggingface_hub.snapshot_download` in tests.

    Raises:
        ConfigError: the hub cannot be reached, has no such model, or has it without safetensors.
    """
    from huggingface_hub import errors, snapshot_download

    download = download or snapshot_download
    instead = "or give a local folder or GGUF file as model.name"
    try:
        folder = download(name, allow_patterns=list(FILES), ignore_patterns=list(NOT))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ConfigError(
            f"the Hugging Face hub has no model {name} for you; correct model.name, log in with "
            f"`hf auth login` if the model asks for it, {instead}"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        why = type(error.__cause__ or error).__name__
        raise ConfigError(
            f"the Hugging Face hub cannot be reached ({why}), and the cache of this machine has "
            f"not all of the model {name}; connect the machine and run the same command again, "
            f"{instead}"
        ) from None
    if not any(Path(folder).glob("*.safetensors")):
        raise ConfigError(
            f"the model {name} on the Hugging Face hub has no safetensors; choose another, "
            f"{instead}"
        )
    return folder


def downloaded(model: str) -> str:
    """The folder of a hub model that `fetch_model` has fetched; another text is returned unchanged.

    Processes load the model from it, so that no deadline of theirs includes a request to the hub.
    """
    from huggingface_hub import errors, snapshot_download

    if "://" in model or Path(model).exists():
        return model
    try:
        return snapshot_download(model, local_files_only=True)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return model


def check_reference(folder: str) -> None:
    """Raise `ConfigError` unless the folder holds a model."""
    if not (Path(folder) / "config.json").exists():
        raise ConfigError(
            f"reward.reference {folder} is no folder with a model (config.json is missing there); "
            f"give the folder of an LM in safetensors on a disk that all machines share, or base"
        )
