"""The links of the documents, and the checker itself."""

from scripts.check_links import anchors, broken_links, pages


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


def test_headings_within_code_are_no_anchors():
    assert anchors("# One\n```\n# two\n```\n## [Three](x.md)\n") == {"one", "three"}
