"""GGUF files, the format of llama.cpp: their header, and conversion to safetensors.

The layout of the header is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
`read_header` loads no torch. It refuses files of which transformers would make another network or
another tokenizer without saying so.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirec.errors import ConfigError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Codes of `struct` by the number of a type in the header."""
STRING, ARRAY = 8, 9
SPLITTERS = {"llama": ("default", "gpt-2", "smollm"), "qwen2": ("qwen2",)}
"""Architectures, and for each the ways to split a text that its tokenizer may have."""
INSTEAD = "take the folder of the model with safetensors instead"


@dataclass(frozen=True)
class Header:
    """What stands before the weights.

    values: the metadata, without its arrays.
    sizes: of each tensor by its name, the innermost dimension first.
    parameters: number of weights.
    """

    values: dict[str, Any]
    sizes: dict[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture"))

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.sizes.values()))

    def config(self) -> dict[str, Any]:
        """The sizes under the names of the config.json that `convert` writes."""

        def value(key: str) -> Any:
            return self.values.get(f"{self.architecture}.{key}")

        llama = self.architecture == "llama"
        return {
            "model_type": self.architecture,
            "num_hidden_layers": value("block_count"),
            "hidden_size": value("embedding_length"),
            "num_attention_heads": value("attention.head_count"),
            "num_key_value_heads": value("attention.head_count_kv"),
            "head_dim": value("rope.dimension_count") if llama else None,
            "intermediate_size": value("feed_forward_length"),
            "vocab_size": self.sizes["token_embd.weight"][1],
            "tie_word_embeddings": "output.weight" not in self.sizes,
        }


def read_header(path: str | Path) -> Header:
    """The header of a GGUF file that `convert` can convert.

    Raises:
        ConfigError: the file is missing, truncated or no GGUF file, or it holds a model that
            cannot be converted faithfully.
    """
    file = _found(path)
    state = file.stat()
    return _read_header(file, state.st_size, state.st_mtime_ns)


def sha256(path: str | Path) -> str:
    """Hash of the file's content. Raises `ConfigError` if it is missing."""
    file = _found(path)
    state = file.stat()
    return _sha256(file, state.st_size, state.st_mtime_ns)


def convert(path: str | Path, folder: Path) -> None:
    """Write a model into `folder`: float32 safetensors, tokenizer, chat template and configs.

    Raises:
        ConfigError: as `read_header`, or the weights are incomplete or in an unknown format.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    header = read_header(path)
    # In a folder of its own: transformers would also read other files beside the GGUF file.
    with tempfile.TemporaryDirectory() as alone:
        name = "model.gguf"
        (Path(alone) / name).symlink_to(Path(path).absolute())
        try:
            loaded, found = AutoModelForCausalLM.from_pretrained(
                alone, gguf_file=name, dtype=torch.float32, output_loading_info=True
            )
        except NotImplementedError as error:
            raise ConfigError(
                f"model.name={path} has a number format that cannot be read ({error}); {INSTEAD}"
            ) from None
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=name)
    if missing := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise ConfigError(
            f"model.name={path} lacks the weights {missing[0]} of its model, or has them in "
            f"another size; fetch the file again, or {INSTEAD}"
        )
    described = loaded.config.to_dict()
    # It marks the weights as quantised, although they have been read into float32.
    described.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(loaded)(type(loaded.config)(**described))
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    _complete(tokenizer.backend_tokenizer, header)
    tokenizer.save_pretrained(folder)


def _complete(tokenizer: Any, header: Header) -> None:
    """Add the parts of the model's own tokenizer that transformers leaves out."""
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if header.values.get("tokenizer.ggml.pre") == "smollm":  # each digit is a token
        bytes_ = ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), bytes_])
    if header.architecture == "qwen2":
        tokenizer.normalizer = NFC()


def _found(path: str | Path) -> Path:
    if "://" in str(path):
        raise ConfigError(f"model.name={path} is not on this machine; give a local GGUF file")
    file = Path(path).absolute()
    if not file.is_file():
        raise ConfigError(
            f"model.name={path} is missing; give the path of a GGUF file, or the name or folder "
            f"of a model with safetensors"
        )
    return file


@lru_cache(maxsize=8)
def _sha256(file: Path, size: int, time: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@lru_cache(maxsize=8)
def _read_header(file: Path, size: int, time: int) -> Header:
    """Cached, because every stage asks for it; a file that changes has another size or time."""
    with file.open("rb") as opened:
        if opened.read(4) != MAGIC:
            raise ConfigError(
                f"model.name={file} is no GGUF file: it does not begin with GGUF; fetch it again, "
                f"or {INSTEAD}"
            )
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header, end = _parse(data)
            except (struct.error, UnicodeDecodeError):
                header, end = Header({}, {}), math.inf
    if end > size:
        raise ConfigError(f"model.name={file} is cut off or damaged; fetch it again")
    if why := _unfit(header):
        raise ConfigError(f"model.name={file} cannot be converted faithfully: {why}; {INSTEAD}")
    return header


def _parse(data: mmap.mmap) -> tuple[Header, float]:
    """The header, and the size that the file must have at least.

    Raises:
        struct.error: the file ends inside the header, or a type is unknown.
    """
    from gguf import GGML_QUANT_SIZES

    cursor = _Cursor(data, len(MAGIC))
    version, tensors, pairs = (cursor.number(code) for code in "IQQ")
    if version not in VERSIONS:
        raise struct.error(f"version {version}")
    values = {}
    for _ in range(pairs):
        key, kind = cursor.text(), cursor.number("I")
        if kind == ARRAY:
            cursor.skip_array()
        else:
            values[key] = cursor.value(kind)
    sizes, ends = {}, [0]
    blocks = {int(kind): block for kind, block in GGML_QUANT_SIZES.items()}
    for _ in range(tensors):
        name = cursor.text()
        sizes[name] = tuple(cursor.number("Q") for _ in range(cursor.number("I")))
        kind = cursor.number("I")
        if kind not in blocks:
            raise struct.error(f"the format of {name}")
        numbers, bytes_ = blocks[kind]
        ends.append(cursor.number("Q") + math.prod(sizes[name]) // numbers * bytes_)
    alignment = values.get("general.alignment", 32)
    return Header(values, sizes), math.ceil(cursor.at / alignment) * alignment + max(ends)


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self._data, self.at = data, at

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        self._skip(length)
        return self._data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        return self.text() if kind == STRING else self.number(_code(kind))

    def skip_array(self) -> None:
        kind, length = self.number("I"), self.number("Q")
        if kind == STRING:
            for _ in range(length):
                self._skip(self.number("Q"))
        else:
            self._skip(length * struct.calcsize(f"<{_code(kind)}"))

    def _skip(self, length: int) -> None:
        if length > len(self._data) - self.at:
            raise struct.error(f"{length} bytes at {self.at}")
        self.at += length


def _code(kind: int) -> str:
    if kind not in SCALARS:
        raise struct.error(f"type {kind}")
    return SCALARS[kind]


def _unfit(header: Header) -> str | None:
    """Why transformers would not make the same model of this file; None if it would."""
    kind, values = header.architecture, header.values
    if kind not in SPLITTERS:
        return f"its architecture is {kind}, not {' or '.join(SPLITTERS)}"
    needed = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
    if lacking := [key for key in needed if f"{kind}.{key}" not in values]:
        return f"its header lacks {kind}.{lacking[0]}"
    if len(header.sizes.get("token_embd.weight", ())) != 2:
        return "it has no table token_embd.weight"
    if values.get(f"{kind}.expert_count"):
        return f"it has {values[f'{kind}.expert_count']} experts in a block"
    scaling = values.get(f"{kind}.rope.scaling.type", "none")
    if "rope_freqs.weight" in header.sizes or scaling != "none":
        return "it scales the positions of tokens"
    tokenizer = values.get("tokenizer.ggml.model")
    splitter = values.get("tokenizer.ggml.pre", "default")
    if tokenizer != "gpt2" or splitter not in SPLITTERS[kind]:
        return f"its tokenizer is {tokenizer} with the rules {splitter}"
    return None
