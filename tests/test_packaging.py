"""The set-up files agree with one another, and visdom's page files arrive whole or not at all."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import os
import re
import stat
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from eyescream_py.plots import assets as visdom_assets
from eyescream_py.plots.assets import Asset, ensure_assets, missing_assets, read_manifest
from eyescream_py.system.errors import UserError

ROOT = Path(__file__).parents[1]
CONTENT = {"dist/page.js": b"let page = 1;", "css/page.css": b"body {}"}
PLACES = {"dist/page.js": "js/page.js", "css/page.css": "css/deep/page.css"}
ASSETS = [
    Asset(hashlib.sha256(data).hexdigest(), "page@1.0.0", member, PLACES[member])
    for member, data in CONTENT.items()
]


def pins(name: str) -> dict[str, str]:
    """Package name -> pinned version of a requirements file."""
    lines = (ROOT / name).read_text().splitlines()
    found = [re.match(r"([A-Za-z0-9._-]+)==([^\s\\]+)", line) for line in lines]
    return {match[1].lower(): match[2] for match in found if match}


# Where a module's name is not its package's.
DISTRIBUTIONS = {
    "triton": "torch",  # which brings it along where it has CUDA
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "imageio_ffmpeg": "imageio-ffmpeg",
}


def imported_modules(folder: str) -> set[str]:
    """Top names of all imports in a folder's files that are neither Python's nor this project's."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"eyescream_py"}


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestRequirements:
    def test_every_line_is_pinned(self) -> None:
        for name in ("requirements.txt", "requirements-dev.txt"):
            for line in (ROOT / name).read_text().splitlines():
                plain = line.partition("#")[0].strip()
                allowed = ("", "./packaging/visdom", "-r requirements.txt")
                assert plain in allowed or re.fullmatch(r"[\w.-]+==[\w.]+", plain), line

    def test_the_lock_holds_the_same_versions_and_a_hash_for_each(self) -> None:
        lock = (ROOT / "requirements.lock").read_text()
        wanted = pins("requirements.txt") | pins("requirements-dev.txt")
        assert wanted.pop("torch")
        assert wanted.items() <= pins("requirements.lock").items()
        entries = re.split(r"\n(?=[a-z])", lock.partition("\n\n")[0])
        assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)

    def test_the_project_asks_for_nothing_that_is_not_pinned(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        needed = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
        assert needed <= pins("requirements.txt").keys()

    def test_the_project_asks_for_all_that_it_imports(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = [line for part in project["optional-dependencies"].values() for line in part]
        asked = {re.split(r"[<>=]", line)[0] for line in project["dependencies"] + extras}
        modules = {DISTRIBUTIONS.get(name, name) for name in imported_modules("eyescream_py")}
        assert {"torch", "click", "nibabel"} <= modules
        assert modules <= asked

    def test_make_and_the_classifiers_name_the_same_pythons(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        pythons = [line.rpartition(" ")[2] for line in project["classifiers"]]
        assert project["requires-python"] == f">={pythons[0]}"
        asks = f"Python {pythons[0]} to {pythons[-1]} "
        assert asks + "is needed" in (ROOT / "Makefile").read_text()
        assert asks.rstrip() in (ROOT / "requirements.txt").read_text()

    def test_a_wheel_takes_along_what_the_code_opens_beside_itself(self) -> None:
        text = (ROOT / "pyproject.toml").read_text()
        patterns = tomllib.loads(text)["tool"]["setuptools"]["package-data"]
        taken = {
            path
            for package, names in patterns.items()
            for name in names
            for path in (ROOT / package.replace(".", "/")).glob(name)
        }
        beside = {".c", ".h", ".safetensors", ".net", ".txt"}
        there = {path for path in (ROOT / "eyescream_py").rglob("*") if path.suffix in beside}
        assert ROOT / "eyescream_py/system/adam.c" in there
        assert not there - taken

    def test_torchvision_is_nowhere(self) -> None:
        assert "torchvision" not in (ROOT / "requirements.lock").read_text()

    def test_one_visdom_version_everywhere(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        version = load("packaging/visdom/build_visdom.py").VERSION
        assert version == visdom_assets.VISDOM_VERSION
        assert f"visdom=={version}" in project["optional-dependencies"]["plots"]


class TestVisdomBuild:
    def test_the_inner_pip_checks_hashes_and_sees_no_hook_of_the_outer_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = load("packaging/visdom/build_visdom.py")
        monkeypatch.setenv("_PYPROJECT_HOOKS_BUILD_BACKEND", "build_visdom")
        monkeypatch.setenv("PEP517_BACKEND_PATH", "somewhere")
        monkeypatch.setenv("PIP_CONSTRAINT", "somewhere")
        monkeypatch.setenv("PIP_REQUIRE_HASHES", "1")
        commands = []

        def pip(command: list[str], env: dict[str, str], check: bool) -> None:
            assert check
            assert not [name for name in env if "HOOKS" in name or name.startswith("PEP517")]
            assert "PIP_CONSTRAINT" not in env
            assert env["PIP_REQUIRE_HASHES"] == "1"
            assert "--require-hashes" in command
            assert "--no-deps" in command
            commands.append(command)
            if "wheel" in command:
                assert env["PYTHONPATH"].split(os.pathsep)[0] == commands[0][-1]
                folder = Path(command[command.index("--wheel-dir") + 1])
                (folder / "visdom-0.2.4-py3-none-any.whl").write_bytes(b"wheel")

        monkeypatch.setattr(subprocess, "run", pip)
        assert backend.build_wheel(str(tmp_path)) == "visdom-0.2.4-py3-none-any.whl"
        assert (tmp_path / "visdom-0.2.4-py3-none-any.whl").read_bytes() == b"wheel"
        assert len(commands) == 2

    def test_everything_that_builds_it_is_pinned_by_hash(self) -> None:
        for name in ("tools.txt", "source.txt"):
            lines = (ROOT / "packaging" / "visdom" / name).read_text().splitlines()
            for line in lines[1:]:
                assert re.fullmatch(r"[a-z]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line), line
        with open(ROOT / "packaging" / "visdom" / "pyproject.toml", "rb") as file:
            needed = tomllib.load(file)["build-system"]["requires"]
        assert needed == [(ROOT / "packaging/pip.txt").read_text().splitlines()[1].split()[0]]

    def test_a_changed_archive_is_not_built(self, tmp_path: Path) -> None:
        """pip itself, without an index: the hash is looked at before anything of it runs."""
        backend = load("packaging/visdom/build_visdom.py")
        archive = tmp_path / "visdom-0.2.4.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            setup = b"open('/planted', 'w')"
            entry = tarfile.TarInfo("visdom-0.2.4/setup.py")
            entry.size = len(setup)
            tar.addfile(entry, io.BytesIO(setup))
        command = backend._wheel_command(str(tmp_path / "out"))
        done = subprocess.run(
            [*command, "--no-index", "--find-links", str(tmp_path)],
            capture_output=True, text=True, env=backend._environment(), timeout=120,
        )  # fmt: skip
        assert done.returncode != 0
        assert "DO NOT MATCH THE HASHES" in done.stderr
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    def test_a_failed_build_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = load("packaging/visdom/build_visdom.py")
        failing = [sys.executable, "-c", "raise SystemExit(1)"]
        monkeypatch.setattr(backend, "_tools_command", lambda folder: failing)
        with pytest.raises(subprocess.CalledProcessError):
            backend.build_wheel(str(tmp_path))
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that "packs" by copying archives from the returned folder, and no other way."""
    archives = tmp_path / "archives"
    archives.mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\ncp "{archives}"/*.tgz .\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    monkeypatch.setattr(visdom_assets, "_fetch_with_visdom", lambda *args: lambda asset: None)
    return archives


def pack(folder: Path, content: dict[str, bytes]) -> Path:
    archive = folder / "page-1.0.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for member, data in content.items():
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive


class TestPageFiles:
    def test_the_manifest_lists_each_place_once(self) -> None:
        assets = read_manifest()
        assert len({asset.place for asset in assets}) == len(assets) == 29
        assert all(re.fullmatch("[0-9a-f]{64}", asset.sha256) for asset in assets)
        assert all(".." not in asset.place for asset in assets)

    def test_the_installed_page_is_complete(self) -> None:
        static = visdom_assets.static_folder()
        assert static is not None
        ensure_assets(read_manifest(), static)
        for asset in read_manifest():
            data = (static / asset.place).read_bytes()
            assert hashlib.sha256(data).hexdigest() == asset.sha256, asset.place
        assert (static / "version.built").read_text() == "0.2.4"

    def test_files_are_put_in_place_and_marked(self, fake_npm: Path, tmp_path: Path) -> None:
        pack(fake_npm, CONTENT)
        static = tmp_path / "static"
        ensure_assets(ASSETS, static)
        assert (static / "js/page.js").read_bytes() == CONTENT["dist/page.js"]
        assert (static / "css/deep/page.css").read_bytes() == CONTENT["css/page.css"]
        assert (static / "version.built").read_text() == "0.2.4"

    def test_a_second_time_fetches_nothing(self, fake_npm: Path, tmp_path: Path) -> None:
        archive = pack(fake_npm, CONTENT)
        ensure_assets(ASSETS, tmp_path / "static")
        archive.unlink()
        ensure_assets(ASSETS, tmp_path / "static")
        assert missing_assets(ASSETS, tmp_path / "static") == []

    def test_what_was_changed_on_the_way_is_not_installed(
        self, fake_npm: Path, tmp_path: Path
    ) -> None:
        pack(fake_npm, CONTENT | {"dist/page.js": b"steal();"})
        static = tmp_path / "static"
        with pytest.raises(UserError, match=r"lacks 1 .*js/page.js.*plots.assets"):
            ensure_assets(ASSETS, static)
        assert not (static / "js/page.js").exists()
        assert not (static / "version.built").exists()
        pack(fake_npm, CONTENT)
        ensure_assets(ASSETS, static)  # goes on where the first call ended
        assert (static / "js/page.js").read_bytes() == CONTENT["dist/page.js"]

    def test_a_cut_archive_is_as_good_as_none(self, fake_npm: Path, tmp_path: Path) -> None:
        archive = pack(fake_npm, CONTENT)
        archive.write_bytes(archive.read_bytes()[:60])
        with pytest.raises(UserError, match="lacks 2"):
            ensure_assets(ASSETS, tmp_path / "static")

    def test_a_hanging_npm_is_given_up(self, fake_npm: Path, tmp_path: Path) -> None:
        npm = tmp_path / "bin" / "npm"
        npm.write_text("#!/bin/sh\nexec sleep 60\n")
        with pytest.raises(UserError, match="connect to the network"):
            ensure_assets(ASSETS, tmp_path / "static", timeout_s=0.2)

    def test_a_read_only_installation_is_one_line(
        self, fake_npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pack(fake_npm, CONTENT)
        static = tmp_path / "static"
        static.write_text("a file where the folder should be")
        with pytest.raises(UserError, match="may write there") as error:
            ensure_assets(ASSETS, static)
        assert "\n" not in error.value.message


class TestAudit:
    def test_nothing_known(self, capsys: pytest.CaptureFixture[str]) -> None:
        packages = [{"name": "numpy", "version": "2.4.6", "vulns": []}]
        assert load("scripts/audit.py").report(packages) == 0
        assert "1 packages checked, 0 known" in capsys.readouterr().out

    def test_an_advisory_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        advisory = {"id": "CVE-1", "fix_versions": ["2.0"]}
        packages = [{"name": "numpy", "version": "1.0", "vulns": [advisory]}]
        assert load("scripts/audit.py").report(packages) == 1
        assert "numpy 1.0: CVE-1, fixed in 2.0" in capsys.readouterr().out

    def test_packages_that_nobody_looked_up_are_not_called_safe(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        packages = [{"name": "numpy", "skip_reason": "not found"}]
        assert load("scripts/audit.py").report(packages) == 3
        assert "COULD NOT AUDIT" in capsys.readouterr().err

    @pytest.mark.parametrize("answer", ["", "no json", "[]", '{"other": 1}'])
    def test_no_answer_is_said_aloud(
        self, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        audit = load("scripts/audit.py")
        result = subprocess.CompletedProcess([], 1, stdout=answer, stderr="no route to host")
        monkeypatch.setattr(audit.subprocess, "run", lambda *args, **kwargs: result)
        assert audit.main() == 3
        assert "COULD NOT AUDIT" in capsys.readouterr().err


def make(target: str, folder: Path) -> str:
    """What `make TARGET` would run, in a copy of the set-up files."""
    command = ["make", "--dry-run", "--no-print-directory", target]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


class TestMake:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        (tmp_path / "packaging" / "visdom").mkdir(parents=True)
        requirements = ("requirements.txt", "requirements-dev.txt", "requirements.lock")
        for name in ("Makefile", *requirements, "packaging/pip.txt"):
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        return tmp_path

    @pytest.mark.parametrize("target", ["demo", "test"])
    def test_the_first_time_installs_with_hashes(self, clone: Path, target: str) -> None:
        plan = make(target, clone)
        assert "-m venv .venv" in plan
        newer_pip = plan.index("--require-hashes -r packaging/pip.txt")
        assert newer_pip < plan.index("--require-hashes --only-binary :all: -r requirements.lock")

    @pytest.mark.parametrize("target", ["demo", "test"])
    def test_the_second_time_does_not(self, clone: Path, target: str) -> None:
        (clone / ".venv").mkdir()
        (clone / ".venv" / ".installed").touch()
        assert "pip" not in make(target, clone)

    def test_changed_requirements_are_installed(self, clone: Path) -> None:
        (clone / ".venv").mkdir()
        (clone / ".venv" / ".installed").touch()
        later = (clone / ".venv" / ".installed").stat().st_mtime + 5
        os.utime(clone / "requirements.txt", (later, later))
        assert "pip install" in make("test", clone)

    def test_ci_can_be_run(self) -> None:
        assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_no_file_names_a_registry_host() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    host = re.compile(r"(pypi|pythonhosted|npmjs|unpkg)\.(org|com)")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", ".lock", ".json", "") and path.is_file():
            assert not host.search(path.read_text(errors="replace")), name


def test_torch_s_hashes_are_of_the_torch_that_is_asked_for():
    pin = next(line for line in (ROOT / "requirements.txt").open() if line.startswith("torch=="))
    text = (ROOT / "packaging" / "torch.txt").read_text()
    assert f"\n{pin.strip()} \\\n" in text
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", text)
    assert len(set(hashes)) == len(hashes) == 12  # four Pythons, three kinds of machine


def test_no_opencv_is_allowed_that_was_built_for_another_numpy():
    """4.10.0.82, which `>=4.10` let in, cannot be imported beside numpy 2."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = dict(line.split(">=") for line in project["dependencies"])
    version = tuple(map(int, least["opencv-python-headless"].split(".")))
    assert least["numpy"].startswith("2.")
    assert version >= (4, 10, 0, 84)
