"""The pages name what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from mgsr.config.load import read_yaml
from mgsr.config.loss_terms import Distillation, SpanConfig
from mgsr.config.method import Method
from mgsr.config.policy import ScrgConfig
from mgsr.config.schema import TableName

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METHODS = (ROOT / "docs" / "methods.md").read_text()


def names_of_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def targets() -> set[str]:
    """Rules, and the tables, whose rules are made in a loop."""
    files = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    return {*get_args(TableName), *re.findall(r"^rule (\w+):", "".join(path.read_text() for path in files), re.MULTILINE)}


def pitfalls() -> dict[int, list[str]]:
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "pitfalls.md").read_text(), re.MULTILINE)
    return {int(number): re.findall(r"`(test_\w+)`", cell) for number, cell in rows}


def test_every_test_the_pitfalls_page_names_exists() -> None:
    table = pitfalls()
    assert len(table) >= 25 and all(table.values())
    assert {name for names in table.values() for name in names} <= names_of_tests()
    for number, names in table.items():
        for name in names:
            stated = re.match(r"test_pitfall_(\d\d)(?:_and)?(?:_(\d\d))?", name)
            assert not stated or number in {int(found) for found in stated.groups() if found}, (
                f"{name} stands at pitfall {number}"
            )


def test_pitfall_30_every_path_and_target_the_pages_name_is_there() -> None:
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"`((?:docs|mgsr|workflow|tests|\.ci|profiles)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
        for path in re.findall(r"\]\(((?!http|#)[^)#]+)", text):
            assert (page.parent / path).exists(), f"{page.name} links to {path}"
        for command in re.findall(r"^(?:.*&& )?snakemake ([^\n#]*)", text, re.MULTILINE):
            for target in re.findall(r"^(\w+)", command):
                assert target in targets(), f"{page.name} names target {target}"
            _, _, config = command.partition("--config")
            for preset in re.findall(r"preset=(\w+)", config):
                assert (ROOT / "workflow" / "presets" / f"{preset}.yaml").exists()


def test_targets_of_the_readme_are_rules() -> None:
    section = (ROOT / "README.md").read_text().split("## Targets")[1].split("##")[0]
    named = [name for cell in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]
    assert set(get_args(TableName)) < set(named) <= targets()


def test_ones_own_method_takes_at_most_30_lines() -> None:
    section = (ROOT / "README.md").read_text().split("## Your own method")[1].split("\n## ")[0]
    assert len(section.splitlines()) <= 30


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "methods").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_stands_on_the_methods_page(path: Path) -> None:
    assert re.search(rf"^\|[^|]*`{path.stem}`", METHODS, re.MULTILINE)
    assert set(read_yaml(path)) <= {*Method.model_fields, "base"}


def test_every_divergence_and_reading_stands_on_the_methods_page() -> None:
    readings = [SpanConfig, ScrgConfig]
    for model in get_args(get_args(Distillation)[0]):
        (name,) = get_args(model.model_fields["name"].annotation)
        readings += [model] if len(model.model_fields) > 3 else []
        assert f"`{name}`" in METHODS, name
    for model in readings:
        for key, field in model.model_fields.items():
            for value in get_args(field.annotation) if key != "name" else ():
                if isinstance(value, str):
                    assert f"`{key}`" in METHODS and f"`{value}`" in METHODS, f"{model.__name__}.{key}: {value}"


def test_every_warning_stands_on_the_methods_page() -> None:
    code = "".join((ROOT / "mgsr" / path).read_text() for path in ("training/record.py", "tables/card.py"))
    names = set(re.findall(r'"name": "(\w+)"', code))
    assert len(names) >= 7 and all(f"`{name}`" in METHODS for name in names)
