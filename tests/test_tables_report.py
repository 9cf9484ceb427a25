from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mgsr.errors import MgsrError
from mgsr.tables import report
from tests import results_tree


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
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("results")
    return [results_tree.build(folder), results_tree.build(folder, table="table2")]


def test_report_is_whole_and_offline(cells: list[Path], tmp_path: Path) -> None:
    report.write(cells, tmp_path / "report.html")
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
    report.write(cells, tmp_path / "again.html")
    assert text == (tmp_path / "again.html").read_text()


def test_many_methods_have_looks_of_their_own() -> None:
    looks = [look for _, *look in report._looks([None] * 21)]  # type: ignore[list-item]
    assert len({tuple(look) for look in looks}) == 21


def test_no_cells(tmp_path: Path) -> None:
    with pytest.raises(MgsrError):
        report.write([], tmp_path / "report.html")
