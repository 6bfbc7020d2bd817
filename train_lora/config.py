"""Run configurations: TOML files read into frozen dataclasses. An unknown key is an error, and so is a wrong type."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and what is allowed."""


def load_config(kind: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and apply ``key=value`` overrides (values in TOML, dots for nested keys).

    Raises:
        ConfigError: a file that is missing or no TOML, an unknown key, a value of the wrong type.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration {path} cannot be read: {error}") from None
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r}: write key=value")
        _set(data, key.strip().split("."), _value(value.strip()))
    return build(kind, data, str(path))


def build(kind: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """Make a dataclass from a mapping, checking every key and type."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    unknown = set(data) - set(fields)
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(sorted(unknown))}; known: {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(missing)}")
    values = {name: _typed(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(text: str) -> Any:  # noqa: ANN401 - whatever TOML holds
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _set(data: dict[str, Any], keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {'.'.join(keys)}: {key} is a value, not a table")
    data[keys[-1]] = value


def _typed(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - types are what this is about
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _typed(hint, value, where)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, where)  # type: ignore[type-var] # a class, not an instance
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], item, where) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}")
