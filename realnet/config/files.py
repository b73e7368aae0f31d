"""Read and check YAML config files; errors say what to repair."""

import difflib
import re
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from realnet.config import paths
from realnet.config.base import Section
from realnet.config.dataset import DatasetConfig
from realnet.config.presets import with_preset
from realnet.errors import UserError

ConfigT = TypeVar("ConfigT", bound=Section)


class _YamlLoader(yaml.SafeLoader):
    """Plain scalars as in YAML 1.2: ``1e-4`` is a number, ``01`` and ``on`` are strings. Repeated keys are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        repeated = [key for i, key in enumerate(keys) if key in keys[:i]]
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {repeated[0]!r} appears twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"~|null|Null|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan", "-+.0123456789"),
):
    _YamlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


class _NameLoader(_YamlLoader):
    """Plain scalars are strings, apart from null."""


_NameLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith("null")]
    for first, resolvers in _YamlLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, source: str, *, holds_names: bool = False) -> Any:
    """Parse YAML safely, with the scalars of YAML 1.2; with ``holds_names``, they stay text (but for null).

    Raises:
        UserError: if the text is not valid YAML; the message names ``source`` and the line.
    """
    try:
        return yaml.load(text, Loader=_NameLoader if holds_names else _YamlLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error


def load(model: type[ConfigT], path: Path | None, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a config file (None: start from the defaults), apply ``a.b=value`` overrides, and check both.

    Raises:
        UserError: if either is invalid; the message names the file, the full key, the value, and the nearest valid key.
    """
    written = _read(path, holds_names=model.holds_names) if path else {}
    preset = _preset(model, written, overrides)
    config = _validate(model, with_preset(model, written, preset), str(path))
    if not overrides:
        return config
    changed = dict(written)
    for override in overrides:
        _apply_override(changed, override, config)
    return _validate(model, with_preset(model, changed, preset), "--set")


def _read(path: Path, *, holds_names: bool) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the config {path} ({reason}); name a YAML file with --config") from error
    values = parse_yaml(text, str(path), holds_names=holds_names) or {}
    if not isinstance(values, Mapping):
        raise UserError(f"{path} must hold keys and values, got {type(values).__name__}")
    return values


def _preset(model: type[Section], values: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Return the defaults that an override or the file asks for by name; none for an unknown name, which is refused."""
    given = (override.partition("=")[2] for override in overrides if override.startswith("preset="))
    named = [parse_yaml(text, f"--set preset={text}") for text in given]
    return model.presets.get(str([values.get("preset"), *named][-1]), {})


def experiments() -> list[str]:
    """Return the names of the datasets that have a folder of configs."""
    folders = filter(None, [paths.EXPERIMENTS, paths.shipped()])
    return sorted({path.parent.name for folder in folders for path in folder.glob("*/dataset.yaml")})


def load_dataset(dataset: str) -> DatasetConfig:
    """Read ``experiments/<dataset>/dataset.yaml``.

    Raises:
        UserError: if there is no such dataset; the message lists those that exist and says how to add one.
    """
    path = paths.config_file(dataset, "dataset")
    if not path.is_file():
        known = ", ".join(experiments()) or "none in this folder: start the scripts from the project's folder"
        raise UserError(
            f"there is no dataset {dataset!r}: {path} does not exist (datasets: {known}); "
            f"add your own with: python prepare_data.py add --name {shlex.quote(dataset)} --source <folder of images>"
        )
    return load(DatasetConfig, path)


def dump(config: Section) -> str:
    """Return a config as YAML, complete and in the order of its fields."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply_override(values: dict[str, Any], override: str, config: Section) -> None:
    """Write an override into what the user has written; ``config`` is what that means."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, such as train.batch_size=8, got {override!r}")
    *parents, last = key.split(".")
    reached: Any = config
    for parent in parents:
        reached = reached.get(parent) if isinstance(reached, Mapping) else getattr(reached, parent, None)
        if not isinstance(reached, (Section, Mapping, type(None))):
            raise UserError(f"--set {override}: {parent} holds a value, not keys")
        values[parent] = _keys_of(values.get(parent), reached)
        values = values[parent]
    values[last] = parse_yaml(text, f"--set {override}")


def _keys_of(written: object, reached: Section | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return keys to write an override among: the user's; of a mapping that the user has not written, all it holds."""
    if isinstance(written, Mapping):
        return dict(written)
    if isinstance(reached, Mapping):
        return {key: value.model_dump() if isinstance(value, Section) else value for key, value in reached.items()}
    return reached.model_dump() if isinstance(reached, Section) and written is not None else {}


def _validate(model: type[ConfigT], values: Mapping, source: str) -> ConfigT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"  {_explain(model, problem)}" for problem in error.errors() if not _is_other_branch(problem)]
        raise UserError("\n".join([f"{source}:", *dict.fromkeys(lines)])) from error


def _explain(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not _is_pydantics_own(str(part))]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _keys_at(model, location[:-1]), n=1, cutoff=0.4)
        valid = ".".join([*location[:-1], *near]) if near else ", ".join(_keys_at(model, location[:-1]))
        return f"{key}: unknown key (value {problem['input']!r}); did you mean {valid}?"
    message = PLAIN_WORDS.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))
    got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{key}: {message}{got}" if key else message


PLAIN_WORDS = {
    "dict_type": "takes keys and values",
    "model_type": "takes keys and values",
    "tuple_type": "takes a list",
    "missing": "is missing",
}


def _is_pydantics_own(part: str) -> bool:
    """Tell pydantic's words for a union's branches and a dict's keys from the user's keys."""
    return part.startswith(("constrained-", "literal[", "function-", "dict[", "tuple[")) or part in {
        "ForegroundRule",
        "int",
        "[key]",
        "one range",
        "ranges by class",
    }


def _is_other_branch(problem: Any) -> bool:
    """Tell whether a union expects a word where the user gave keys; the problems of these keys are reported anyway."""
    in_union = any(str(part).startswith("literal[") for part in problem["loc"])
    return in_union and isinstance(problem["input"], dict)


def _bare(branch: Any) -> Any:
    return typing.get_args(branch)[0] if typing.get_origin(branch) is typing.Annotated else branch


def _has_keys(branch: Any) -> bool:
    return hasattr(branch, "model_fields") or typing.get_origin(branch) is dict


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the fields of the section at a location; a key of a plain dict leads to the dict's values."""
    current: Any = model
    for part, following in zip_longest(location, location[1:], fillvalue=""):
        is_mapping = typing.get_origin(current) is dict
        current = typing.get_args(current)[1] if is_mapping else current.model_fields[part].annotation
        if typing.get_origin(current) in (typing.Union, types.UnionType):
            branches = [*filter(_has_keys, map(_bare, typing.get_args(current)))] or [current]
            current = next((one for one in branches if following in getattr(one, "model_fields", {})), branches[-1])
    return list(getattr(current, "model_fields", {}))
