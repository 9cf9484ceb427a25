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

from mgsr.config import identity
from mgsr.errors import MgsrError
from mgsr.tables import report
from mgsr.tables.figures import looks
from tests.tables_support import (
    ENTRIES,
    METHODS,
    NOTE,
    SETS,
    load,
    plan,
    plan_claims,
    plan_page,
    plant,
    plant_evaluation,
    plant_table,
    shown,
)


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


def written(root: Path) -> tuple[str, list[str]]:
    """The page and its addresses: it is whole, loads nothing, links to what is there, and is the same when made again."""
    report.write_report(root, "report")
    text = (root / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.open and all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\(|@import|<script|https?://", text)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(re.findall(r'id="([^"]+)"', text))
    report.write_report(root, "report")
    assert text == (root / "report.html").read_text()
    return text, page.addresses


def test_report_is_whole_and_offline(tmp_path: Path) -> None:
    students = {name: METHODS[name] for name in ("distillm", "mgsr")}
    plan_page(tmp_path, plant_table(tmp_path), plant_table(tmp_path, "table2", methods=students))
    text, addresses = written(tmp_path)
    assert "Table 1 (preset smoke" in text and "Table 2 (preset smoke" in text
    assert NOTE in text and "teacher − SFT, with 95 % intervals: Dolly" in text
    assert "few steps &amp; &lt;tiny&gt; data" in text and "0.9000" in text
    images = [address.partition(",")[2] for address in addresses if address.startswith("data:image/svg+xml;base64,")]
    assert len(images) == 2 and all(b"</svg>" in base64.b64decode(image) for image in images)  # bars, curves of Table 1


def test_each_metric_has_its_bars(tmp_path: Path) -> None:
    plan_page(tmp_path, plant_table(tmp_path, halved=["mine:half"]))
    text, addresses = written(tmp_path)
    assert "<h3>tiny, ROUGE-L</h3>" in text and "<h3>tiny, half</h3>" in text
    assert len({address for address in addresses if address.startswith("data:")}) == 3


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
        corrections = [list(hit) for hit in HITS] if hits else None
        lines.append({"step": step, "kind": "train", "loss": 2.0, **band, "scrg_hits": corrections})
    return lines


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two tables, the claims and one check."""
    rows = [
        plant(tmp_path, "sft", _scores(40, 0), title="SFT", sequences={"policy": "dataset"}, metrics=_metrics(False, False)),
        plant(tmp_path, "mgsr_without_scrg", _scores(45, 1), title="unrevised", metrics=_metrics(True, False)),
        plant(tmp_path, "mgsr", _scores(50, 3), title="MGSR", sequences=SCRG, metrics=_metrics(True, True)),
        plant(tmp_path, "mgsr_three_passes", _scores(50, 4), title="three", sequences=SCRG, metrics=_metrics(True, True)),
    ]
    card = {"warnings": [{"name": "sign", "message": "of a check"}]}
    variant = plant(tmp_path, "mgsr_kept", _scores(49, 5), title="kept & more", card=card)
    plant_evaluation(tmp_path, "floor", "floor", _scores(20, 6), protocols=["plain"])
    tables = shown("table1", [rows[0], rows[2]]), plan(tmp_path, shown("table4c", rows[1:]))
    check = shown("sensitivity", [rows[2], variant])
    plan_page(tmp_path, *tables, claims=plan_claims(tmp_path, *tables), checks=[check])
    return tmp_path


def test_claims_and_checks_stand_in_the_report(whole: Path) -> None:
    text, addresses = written(whole)
    assert {"#bands", "#hits", "#sensitivity"} <= set(addresses)
    assert "MGSR is at least 15 % above the SFT student" in text and "Of 1 variants" in text
    assert "kept &amp; more" in text and "of a check" in text


def test_positions_of_corrections(whole: Path) -> None:
    hits = report.scrg_hits(load(whole, "table4c").methods)
    assert hits == {"MGSR, seed 10": HITS * 4, "three, seed 10": HITS * 4}


def test_a_report_needs_a_table(tmp_path: Path) -> None:
    plan_page(tmp_path)
    with pytest.raises(MgsrError, match="names no table"):
        report.write_report(tmp_path, "report")


def test_the_template_is_part_of_the_reports_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def digest() -> str:
        identity.code_digest.cache_clear()
        return identity.code_digest("pkg.page")

    monkeypatch.setattr(identity, "PACKAGE", tmp_path / "pkg")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/page.py").write_text("x = 1\n")
    digests = [digest()]
    for name in ("page.html", "other.html"):
        (tmp_path / "pkg" / name).write_text(name)
        digests.append(digest())
    identity.code_digest.cache_clear()
    assert digests[0] != digests[1] == digests[2] and Path(report.__file__).with_suffix(".html") == report.TEMPLATE


def test_every_table_has_a_caption_of_its_own_in_snakemakes_report() -> None:
    template = (Path(__file__).parents[1] / "workflow/report/table.rst").read_text()
    captions = {
        table: jinja2.Template(template).render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(table=table))).strip()
        for table in ENTRIES
    }
    assert all(captions.values()) and len(set(captions.values())) == len(captions)
    assert "ExAccErr" in captions["table4a"] and "losses" in captions["table3c"]
