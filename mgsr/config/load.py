"""Reads presets, methods and recipes from workflow/, merges them, and names the nearest valid key where one is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mgsr.config.base import Strict
from mgsr.config.method import Method
from mgsr.config.schema import Config, Overlay
from mgsr.errors import MgsrError

M = TypeVar("M", bound=BaseModel)

SHORTCUTS = ("source", "data_dir")  # keys of `data` that may stand at the top
VARIANT_KEYS = ("name", "builder")  # keys that choose between shapes of a mapping


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`, mapping by mapping. A mapping that names another variant replaces the one below it."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            same = all(below.get(name) == value[name] for name in VARIANT_KEYS if name in value)
            merged[key] = merge(below, value) if same else dict(value)
        else:
            merged[key] = value
    return merged


def layer(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`. A learning rate that a layer states takes the place of a grid below it, which would else win."""
    merged, training = merge(below, above), above.get("training")
    if isinstance(training, Mapping) and "learning_rate" in training and "learning_rates" not in training:
        merged["training"] = {**merged["training"], "learning_rates": ()}
    return merged


def nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"the nearest valid one is '{close[0]}'" if close else f"valid ones: {', '.join(known)}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are valid beside the last key of `path`."""
    models = [model]
    for part in path[:-1]:
        found: list[type[BaseModel]] = []
        for candidate in models:
            field = candidate.model_fields.get(str(part))
            found += _models_in(field.annotation) if field else []
        variants = [
            m
            for m in found
            for f in VARIANT_KEYS
            if f in m.model_fields and str(part) in get_args(m.model_fields[f].annotation)
        ]
        tagged = [
            m
            for m in models
            for f in VARIANT_KEYS
            if f in m.model_fields and str(part) in get_args(m.model_fields[f].annotation)
        ]
        models = variants or found or tagged or models
    short = SHORTCUTS if models == [Config] else ()
    return sorted({*short, *(name for candidate in models for name in candidate.model_fields)})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _spelt(path: tuple[int | str, ...], value: Any, missing: bool) -> str:
    """The path as the user wrote it: without the names of variants and the marks that pydantic adds. `missing`: the last key
    is."""
    parts = []
    for place, part in enumerate(path):
        keys = dict(enumerate(value)) if isinstance(value, list | tuple) else value if isinstance(value, Mapping) else {}
        if part in keys:
            value = keys[part]
        elif not missing or place < len(path) - 1:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _message(problem: Any, model: type[BaseModel]) -> str:
    context, given = problem.get("ctx", {}), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"no such key; {nearest(str(problem['loc'][-1]), _fields_at(model, problem['loc']))}"
    if problem["type"] in ("literal_error", "union_tag_invalid"):
        key = "expected" if problem["type"] == "literal_error" else "expected_tags"
        given = given if key == "expected" else context["tag"]
        expected = [word.strip(" '") for word in context[key].replace(" or ", ",").split(",")]
        return f"'{given}' is not valid here; {nearest(str(given), expected)}"
    if problem["type"] == "union_tag_not_found":
        return f"the key {context['discriminator']} is missing"
    if problem["type"] == "model_type":
        return f"a mapping is expected, not '{given}'"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return message if isinstance(given, Mapping) else f"{message}, not '{given}'"


def validated(model: type[M], value: Mapping[str, Any], where: str) -> M:
    """The model made of `value`; each wrong key or value is named by its path, with the nearest valid one."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = [
            (_spelt(problem["loc"], value, problem["type"] == "missing"), _message(problem, model))
            for problem in error.errors()
        ]
        raise MgsrError("\n".join(": ".join(filter(None, (where, path, message))) for path, message in found)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise MgsrError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(value, dict):
        raise MgsrError(f"{path}: a mapping is expected at the top")
    return value


def read_named(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """workflow/<kind>/<name>.yaml, or an error that names the nearest one there is."""
    path = folder / kind / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in (folder / kind).glob("*.yaml"))
        raise MgsrError(f"{kind}: there is no '{name}' in {folder / kind}; {nearest(name, known)}")
    return read_yaml(path)


def load_config(folder: Path, given: Mapping[str, Any]) -> Config:
    """The rows of workflow/tables.yaml, over them the preset that `given` names (else `paper`), over it the values of `given`.

    `source` and `data_dir` may stand at the top for brevity; they mean `data.source` and `data.data_dir`.
    """
    values = dict(given)
    preset = str(values.get("preset", "paper"))
    data = {key: values.pop(key) for key in SHORTCUTS if key in values}
    below = merge(read_yaml(folder / "tables.yaml"), read_named(folder, "presets", preset))
    merged = layer(merge(below, {"preset": preset}), values)
    if data and isinstance(merged.get("data"), Mapping):  # anything else is an error below
        merged = merge(merged, {"data": data})
    config = validated(Config, merged, f"preset {preset}")
    if config.data.source == "local" and not config.data.data_dir:
        raise MgsrError("data.data_dir: source 'local' needs the folder of the records; add data_dir=PATH to --config")
    if config.data.data_dir and config.data.source != "local":
        raise MgsrError(f"data.data_dir: source '{config.data.source}' reads no folder; add source=local to --config")
    return config


class _Recipe(Strict):
    overlays: tuple[Overlay, ...]
    rows_without_sft: bool = False


class Methods:
    """Methods by name: files of workflow/methods, and small ones stated in the configuration (`methods`)."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder, config
        files = {path.stem for path in (folder / "methods").glob("*.yaml")}
        if twice := sorted(files & set(config.methods)):
            raise MgsrError(f"methods.{twice[0]}: workflow/methods has a file of that name; choose another name")
        self.names = sorted(files | set(config.methods))
        self._recipe = validated(_Recipe, read_named(folder, "recipes", config.recipe), f"recipe {config.recipe}")
        self.overlays = self._checked_overlays()
        self._resolved: dict[tuple[str, str], Method] = {}

    def values(self, name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
        """A method's values over those of its `base`, and so on down."""
        if name in above:
            raise MgsrError(f"methods: {' -> '.join((*above, name))} go round in a circle; end the chain of `base`")
        if name not in self.names:
            raise MgsrError(f"methods: there is no '{name}' in {self._folder / 'methods'}; {nearest(name, self.names)}")
        own = self._config.methods.get(name)
        values = read_named(self._folder, "methods", name) if own is None else dict(own)
        base = values.pop("base", None)
        return layer(self.values(str(base), (*above, name)), values) if base else values

    def resolve(self, family: str, name: str) -> Method:
        """The preset's training settings, then the method's own values, then each overlay that fits."""
        if (family, name) not in self._resolved:
            values = layer({"training": self._config.training.model_dump()}, self.values(name))
            for overlay in self.overlays:
                if _applies(overlay, family, name):
                    values = layer(values, overlay.set)
            self._resolved[family, name] = validated(Method, values, f"method {name} of family {family}")
        return self._resolved[family, name]

    @property
    def rows_without_sft(self) -> bool:
        given = self._config.rows_without_sft
        return self._recipe.rows_without_sft if given is None else given

    def _checked_overlays(self) -> tuple[Overlay, ...]:
        """Overlays in the order they apply: the preset's, then the recipe's, which sets the terms of a comparison.

        Names that no method or family has are errors. A recipe may name the families of any preset.
        """
        folder, config, recipe = self._folder, self._config, self._recipe
        anywhere = {name for path in (folder / "presets").glob("*.yaml") for name in read_yaml(path).get("families", {})}
        parts = [(f"recipe {config.recipe}", recipe.overlays, sorted(anywhere | set(config.families)))]
        parts.append((f"preset {config.preset}", config.overlays, sorted(config.families)))
        for where, overlays, families in parts:
            for number, overlay in enumerate(overlays):
                for key, names, valid in (
                    ("methods", overlay.methods, self.names),
                    ("except_methods", overlay.except_methods, self.names),
                    ("families", overlay.families, families),
                ):
                    for name in names:
                        if name not in valid:
                            raise MgsrError(f"{where}: overlays.{number}.{key}: there is no '{name}'; {nearest(name, valid)}")
        return config.overlays + recipe.overlays


def load_methods(folder: Path, config: Config) -> Methods:
    """All methods of a configuration. Each is resolved once, so that a wrong key is an error also where no table shows it."""
    methods = Methods(folder, config)
    families = {name for overlay in methods.overlays for name in overlay.families} | set(config.families)
    for name in methods.names:
        for family in sorted(families):
            methods.resolve(family, name)
    for name in config.twins:
        if name not in methods.names:
            raise MgsrError(f"twins: there is no method '{name}'; {nearest(name, methods.names)}")
        if all(methods.resolve(family, name).sequences.scrg is None for family in config.families):
            raise MgsrError(f"twins: '{name}' has no SCRG to be compared with a run without it; take it out")
    return methods


def _applies(overlay: Overlay, family: str, method: str) -> bool:
    named = not overlay.methods or method in overlay.methods
    return named and method not in overlay.except_methods and (not overlay.families or family in overlay.families)
