"""The links of the documents, and the checker itself."""

import re

from scripts.check_links import ROOT, anchors, broken_links, lost_files, pages


def test_every_link_of_the_documents_leads_somewhere():
    found = pages()
    assert "README.md" in {page.name for page in found}
    assert [line for page in found for line in broken_links(page)] == []


def test_broken_links_are_found_and_good_ones_are_not(tmp_path):
    (tmp_path / "other.md").write_text("# A `b` c!\n\n## Same\n\n## Same\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n[a](other.md) [b](other.md#a-b-c) [c](#top) [d](https://x.invalid/no) `[e](no)`\n"
        "[f](other.md#same-1) ![g](gone.png) [h](other.md#same-2) [i](#nowhere)\n"
        '<img src="lost.png"> [j](missing/file.md)\n```\n[k](no)\n```\n'
    )
    lines = broken_links(page)
    assert [line.split(": ")[1] for line in lines] == [
        "gone.png", "other.md#same-2", "#nowhere", "missing/file.md", "lost.png",
    ]  # fmt: skip


def test_every_source_file_that_the_documents_name_is_there():
    assert [line for page in pages() for line in lost_files(page)] == []


def test_a_source_file_that_is_gone_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`data/walk.py` `walk/data.py` `test_walk.py` `test_gone.py` `training/faces.py:train`\n"
        "`model.py` `docs/NAME.md` `scripts/gone.sh`\n```\npython gone/gone.py\n```\n"
    )
    names = [line.split("there is no ")[1] for line in lost_files(page)]
    assert names == ["walk/data.py", "test_gone.py", "scripts/gone.sh"]


def test_headings_within_code_are_no_anchors():
    assert anchors("# One\n```\n# two\n```\n## [Three](x.md)\n") == {"one", "three"}


def test_the_pages_stay_short():
    generated = {"flags.md", "torch7-classes.md"}
    guides = [page for page in (ROOT / "docs").glob("*.md") if page.name not in generated]
    texts = [
        page.read_text("utf-8") for page in [*guides, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    ]
    words = [word for text in texts for word in text.split() if re.search(r"\w", word)]
    assert 5_000 < len(words) < 12_300
    assert len(texts[-2].splitlines()) <= 120  # the README
