"""`python -m eyescream_py.srez.download_data`: fetch the aligned CelebA archive, resuming, checked,
and unpack it.

The default address and MD5 are those under which the archive has been published for years; they
were not tried from the machine this was written on. Any other address and checksum can be given.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

import errno
import hashlib
import json
import lzma
import struct
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import click

from eyescream_py.system import voice
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import FULL, UserError, why
from eyescream_py.system.files import atomic_write, demand_room, remove_stale_temporaries
from eyescream_py.system.folders import make_folder
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import Progress, each
from eyescream_py.system.voice import counted

CELEBA_URL = "https://drive.usercontent.google.com/download?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM&export=download&confirm=t"
CELEBA_CHECKSUM = "md5:00d2c5bc6d35e252742224ab0c1e8fcb"
CHUNK = 1 << 20
MB = 1_000_000
TIMEOUT_SECONDS = 30
MOST_BYTES = 64 << 20  # of one picture; CelebA's have 7 kB
# What zipfile, and what unpacks for it, raises for strangers' bytes; RuntimeError: a password.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, NotImplementedError, EOFError,
    ValueError, OverflowError, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
ALGORITHMS = ("md5", "sha1", "sha256", "sha512")
Say = Callable[[str], None]


def parse_checksum(text: str) -> tuple[str, str]:
    """`sha256:HEX` -> (algorithm, hex digits); UserError for anything else."""
    algorithm, _, digest = text.lower().partition(":")
    if algorithm not in ALGORITHMS or len(digest) != 2 * hashlib.new(algorithm).digest_size:
        raise UserError(
            f"--checksum={text}: give ALGORITHM:HEX with one of {', '.join(ALGORITHMS)}"
        )
    return algorithm, digest


def download(url: str, target: Path, checksum: str, retries: int = 5, say: Say = voice.say) -> None:
    """Fetch `url` to `target`; a broken transfer goes on where it stopped, now or in a later call.

    The bytes so far are `target.part`, with the server's tag of the file in `target.part.json`: a
    file that changed on the server starts anew. `target` appears only with the right checksum (""
    checks none). Raises UserError where the server refuses, sends a web page, or the checksum
    differs.
    """
    part = target.with_name(target.name + ".part")
    for attempt in range(retries + 1):
        try:
            _fetch_rest(url, part, say)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == retries:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                error.filename = str(part)
                raise
            if attempt == retries:
                raise UserError(f"{url}: {_broken_off(error)}; {_remedy(part)}") from None
        say(f"the transfer broke off, trying again ({attempt + 1} of {retries})")
        time.sleep(min(2**attempt, 30) * 0.1)
    _accept(part, target, checksum)


def _broken_off(error: OSError | HTTPException) -> str:
    """Why a transfer ended."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return why(cause) if isinstance(cause, OSError) else str(cause) or type(cause).__name__


def _remedy(part: Path) -> str:
    if part.is_file():
        return f"{part} keeps what came, start again to go on from there"
    return "check the address and the network, and start again"


def _fetch_rest(url: str, part: Path, say: Say) -> None:
    have, tag = _have(part)
    headers = {"User-Agent": "eyescream_py"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url={url}: give an http or https address")
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  checked above
    except ValueError as error:
        raise UserError(f"--url={url}: is no address ({error})") from None
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # everything is there already
            return
        raise
    with answer:
        _store(answer, part, have if answer.status == 206 else 0, url, say)


def _have(part: Path) -> tuple[int, str]:
    """Bytes that can be kept and the tag they belong to; without a tag nothing can."""
    try:
        tag = json.loads(_tag_file(part).read_text())["tag"]
        return (part.stat().st_size, tag) if tag else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _store(answer: HTTPResponse, part: Path, have: int, url: str, say: Say) -> None:
    if answer.headers.get_content_type() == "text/html":
        raise UserError(f"{url}: sent a web page, not a file (a quota or a consent page?)")
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    with atomic_write(_tag_file(part)) as file:
        file.write(json.dumps({"tag": "" if tag.startswith("W/") else tag}).encode())
    say(f"{url}: from {have} of {total if total else 'unknown'} bytes")
    with open(part, "ab" if have else "wb") as out:
        _copy(answer, out, have, total)
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"{size} of {total} bytes came")


def _copy(answer: HTTPResponse, out: BinaryIO, have: int, total: int | None) -> None:
    """What comes, as it comes, behind the `have` bytes of a file. Raises OSError."""
    with Progress(total and total // MB, "MB") as progress:
        progress.update(have // MB)
        while chunk := answer.read1(CHUNK):
            out.write(chunk)
            progress.update((have + len(chunk)) // MB - have // MB)
            have += len(chunk)


def _accept(part: Path, target: Path, checksum: str) -> None:
    if checksum:
        algorithm, wanted = parse_checksum(checksum)
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != wanted:
            part.unlink()
            _tag_file(part).unlink(missing_ok=True)
            raise UserError(
                f"{target.name}: its {algorithm} is {found}, not {wanted}; the broken file was "
                "removed, start again"
            )
    part.replace(target)
    _tag_file(part).unlink(missing_ok=True)


def unpack(archive: Path, folder: Path) -> int:
    """Write the JPEG files of a zip flat into `folder`, whatever paths they claim; returns how many
    are there.

    Files of the right size are kept, so that a broken unpacking can go on. Raises UserError for an
    archive that is damaged, encrypted, packed in a way that Python does not know, or that claims
    pictures of more than MOST_BYTES.
    """
    count = 0
    try:
        with zipfile.ZipFile(archive) as package:
            for member in each(package.infolist(), "files"):
                name = PurePosixPath(member.filename.replace("\\", "/")).name
                if name.lower().endswith((".jpg", ".jpeg")) and not name.startswith("."):
                    _unpack_one(package, member, folder / name)
                    count += 1
    except (*DAMAGED_ZIP, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's; bz2's have no number, and a place before the file's start is EINVAL
        raise UserError(
            f"{archive}: no zip archive, a damaged or an encrypted one ({str(error)[:200]}); "
            "remove it and start again"
        ) from None
    if not count:
        raise UserError(f"{archive}: no JPEG files in it")
    return count


def _unpack_one(package: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if member.file_size > MOST_BYTES:
        raise zipfile.BadZipFile(f"{target.name} has {member.file_size} bytes")
    if target.is_file() and target.stat().st_size == member.file_size:
        return
    with atomic_write(target, synced=False) as out, package.open(member) as source:
        while chunk := source.read(CHUNK):
            out.write(chunk)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", default=CELEBA_URL, show_default=True, help="Address of the zip archive.")
@click.option("--checksum", default=None, help="ALGORITHM:HEX, '' for none. Default: CelebA's MD5 "
              "for the default address, else none.")  # fmt: skip
@click.option("--archive", type=PATH, default="srez/img_align_celeba.zip", show_default=True,
              help="Where the archive goes.")  # fmt: skip
@click.option(
    "--dataset", type=PATH, default="srez/dataset", show_default=True, help="Where its pictures go."
)
@click.option("--retries", type=click.IntRange(0), default=5, show_default=True,
              help="How often a broken transfer is taken up again.")  # fmt: skip
def main(url: str, checksum: str | None, archive: str, dataset: str, retries: int) -> None:
    """Download CelebA (about 1.4 GB; its terms allow non-commercial research) and unpack it for
    srez.
    """
    if checksum is None:
        checksum = CELEBA_CHECKSUM if url == CELEBA_URL else ""
    if checksum:
        parse_checksum(checksum)
    target, folder = Path(archive), Path(dataset)
    for place in (target.parent, folder):
        make_folder(place)
        remove_stale_temporaries(place)
    # before 1.4 GB are fetched that could not be kept
    demand_room(folder / "probe")
    if not target.is_file():
        demand_room(target)
        download(url, target, checksum, retries)
    count = unpack(target, folder)
    voice.say(f"{counted(count, 'picture')} in {folder}; {target} can be deleted")


if __name__ == "__main__":
    main()
