from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest

from mgsr.errors import MgsrError
from mgsr.tables import registry, report
from mgsr.tables.figures import looks
from mgsr.tables.results import load_cells
from tests import results_tree
from tests.planted_runs import SETS, cells, plant, write


class _Page(HTMLParser):
    """Every address that a browser would load, and the tags left open."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("results")
    return [results_tree.build(folder), results_tree.build(folder, table="table2")]


def test_report_is_whole_and_offline(tree: list[Path], tmp_path: Path) -> None:
    report.write(tree, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.open
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\(|@import|<script|https?://", text)
    assert "Table 1 (preset smoke" in text and "Table 2 (preset smoke" in text
    assert "Tiny models rank no methods." in text and "teacher − SFT on Dolly" in text
    assert "few steps &amp; &lt;tiny&gt; data" in text and "0.9000" in text
    images = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)
    assert len(images) == 2 and all(b"</svg>" in base64.b64decode(image) for image in images)
    report.write(tree, tmp_path / "again.html")
    assert text == (tmp_path / "again.html").read_text()


def test_many_methods_have_looks_of_their_own() -> None:
    assert len(set(looks(21))) == 21


# --- claims, open checks, failure signatures ---------------------------------------------------------------------------

SCRG = {"scrg": {"passes": 1}}
HITS = [(1, 4), (3, 4), (19, 20)]


def _scores(level: float, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {name: level + generator.standard_normal(30) for name in SETS}


def _metrics(dac_kl: bool, hits: bool) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": step, "kind": "validation", "loss": 1.0, "rouge_l": 9.0} for step in (10, 20)]
    for step in (5, 10, 15, 20):
        band = {"band/kept_classes": 100.0 - step, "band/kept_mass": 0.9, "band/log_width": 5.0} if dac_kl else {}
        found = {"scrg_hits": [list(hit) for hit in HITS]} if hits else {"scrg_hits": None}
        lines.append({"step": step, "kind": "train", "loss": 2.0, **band, **found})
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tables, the claims and one check."""
    root = tmp_path_factory.mktemp("whole")
    rows = [
        plant(root, "sft", _scores(40, 0), title="SFT", sequences={"policy": "dataset"}, metrics=_metrics(False, False)),
        plant(root, "mgsr_without_scrg", _scores(45, 1), title="unrevised", metrics=_metrics(True, False)),
        plant(root, "mgsr", _scores(50, 3), title="MGSR", sequences=SCRG, metrics=_metrics(True, True)),
        plant(root, "mgsr_three_passes", _scores(50, 4), title="three", sequences={"scrg": {"passes": 3}},
              metrics=_metrics(True, True)),
    ]  # fmt: skip
    warnings = [{"name": "sign", "message": "of a check"}]
    variant = plant(root, "mgsr_kept", _scores(49, 5), title="kept & more", objective={"span_weight": 2.0}, warnings=warnings)
    tables = {"table1": cells("table1", [rows[0], rows[2]]), "table4c": cells("table4c", rows[1:])}
    paths = [write(root / f"{name}.cells.json", value) for name, value in tables.items()]
    judged = {"table": "claims", "preset": "smoke", "recipe": "controlled", "note": "", "tables": tables}
    check = cells("sensitivity", [rows[2], variant])
    return [*paths, write(root / "claims.cells.json", judged), write(root / "sensitivity.cells.json", check)]


def test_claims_and_checks_stand_in_the_report(whole: list[Path], tmp_path: Path) -> None:
    report.write(whole, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.open and all(address.startswith(("#", "data:")) for address in page.addresses)
    anchors = {address[1:] for address in page.addresses if address.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', text)) and {"bands", "hits", "sensitivity"} <= anchors
    assert "MGSR is at least 15 % above the SFT student" in text and "Of 1 variants" in text
    assert "kept &amp; more" in text and "of a check" in text
    report.write(whole, tmp_path / "again.html")
    assert text == (tmp_path / "again.html").read_text()


def test_positions_of_corrections(whole: list[Path]) -> None:
    found = report.scrg_hits(load_cells(whole[1]).groups)
    assert found == {"MGSR, seed 10": HITS * 4, "three, seed 10": HITS * 4}


def test_what_a_report_cannot_show(tmp_path: Path, whole: list[Path]) -> None:
    with pytest.raises(MgsrError, match="table9"):
        report.write([write(tmp_path / "x.json", cells("table9", []))], tmp_path / "report.html")
    with pytest.raises(MgsrError, match="needs the cells of a table"):
        report.write(whole[2:], tmp_path / "report.html")


def test_no_cells(tmp_path: Path) -> None:
    with pytest.raises(MgsrError):
        report.write([], tmp_path / "report.html")


def test_every_table_has_a_caption_of_its_own_in_snakemakes_report() -> None:
    template = (Path(__file__).parents[1] / "workflow/report/table.rst").read_text()
    captions = {
        table: jinja2.Template(template).render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(table=table))).strip()
        for table in registry.TABLES
    }
    assert all(captions.values()) and len(set(captions.values())) == len(captions)
    assert "ExAccErr" in captions["table4a"] and "losses" in captions["table3c"]
