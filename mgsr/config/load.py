"""Reads presets, methods and recipes from workflow/, merges them, and names the nearest valid key where one is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mgsr.config.base import all_known, models_in, nearest
from mgsr.config.method import Method
from mgsr.config.schema import Config, Overlay, Recipe
from mgsr.errors import MgsrError

M = TypeVar("M", bound=BaseModel)

SHORTCUTS = ("source", "data_dir")  # keys of `data` that may stand at the top
NAMED = ("test_sets", "families", "tables", "checks", "methods", "checkpoints", "small_students")  # mappings with names as keys
VARIANT_KEYS = ("name", "builder")  # keys that choose between shapes of a mapping


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`, mapping by mapping. A mapping that names another variant replaces the one in `base`."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same_variant = all(old.get(name) == value[name] for name in VARIANT_KEYS if name in value)
            merged[key] = merge(old, value) if same_variant else dict(value)
        else:
            merged[key] = value
    return merged


def _without_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without the entries that a later layer has set to null."""
    kept = dict(values)
    for key in NAMED:
        if isinstance(entries := kept.get(key), Mapping):
            kept[key] = {name: entry for name, entry in entries.items() if entry is not None}
    return kept


# -- messages ----------------------------------------------------------------------------------------------------------


def _is_variant(model: type[BaseModel], tag: str) -> bool:
    return any(tag in get_args(model.model_fields[key].annotation) for key in VARIANT_KEYS if key in model.model_fields)


def _valid_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are valid in place of the last key of `location`, which is pydantic's path to an error."""
    models = [model]
    for part in map(str, location[:-1]):
        fields = [candidate.model_fields[part] for candidate in models if part in candidate.model_fields]
        inner = [inner_model for field in fields for inner_model in models_in(field.annotation)]
        # a part of the path is the name of a field, the tag of a variant, or a key of the user's own
        models = inner or [candidate for candidate in models if _is_variant(candidate, part)] or models
    shortcuts = SHORTCUTS if models == [Config] else ()
    return sorted({*shortcuts, *(name for candidate in models for name in candidate.model_fields)})


def _path_as_written(location: tuple[int | str, ...], value: Any, missing: bool) -> str:
    """Pydantic's path to an error as the user wrote it: without the tags of variants and unions. `missing`: its last key is
    not there."""
    parts = []
    for place, part in enumerate(location):
        keys = dict(enumerate(value)) if isinstance(value, list | tuple) else value if isinstance(value, Mapping) else {}
        if part in keys:
            value = keys[part]
        elif not missing or place < len(location) - 1:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _message(problem: Any, model: type[BaseModel]) -> str:
    context, given = problem.get("ctx", {}), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"no such key; {nearest(str(problem['loc'][-1]), _valid_keys(model, problem['loc']))}"
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
    return message if isinstance(given, Mapping) or problem["type"] == "value_error" else f"{message}, not '{given}'"


def validated(model: type[M], value: Mapping[str, Any], where: str) -> M:
    """The model made of `value`; each wrong key or value is named by its path, with the nearest valid one."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            path = _path_as_written(problem["loc"], value, problem["type"] == "missing")
            lines.append(": ".join(filter(None, (where, path, _message(problem, model)))))
        raise MgsrError("\n".join(lines)) from None


# -- files -------------------------------------------------------------------------------------------------------------


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
    known = sorted(file.stem for file in (folder / kind).glob("*.yaml"))
    if name not in known:
        raise MgsrError(f"{kind}: there is no '{name}' in {folder / kind}; {nearest(name, known)}")
    return read_yaml(folder / kind / f"{name}.yaml")


def read_recipe(folder: Path, name: str) -> Recipe:
    recipe = validated(Recipe, read_named(folder, "recipes", name), f"recipe {name}")
    for preset in recipe.presets:
        read_named(folder, "presets", preset)  # an error where there is none
    return recipe


def load_config(folder: Path, given: Mapping[str, Any]) -> Config:
    """workflow/test_sets.yaml and tables.yaml, over them the preset that `given` names (else `paper`), over it what the recipe
    states for that preset and what the scale leaves out, over all the values of `given`.

    `source` and `data_dir` may stand at the top for brevity; they mean `data.source` and `data.data_dir`. An entry of `NAMED`
    that is null is taken out.
    """
    values = dict(given)
    preset = str(values.get("preset", "paper"))
    shortcuts = {key: values.pop(key) for key in SHORTCUTS if key in values}
    merged = merge(read_yaml(folder / "test_sets.yaml"), read_yaml(folder / "tables.yaml"))
    merged = merge(merged, {"preset": preset, **read_named(folder, "presets", preset)})
    recipe = str(values.get("recipe", merged.get("recipe", Config.model_fields["recipe"].default)))
    merged = merge(merged, read_recipe(folder, recipe).presets.get(preset, {}))
    scale = str(values.get("scale", Config.model_fields["scale"].default))
    if scale != Config.model_fields["scale"].default and preset != "paper":
        raise MgsrError(f"scale: '{scale}' says what is left out of preset paper, and this is preset {preset}; leave it out")
    merged = merge(merge(merged, read_named(folder, "scales", scale)), values)
    if isinstance(data := merged.get("data"), Mapping):  # `validated` reports anything else
        merged["data"] = _without_removed(merge(data, shortcuts))
    merged = _without_removed(merged)
    config = validated(Config, merged, f"preset {preset}")
    if config.data.source == "local" and not config.data.data_dir:
        raise MgsrError("data.data_dir: source 'local' needs the folder of the records; add data_dir=PATH to --config")
    if config.data.data_dir and config.data.source != "local":
        raise MgsrError(f"data.data_dir: source '{config.data.source}' reads no folder; add source=local to --config")
    return config


# -- methods -----------------------------------------------------------------------------------------------------------


class Methods:
    """Methods by name: files of workflow/methods, and small ones stated in the configuration (`methods`)."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder, config
        files = {path.stem for path in (folder / "methods").glob("*.yaml")}
        if twice := sorted(files & set(config.methods)):
            raise MgsrError(f"methods.{twice[0]}: workflow/methods has a file of that name; choose another name")
        self.names = sorted(files | set(config.methods))
        self._recipe = read_recipe(folder, config.recipe)
        self.overlays = self._checked_overlays()
        self._resolved: dict[tuple[str, str], Method] = {}

    def values(self, name: str, derived: tuple[str, ...] = ()) -> dict[str, Any]:
        """A method's values over those of its `base`, and so on down. `derived`: the methods that this one is a base of."""
        if name in derived:
            raise MgsrError(
                f"methods: {' -> '.join((*derived, name))} name each other as `base` in a circle; take one `base` out"
            )
        self.check(f"methods.{derived[-1]}.base" if derived else "methods", [name])
        values = dict(self._config.methods.get(name) or read_named(self._folder, "methods", name))
        base = values.pop("base", None)
        return merge(self.values(str(base), (*derived, name)), values) if base else values

    def resolve(self, family: str, name: str) -> Method:
        """The preset's training settings, then the method's own values, then each overlay that fits."""
        if (family, name) not in self._resolved:
            values = merge({"training": self._config.training.model_dump()}, self.values(name))
            for overlay in self.overlays:
                if _applies(overlay, family, name):
                    values = merge(values, overlay.set)
            self._resolved[family, name] = validated(Method, values, f"method {name} of family {family}")
        return self._resolved[family, name]

    def check(self, where: str, names: Iterable[str]) -> None:
        """Raise MgsrError where one of `names` is no method."""
        all_known(where, "method", names, self.names, MgsrError)

    @property
    def rows_without_sft(self) -> bool:
        stated = self._config.rows_without_sft
        return self._recipe.rows_without_sft if stated is None else stated

    def _checked_overlays(self) -> tuple[Overlay, ...]:
        """Overlays in the order they apply: the preset's, the recipe's, which set the terms of a comparison, the user's.

        Names that no method or family has are errors. A recipe may name the families of any preset.
        """
        folder, config, recipe = self._folder, self._config, self._recipe
        of_presets = {name for path in (folder / "presets").glob("*.yaml") for name in read_yaml(path).get("families", {})}
        for where, overlays, families in (
            (f"recipe {config.recipe}: overlays", recipe.overlays, sorted(of_presets | set(config.families))),
            (f"preset {config.preset}: preset_overlays", config.preset_overlays, sorted(config.families)),
            (f"preset {config.preset}: overlays", config.overlays, sorted(config.families)),
        ):
            for number, overlay in enumerate(overlays):
                self.check(f"{where}.{number}.methods", overlay.methods)
                self.check(f"{where}.{number}.except_methods", overlay.except_methods)
                all_known(f"{where}.{number}.families", "family", overlay.families, families, MgsrError)
        return config.preset_overlays + recipe.overlays + config.overlays


def load_methods(folder: Path, config: Config) -> Methods:
    """All methods of a configuration. Each is resolved once, so that a wrong key is an error also where no table shows it."""
    methods = Methods(folder, config)
    families = {name for overlay in methods.overlays for name in overlay.families} | set(config.families)
    for name in methods.names:
        for family in sorted(families):
            methods.resolve(family, name)
    for table, entry in config.tables.items():
        methods.check(f"tables.{table}.rows", entry.rows)
        methods.check(f"tables.{table}.extra_rows", entry.extra_rows)
    for check, checked in config.checks.items():
        methods.check(f"checks.{check}.rows", checked.rows)
    methods.check("twins", config.twins)
    for name in config.twins:
        if all(methods.resolve(family, name).sequences.scrg is None for family in config.families):
            raise MgsrError(f"twins: '{name}' has no SCRG to be compared with a run without it; take it out")
    return methods


def _applies(overlay: Overlay, family: str, method: str) -> bool:
    named = not overlay.methods or method in overlay.methods
    return named and method not in overlay.except_methods and (not overlay.families or family in overlay.families)
