"""The one walk through a folder: which files of given endings are in it, and what is left out.

Every system of the package lists folders here. Imports no torch.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eyescream_py.system.voice import counted, printable

OTHER = "of other formats"
HIDDEN = "hidden"
BROKEN_LINK = "broken link"
BACK = "backward link"
UNREADABLE = "unreadable"
SPECIAL = "no regular file"
BROKEN = "broken"
OWN = "made by this program"
RUN_LOG = "metrics.jsonl"  # in every folder that a training writes its pictures to
MAC = "__MACOSX"  # what a Mac adds to a zip
NAMED = 3  # names shown per reason


@dataclass(frozen=True)
class FoundFile:
    """One file of a walked folder with what tells whether it changed."""

    name: str  # relative to the folder, with forward slashes
    size: int  # bytes
    mtime: int  # nanoseconds


@dataclass
class Walk:
    """What a walk found, sorted by name, and by reason the names of what it left out."""

    folder: Path
    files: list[FoundFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The files' names, relative to the folder."""
        return [file.name for file in self.files]

    @property
    def paths(self) -> list[Path]:
        """The files' paths."""
        return [self.folder / file.name for file in self.files]

    def leave_out(self, reason: str, name: str) -> None:
        """Count `name` among what is left out for `reason`."""
        self.left_out.setdefault(reason, []).append(name)

    def line(self, broken: Iterable[tuple[str, str]] = ()) -> str:
        """One line that counts what is left out, the `broken` files (name, why) among it; empty
        where nothing is."""
        named = [f"{name} ({why})" for name, why in broken]
        return left_out_line(self.left_out | ({BROKEN: named} if named else {}))


def walk(
    folder: str | os.PathLike[str],
    endings: Sequence[str],
    without: Iterable[str | os.PathLike[str]] = (),
) -> Walk:
    """The files of `folder`, at any depth, whose names end in one of `endings` (lower case).

    Folders behind links are walked once, after all others; links back to a folder that was walked
    or lies above, hidden files and folders, a Mac's `__MACOSX`, broken links and what is no
    regular file are left out; so are, below `folder`, the folders `without` and those of earlier
    runs, whose grids nobody wants to train on. Names are file names, byte for byte (surrogates
    where they are no UTF-8). Raises OSError where `folder` itself cannot be read.
    """
    with os.scandir(folder):  # the person's own folder must be readable; others are only told
        pass
    return _Walker(Path(folder), tuple(endings), without).go()


class _Walker:
    """The state of one walk: folders still to be read, and the identity of those that were."""

    def __init__(
        self, folder: Path, endings: tuple[str, ...], without: Iterable[str | os.PathLike[str]]
    ) -> None:
        self.found = Walk(folder)
        self.endings = endings
        self.folders = deque([""])  # relative, with a slash at the end
        self.links = deque[str]()  # folders behind links wait, so that real names win
        # A link to where we came from, `/` at worst, would bring in what nobody meant.
        self.seen = {_identity(above) for above in folder.resolve().parents}
        self.without = {_identity(own) for own in without if os.path.isdir(own)}

    def go(self) -> Walk:
        while self.folders or self.links:
            prefix = self.folders.popleft() if self.folders else self.links.popleft()
            try:
                if self._is_new(prefix):
                    self._look_into(prefix)
            except OSError:
                self.found.leave_out(UNREADABLE, prefix.rstrip("/"))
        self.found.files.sort(key=lambda file: file.name)
        return self.found

    def _look_into(self, prefix: str) -> None:
        entries = _entries(self.found.folder / prefix)
        own = _identity(self.found.folder / prefix) in self.without
        # the folder that a person names is taken whatever it is
        if prefix and (own or any(entry.name == RUN_LOG for entry in entries)):
            self.found.leave_out(OWN, prefix.rstrip("/"))
            return
        for entry in entries:
            self._judge(prefix + entry.name, entry)

    def _is_new(self, prefix: str) -> bool:
        identity = _identity(self.found.folder / prefix)
        if identity in self.seen:
            self.found.leave_out(BACK, prefix.rstrip("/"))
            return False
        self.seen.add(identity)
        return True

    def _judge(self, name: str, entry: os.DirEntry[str]) -> None:
        fits = entry.name.lower().endswith(self.endings)
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or to itself
            self.found.leave_out(BROKEN_LINK if entry.is_symlink() else UNREADABLE, name)
            return
        is_folder = stat.S_ISDIR(status.st_mode)
        if entry.name[0] == "." or (is_folder and entry.name == MAC):
            if fits or is_folder:  # other hidden files are not worth a message
                self.found.leave_out(HIDDEN, name)
        elif is_folder:
            (self.links if entry.is_symlink() else self.folders).append(name + "/")
        elif not fits:
            self.found.leave_out(OTHER, name)
        elif stat.S_ISREG(status.st_mode):
            self.found.files.append(FoundFile(name, status.st_size, status.st_mtime_ns))
        else:
            self.found.leave_out(SPECIAL, name)


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def left_out_line(left_out: Mapping[str, Sequence[str]]) -> str:
    """The line "left out: 8 of other formats (.heic, .txt), 1 broken: a.jpg (...)", or nothing."""
    parts = []
    for reason, names in left_out.items():
        if reason == OTHER:
            endings = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
            shown = [ending for ending, _ in endings.most_common(NAMED)]
            more = ", ..." if len(endings) > NAMED else ""
            parts.append(f"{len(names)} {reason} ({', '.join(shown)}{more})")
        else:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            count = counted(len(names), reason, "" if reason.endswith("link") else reason)
            parts.append(f"{count}: {', '.join(names[:NAMED])}{more}")
    return printable("left out: " + ", ".join(parts)) if parts else ""
