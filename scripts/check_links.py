"""Check relative links, anchors and names of source files in Markdown files:
`python -m scripts.check_links`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_SOURCE = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.(?:py|sh))(?::\w+)?`")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def prose(text: str) -> str:
    """The text without its code."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Names that code hosts give to the headings: lower case, no punctuation, hyphens."""
    names: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        free, number = name, 0
        while free in names:
            number += 1
            free = f"{name}-{number}"
        names.add(free)
    return names


def broken_links(page: Path) -> list[str]:
    """One line for each link of the page that leads to no file or no heading."""
    text = prose(page.read_text(encoding="utf-8"))
    problems = []
    for link in _LINK.findall(text) + _SOURCE.findall(text):
        if _ELSEWHERE.match(link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = page if not place else (page.parent / place)
        if not target.exists():
            problems.append(f"{page}: {link}: there is no {place}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8")):
            problems.append(f"{page}: {link}: no such heading")
    return problems


def lost_files(page: Path) -> list[str]:
    """One line for each source file that the page names in code and that is nowhere in the project.

    A name may leave out the folders above it, as `data/walk.py` does. A bare name in lower case
    (`model.py`) may be a reader's own, unless it is a test's.
    """
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    named = [n for n in _NAMED.findall(text) if "/" in n or n.startswith("test_")]
    ends = [f"/{path.as_posix()}" for path in tracked("*.py", "*.sh")]
    return [f"{page}: there is no {n}" for n in named if not any(e.endswith(f"/{n}") for e in ends)]


def tracked(*patterns: str) -> list[Path]:
    """The files that git knows, deleted ones left out."""
    command = ["git", "ls-files", "-z", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in found if path.is_file()]


def pages() -> list[Path]:
    """The Markdown files."""
    return tracked("*.md")


def main() -> int:
    problems = [line for page in pages() for line in broken_links(page) + lost_files(page)]
    print("\n".join(problems) or "Every link and name leads somewhere.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
