"""The pages name what there is."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from mgsr.config.base import Strict
from mgsr.config.load import load_config, read_yaml
from mgsr.config.loss_terms import DacKlConfig, Distillation, ObjectiveConfig, PolicyGradientConfig, SpanConfig
from mgsr.config.measurement import ExposureConfig
from mgsr.config.method import Method
from mgsr.config.plan import make_plan
from mgsr.config.policy import ScrgConfig
from mgsr.config.schema import OTHER_TARGETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METHODS, READINGS, MEASUREMENT = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("methods", "readings", "measurement"))
MODELS_OF_READINGS: dict[str, type[Strict]] = {  # by the name that the page gives their keys
    "scrg": ScrgConfig, "objective": ObjectiveConfig, "dac_kl": DacKlConfig, "span": SpanConfig,
    "policy_gradient": PolicyGradientConfig, "exposure": ExposureConfig,
}  # fmt: skip
TABLES = set(read_yaml(ROOT / "workflow" / "tables.yaml")["tables"])


def names_of_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def targets() -> set[str]:
    """Rules, and the tables, whose rules are made in a loop."""
    files = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    return {*TABLES, *re.findall(r"^rule (\w+):", "".join(path.read_text() for path in files), re.MULTILINE)}


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_headings(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(((?!http)[^)#]*)#([^)]+)\)", page.read_text()):
        assert anchor in anchors(page.parent / path if path else page), f"{page.name} links to {path}#{anchor}"


def test_targets_of_the_readme_are_rules() -> None:
    section = (ROOT / "README.md").read_text().split("## Targets")[1].split("##")[0]
    named = [name for cell in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]
    assert TABLES < set(named) <= targets() and set(OTHER_TARGETS) <= targets()


def test_every_overlay_of_the_pages_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of YAML that begin with their file's name, with the Python files that they name beside them."""
    monkeypatch.chdir(tmp_path)
    pages = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"```(python|yaml)\n(# \S+\n.*?)```", pages, re.DOTALL)
    files = {text.splitlines()[0].removeprefix("# "): text for _, text in blocks}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "mine.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    overlays = [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]
    assert len(overlays) >= 4
    for overlay in overlays:
        preset = "paper" if "checkpoints" in overlay else "smoke"
        make_plan(ROOT / "workflow", load_config(ROOT / "workflow", {"preset": preset, **overlay}))


def test_ones_own_method_takes_at_most_30_lines() -> None:
    section = (ROOT / "README.md").read_text().split("## Your own method")[1].split("\n## ")[0]
    assert len(section.splitlines()) <= 30


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "methods").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_stands_on_the_methods_page(path: Path) -> None:
    assert re.search(rf"^\|[^|]*`{path.stem}`", METHODS, re.MULTILINE)
    assert set(read_yaml(path)) <= {*Method.model_fields, "base"}


def test_every_loss_stands_on_the_methods_page() -> None:
    for model in get_args(get_args(Distillation)[0]):
        for name in get_args(model.model_fields["name"].annotation):
            assert f"`{name}`" in METHODS, name


def test_every_reading_is_found_by_its_key() -> None:
    """The contents link every entry, and an entry names every value that its key may take."""
    contents = READINGS.split("\n## Contents\n")[1].split("\n## ")[0]
    entries = dict(re.findall(r"^### `([\w.]+)`\n(.*?)(?=^#|\Z)", READINGS, re.MULTILINE | re.DOTALL))
    assert len(entries) >= 30 and all(f"[`{key}`](#" in contents for key in entries)
    for place, model in MODELS_OF_READINGS.items():
        for name, field in model.model_fields.items():
            values = [value for value in get_args(field.annotation) if isinstance(value, str)] if name != "name" else []
            assert all(f"`{value}`" in entries[f"{place}.{name}"] for value in values), f"{place}.{name}"


def test_every_warning_stands_on_the_measurement_page() -> None:
    code = "".join((ROOT / "mgsr" / path).read_text() for path in ("training/run_record.py", "tables/card.py"))
    names = set(re.findall(r'(?:"name": |signs\[)"(\w+)"', code))
    assert len(names) >= 7 and all(f"`{name}`" in MEASUREMENT for name in names)
