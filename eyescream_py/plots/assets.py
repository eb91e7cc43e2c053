"""Put the script and style files of Visdom's page where its server looks for them.

visdom's wheel lacks them; its own server fetches them at the first start, without a time limit.
Here they come as npm packages (by visdom's own download where npm is missing), each checked
against the SHA-256 in visdom_assets.txt, so that later starts need no network.
Run `python -m eyescream_py.plots.assets` to do it by hand.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.places import as_module

VISDOM_VERSION = "0.2.4"
MANIFEST = Path(__file__).with_name("visdom_assets.txt")
_DOWNLOAD = (
    "import sys; from visdom.server.build import download_scripts as d; d(None, sys.argv[1])"
)


@dataclass(frozen=True)
class Asset:
    """One file of the page."""

    sha256: str
    package: str  # NAME@VERSION
    member: str  # path inside the package
    place: str  # path under visdom/static/


def read_manifest(path: Path = MANIFEST) -> list[Asset]:
    """The files that visdom's page needs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Asset(*line.split()) for line in lines if line and not line.startswith("#")]


def static_folder() -> Path | None:
    """The folder of the installed visdom that its server serves files from; None without visdom."""
    spec = importlib.util.find_spec("visdom")
    return Path(spec.origin).parent / "static" if spec and spec.origin else None


def missing_assets(assets: list[Asset], static: Path) -> list[Asset]:
    """Those of `assets` that are not in place under `static`."""
    return [asset for asset in assets if not (static / asset.place).is_file()]


def ensure_assets(assets: list[Asset], static: Path, timeout_s: float = 120.0) -> None:
    """Fetch what is missing under `static`, giving each way of fetching `timeout_s` seconds.

    Every file appears whole or not at all, so the next call continues an interrupted one.
    Raises UserError, one line with the remedy, when files are still missing afterwards.
    """
    for fetch in (_fetch_with_npm, _fetch_with_visdom):
        wanted = missing_assets(assets, static)
        if wanted:
            with tempfile.TemporaryDirectory(prefix="visdom-assets-") as folder:
                _install(wanted, static, fetch(wanted, Path(folder), timeout_s))
    wanted = missing_assets(assets, static)
    if wanted:
        raise UserError(
            f"Visdom's page lacks {len(wanted)} of its script files (the first: {wanted[0].place}) "
            "and they could not be fetched: connect to the network and run "
            f"`{as_module('plots.assets')}`"
        )
    _mark_complete(static)


def _fetch_with_npm(
    wanted: list[Asset], folder: Path, timeout_s: float
) -> Callable[[Asset], bytes | None]:
    npm = shutil.which("npm")
    packages = sorted({asset.package for asset in wanted})
    if npm:
        _run([npm, "pack", "--silent", *packages], folder, timeout_s)
    return lambda asset: _read_member(folder / _archive_name(asset.package), asset.member)


def _fetch_with_visdom(
    wanted: list[Asset], folder: Path, timeout_s: float
) -> Callable[[Asset], bytes | None]:
    _run([sys.executable, "-c", _DOWNLOAD, str(folder)], folder, timeout_s)

    def read(asset: Asset) -> bytes | None:
        path = folder / "static" / asset.place
        return path.read_bytes() if path.is_file() else None

    return read


def _run(command: list[str], folder: Path, timeout_s: float) -> None:
    """Run `command` quietly; its failure shows in the files that it did not leave in `folder`."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(  # noqa: S603
        command, cwd=folder, stdin=quiet, stdout=quiet, stderr=quiet
    ) as process:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()


def _archive_name(package: str) -> str:
    return package.replace("@", "-") + ".tgz"


def _read_member(archive: Path, member: str) -> bytes | None:
    """The bytes of one file of an npm archive, whose files lie in one top folder."""
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                if entry.isfile() and entry.name.partition("/")[2] == member:
                    file = tar.extractfile(entry)
                    return file.read() if file else None
    except (OSError, EOFError, tarfile.TarError):
        return None
    return None


def _install(wanted: list[Asset], static: Path, read: Callable[[Asset], bytes | None]) -> None:
    for asset in wanted:
        data = read(asset)
        if data is not None and hashlib.sha256(data).hexdigest() == asset.sha256:
            _write(static / asset.place, data)


def _mark_complete(static: Path) -> None:
    """Tell visdom's own server that it need not download anything."""
    mark = static / "version.built"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != VISDOM_VERSION:
        _write(mark, VISDOM_VERSION.encode())


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise UserError(
            f"{path}: {why(error)}; Visdom's page needs this file: run "
            f"`{as_module('plots.assets')}` as a user who may write there"
        ) from None


@click.command(cls=Command)
def main() -> None:
    """Fetch the script and style files of Visdom's page into the installed visdom."""
    static = static_folder()
    if static is None:
        raise UserError("visdom is not installed: run `pip install -r requirements.txt`")
    assets = read_manifest()
    lacking = len(missing_assets(assets, static))
    ensure_assets(assets, static)
    print(f"Visdom's page has its {len(assets)} script and style files ({lacking} fetched now).")


if __name__ == "__main__":
    main()
