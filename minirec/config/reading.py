"""Reads a config: preset, YAML file and dotted overrides (``training.steps=20``), in this order.

Errors name the nearest valid key. Loads neither torch nor ray.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from minirec.config.choices import OWN, Choices
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.store.remote import located

RENAMED = {"workers": "training_workers", "tensor_parallel": "gpus_per_engine"}
PLAINER = {
    "missing": "it has too few values",
    "too_short": "it is empty",
    "dict_type": "expected names with values, {name: value}",
}
"""Replacements for messages of pydantic."""
PRESETS = Path(__file__).parent / "presets"


def load(path: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply ``key=value`` overrides, and validate.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, or an impossible combination.
    """
    given = _read_yaml(located(path)) if path else {}
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r} has no '='; write key=value")
        try:
            _put(given, key, yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"override {override!r}: the value is not YAML") from None
        except ValueError as error:  # a date such as 2023-02-30
            raise ConfigError(f"override {override!r}: {error}") from None
    return _validated(_merge(preset_values(given.get("preset", "minirec")), given))


def configured(
    config: str | Path | Mapping[str, Any] | Config | None, values: Mapping[str, Any]
) -> Config:
    """The settings of a caller in Python: a config, then other values for some of them.

    Args:
        config: the path of a YAML file, a nested or dotted dict, a `Config`, or None for the
            defaults.
        values: dotted keys with values. The value of a section is a dict, and what it does not
            name stays.

    Raises:
        ConfigError: as `load`, or a preset for a `Config`, which has a value for each setting.
    """
    if isinstance(config, Config):
        if "preset" in values:
            raise ConfigError(
                f"preset={values['preset']} has no effect on a Config, which has a value for each "
                f"setting; give the preset together with a file or a dict"
            )
        given: dict[str, Any] = config.model_dump(mode="json")
    elif isinstance(config, Mapping):
        given = _with({}, config)
    elif config is None or isinstance(config, str | Path):
        given = _read_yaml(located(config)) if config else {}
    else:
        raise ConfigError(
            f"the config is a {type(config).__name__}; give the path of a YAML file, a dict or a "
            f"Config"
        )
    given = _with(given, values)
    if isinstance(config, Config):
        return _validated(given)
    return _validated(_merge(preset_values(given.get("preset", "minirec")), given))


def _with(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with some values; a dict for a section is merged into it."""
    settings = set(valid_keys())
    for dotted, value in copy.deepcopy(dict(values)).items():
        if isinstance(value, dict) and dotted not in settings:
            nested = value
            for name in reversed(dotted.split(".")):
                nested = {name: nested}
            tree = _merge(tree, nested)
        else:
            _put(tree, dotted, value)
    return tree


def _validated(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def preset_values(preset: str) -> dict[str, Any]:
    """The settings of a preset as a tree; raises `ConfigError` for an unknown preset."""
    file = PRESETS / f"{preset}.yaml"
    if not file.exists():
        names = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        raise ConfigError(f"preset {preset!r} is unknown; choose one of {', '.join(names)}")
    return _read_yaml(file)


def changed(config: Config, values: dict[str, Any]) -> Config:
    """The config with other values for some dotted keys; raises `ConfigError` as `load`."""
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        _put(tree, key, value)
    return _validated(tree)


def dump(config: Config) -> str:
    """YAML of a config, including all defaults."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config {path} cannot be read: {error.strerror}; give the path of a YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ConfigError(f"config {path} is not valid YAML{line}; correct the file") from None
    except ValueError as error:  # a date such as 2023-02-30
        raise ConfigError(f"config {path} has a wrong date: {error}; correct the file") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"config {path} holds a {type(data).__name__}; expected key: value lines")
    return data


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for name in parents:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[leaf] = value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def valid_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the config."""
    keys = []
    for name, field in model.model_fields.items():
        sections = _sections(field)
        for section in sections:
            keys += valid_keys(section, f"{prefix}{name}.")
        if not sections or len(_kinds(field)) > 1:
            keys.append(prefix + name)
    return keys


def check_keys(overrides: list[str]) -> None:
    """Raise `ConfigError` with the nearest key if a ``key=value`` has an unknown key."""
    keys = valid_keys()
    for word in overrides:
        key = word.partition("=")[0]
        if not any(f"{key}.".startswith(f"{k}.") or k.startswith(f"{key}.") for k in keys):
            raise ConfigError(f"{key} is not a setting; {_advice(key)}")


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    """The type of a setting and, if it is a union, its members."""
    return (field.annotation, *get_args(field.annotation))


def _sections(field: FieldInfo) -> list[type[BaseModel]]:
    """The section, in a list, if the setting is a section or null."""
    return [k for k in _kinds(field) if isinstance(k, type) and issubclass(k, BaseModel)]


def described(section: str = "") -> list[tuple[str, Any, str]]:
    """Key, default and meaning of a setting, or of all settings of a section ("" for all).

    Raises:
        ConfigError: the section or setting is unknown.
    """
    keys = [key for key in valid_keys() if f"{key}.".startswith(f"{section}." if section else "")]
    if not keys:
        raise ConfigError(f"{section} is not a setting; {_advice(section)}")
    defaults = load().model_dump(mode="json")
    return [(key, _at(defaults, key), _meaning(key)) for key in keys]


def _at(tree: Any, key: str) -> Any:
    """The value of a dotted key; None if its section is null."""
    for name in key.split("."):
        tree = None if tree is None else tree[name]
    return tree


def _meaning(key: str) -> str:
    """The description of a setting, with its choices and their meanings."""
    *parents, leaf = key.split(".")
    model: type[BaseModel] = Config
    for name in parents:
        model = _sections(model.model_fields[name])[0]
    field = model.model_fields[leaf]
    text = " ".join((field.description or "").split())
    words = [w for kind in _kinds(field) if get_origin(kind) is Literal for w in get_args(kind)]
    if words:
        text += f" ({', '.join(map(str, words))})"
    parts = [field.metadata, *(getattr(kind, "__metadata__", ()) for kind in _kinds(field))]
    for choices in (one for part in parts for one in part if isinstance(one, Choices)):
        text += "".join(f"\n{name}: {meaning}" for name, meaning in choices.meanings().items())
        text += f"\n{OWN}: A function of your own." if choices.own else ""
    return text


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if any(k == key or k.startswith(f"{key}.") for k in valid_keys()):
            nested = f"{key.replace('.', ': {')}: ...{'}' * key.count('.')}"
            return f"{key} is one word in the file; nest it there, {nested}"
        return f"{key} is not a setting; {_advice(key)}"
    message = PLAINER.get(first["type"], first["msg"].removeprefix("Value error, "))
    while key and key not in valid_keys() and key.rpartition(".")[0] in valid_keys():
        key = key.rpartition(".")[0]  # pydantic appends a type
    if not key or first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if first["type"] == "model_type":
        return f"{key}={first['input']!r} is refused: it is a section; {_advice(f'{key}.')}"
    return f"{key}={first['input']!r} is refused: {message[:1].lower()}{message[1:]}"


def _advice(unknown: str) -> str:
    """The key that the user probably meant, or all keys of the section."""
    keys = valid_keys()
    *parents, leaf = unknown.split(".")
    prefix = "".join(f"{parent}." for parent in parents)
    inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    names = sorted({key.split(".")[0] for key in inside})
    meant = [key for key in keys if key.split(".")[-1] == RENAMED.get(leaf, leaf)]
    meant += [prefix + near for near in difflib.get_close_matches(leaf, names, n=1)]
    if meant:
        return f"did you mean {meant[0]}?"
    return f"{prefix.rstrip('.') or 'the config'} has {', '.join(names)}"
