"""The configuration's reference page, written from the model itself, so that the two cannot differ."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mgsr.config.method import Method
from mgsr.config.schema import Config, Overlay, Recipe

HEAD = """# Configuration

Written by `mgsr schema --markdown`; a test keeps it equal to the models in `mgsr/config`. As JSON schema it is
`workflow/config.schema.json`.

A preset (`workflow/presets`) fills `Config`, over `workflow/test_sets.yaml` and `workflow/tables.yaml`. A recipe
(`workflow/recipes`) fills `Recipe`; what it states for a preset goes over that preset. A method (`workflow/methods`) fills
`Method`, or names another one as its `base` and states what differs. `snakemake --config key=value` and `--configfile` go over
all of this, mapping by mapping; nested values are YAML: `'training={steps: 40}'`. A list replaces the list below it, and a
mapping that names another `builder` or `name` replaces the mapping below it.

What a method's settings are made of, each over the ones before: the configuration's `training`, the method's base, its own
file, the preset's overlays (`preset_overlays`), the recipe's, your own (`overlays`); each list in the order it stands.
"""


def _link(model: type[BaseModel]) -> str:
    return f"[{model.__name__}](#{model.__name__.lower()})"


def _kind(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inside[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_kind, inside))
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in inside)
    if origin is tuple:
        return f"list of {_kind(inside[0])}" if inside[1] is Ellipsis else f"{len(inside)} times {_kind(inside[0])}"
    if origin is dict:
        return f"mapping from {_kind(inside[0])} to {_kind(inside[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _link(annotation)
    words = {NoneType: "null", str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    return words[annotation]


def _limits(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "at least"}
    limits = [f"{sign} {getattr(rule, name)}" for rule in field.metadata for name, sign in signs.items() if hasattr(rule, name)]
    return f" ({', '.join(limits)})" if limits else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value)}`"


def _add_models(model: type[BaseModel], models: list[type[BaseModel]]) -> None:
    """Append `model` and all that its fields hold to `models`, each once, in order of appearance."""
    if model not in models:
        models.append(model)
        waiting = [field.annotation for field in model.model_fields.values()]
        while waiting:
            annotation = waiting.pop(0)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                _add_models(annotation, models)
            waiting = [*get_args(annotation), *waiting]


def markdown() -> str:
    """Every key: what it takes, its default, what it means."""
    models: list[type[BaseModel]] = []
    for root in (Config, Method, Overlay, Recipe):
        _add_models(root, models)
    parts = [HEAD]
    for model in models:
        lines = [f"## {model.__name__}", "", " ".join((model.__doc__ or "").split()), ""]
        lines += ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
        for name, field in model.model_fields.items():
            kind = _kind(field.annotation) + _limits(field)
            lines.append(f"| `{name}` | {kind} | {_default(field)} | {field.description or 'chooses this form'} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts).rstrip("\n")
