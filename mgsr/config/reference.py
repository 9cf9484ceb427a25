"""The configuration's reference page: reference.md, then tables made from the models, so that page and models cannot differ."""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mgsr.config.base import models_in
from mgsr.config.method import Method
from mgsr.config.schema import Config, Overlay, Recipe

HEAD = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")


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
        for field in model.model_fields.values():
            for inner in models_in(field.annotation):
                _add_models(inner, models)


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
