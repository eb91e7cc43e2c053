"""The table of docs/inputs.md, held to all systems: the same pictures and folders go through the
reading of the faces' trainers, generate_dataset, srez, image_model, ganless_hd and mln.
"""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eyescream_py.cli import generate_dataset
from eyescream_py.data import dataset
from eyescream_py.data.decode import decode_picture
from eyescream_py.data.pictures import PictureError
from eyescream_py.ganless_hd import data as ganless
from eyescream_py.image_model import data as image_model
from eyescream_py.mln import data as mln
from eyescream_py.srez import data as srez
from eyescream_py.system.errors import UserError
from tests.odd_pictures import base, huge_bits, huge_jpeg, refused, taken

SIDE = 250  # LFW's, which generate_dataset demands


def by_mln(path: Path) -> np.ndarray:
    return mln.load_images(str(path.parent), 9, MLN_SIDE)[0]


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "train.py": lambda path: decode_picture(path, 1, SIDE)[0],
    "generate_dataset": lambda path: np.asarray(generate_dataset._read_photo(path))[..., 1],
    "srez": lambda path: np.asarray(srez.open_picture(path))[..., 1],
    "image_model": lambda path: image_model.read_picture(path, 1)[0],
    "ganless_hd": lambda path: ganless.load_photo(path)[..., 1],
    "mln": by_mln,
}
MLN_SIDE = 256  # to which mln resamples every picture
SIDES = dict.fromkeys(READERS, SIDE) | {"mln": MLN_SIDE}


@pytest.mark.parametrize("name", taken(SIDE))
@pytest.mark.parametrize("system", READERS)
def test_a_picture_means_the_same_to_all(system: str, name: str, tmp_path: Path) -> None:
    """Pixel by pixel: each picture has the size at which the system does not resample."""
    path = tmp_path / name
    path.write_bytes(taken(SIDES[system])[name])
    seen = READERS[system](path).astype(float)
    expected = base(SIDES[system]).astype(float)
    if name == "float.tif":  # scaled by its own range
        expected = (expected - 20) / 235 * 255
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).max() <= 1


@pytest.mark.parametrize("name", refused(SIDE))
@pytest.mark.parametrize("system", READERS)
def test_what_is_no_picture_says_why(system: str, name: str, tmp_path: Path, capsys) -> None:
    content, reason = refused(SIDE)[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((PictureError, UserError), match=r"^[^\n]+$") as refusal:
        READERS[system](path)
    said = str(refusal.value) + capsys.readouterr().err
    assert reason in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real files of 108 and 200 million pixels, each in a folder of its own."""
    folder, files = tmp_path_factory.mktemp("huge"), {}
    for name, content in (("photo.jpg", huge_jpeg()), ("bits.png", huge_bits())):
        files[name] = folder / name.partition(".")[0] / name
        files[name].parent.mkdir()
        files[name].write_bytes(content)
    return files


@pytest.mark.parametrize("system", READERS)
def test_huge_pictures_are_reduced_or_refused(
    system: str, huge: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((PictureError, UserError)) as refusal:
        READERS[system](huge["bits.png"])
    said = str(refusal.value) + capsys.readouterr().err
    assert "20000x10000 pixels are too many (at most 50 million)" in said
    if system == "generate_dataset":  # which takes one size only
        with pytest.raises(PictureError, match="12000x9000 pixels, LFW has 250x250"):
            READERS[system](huge["photo.jpg"])
        return
    seen = READERS[system](huge["photo.jpg"]).astype(float)
    height, width = seen.shape
    # what works with squares cuts the middle out; the others have a half of each side
    assert seen.shape == (SIDES[system],) * 2 or (height, width) == (4500, 6000)
    third = width // 3
    assert np.abs(seen[:, :third] - 60).max() <= 1
    assert np.abs(seen[:, -third:] - 190).max() <= 1
    assert "Traceback" not in capsys.readouterr().err


PICTURE = taken(SIDE)["grey.jpg"]


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)


def flat(folder: Path) -> None:
    put(folder, "1.jpg", "2.png", "3.webp", "4.bmp", "5.tiff")


def three_formats(folder: Path) -> None:
    put(folder, *(f"{i}.jpg" for i in range(3)))
    for kind in ("webp", "bmp"):
        for i in range(4):
            (folder / f"{kind}_{i}.{kind}").write_bytes(taken(SIDE)[f"colour.{kind}"])


def forty_behind_a_link(folder: Path) -> None:
    put(folder.parent / "P40", *(f"{i:02d}.jpg" for i in range(40)))
    put(folder, *(f"own_{i:02d}.jpg" for i in range(12)))
    os.symlink(folder.parent / "P40", folder / "more")


def deep(folder: Path) -> None:
    put(folder, "lfw/lfw-deepfunneled/Ann/Ann_0001.jpg", "a/1.jpg", "a/b/2.jpg", "a/b/c/d/e/3.jpg")


def loud(folder: Path) -> None:
    put(folder, "A.JPG", "B.JPEG", "C.Png")


def other_formats(folder: Path) -> None:
    put(folder, "1.jpg", "2.heic", "3.heic", "notes.txt", "README")


def mac_s_zip(folder: Path) -> None:
    put(folder, "a.jpg")
    for name in ("._a.jpg", "__MACOSX/._a.jpg", "__MACOSX/b.jpg"):
        put(folder, name)
        (folder / name).write_bytes(bytes.fromhex("0005160700020000") + bytes(99))


def album_beside_a_mac_s_companion(folder: Path) -> None:
    put(folder, "a.jpg", "album.jpg/b.jpg")
    (folder / "._a.jpg").write_bytes(bytes.fromhex("0005160700020000") + bytes(99))


def linked_once(folder: Path) -> None:
    put(folder.parent / "elsewhere", "x.jpg")
    put(folder, "a/1.jpg")
    os.symlink(folder.parent / "elsewhere", folder / "more")
    os.symlink("a", folder / "again")


def loop(folder: Path) -> None:
    put(folder, "a/1.jpg")
    os.symlink("..", folder / "a" / "up")
    os.symlink("round.jpg", folder / "round.jpg")


def broken_link(folder: Path) -> None:
    put(folder, "1.jpg")
    os.symlink("nowhere.jpg", folder / "gone.jpg")


def pipe(folder: Path) -> None:
    put(folder, "1.jpg")
    os.mkfifo(folder / "pipe.jpg")


def socket_like_a_picture(folder: Path) -> None:
    put(folder, "1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "s.jpg"))


def long_and_broken_names(folder: Path) -> None:
    put(folder, "1.jpg", "a\nb.jpg", "n" * 251 + ".jpg")
    (folder / "not\na.jpg").symlink_to("nowhere")


def bytes_for_names(folder: Path) -> None:
    put(folder, "1.jpg")
    with open(os.path.join(os.fsencode(folder), b"Jos\xe9.jpg"), "wb") as file:
        file.write(PICTURE)


def blanks(folder: Path) -> None:
    put(folder, "Fotos José/ein Bild.jpg", "-rf.jpg", "a'b.jpg")


FOLDERS: dict[Callable[[Path], None], tuple[list[str], str]] = {
    flat: (["1.jpg", "2.png", "3.webp", "4.bmp", "5.tiff"], ""),
    deep: (["a/1.jpg", "a/b/2.jpg", "a/b/c/d/e/3.jpg",
            "lfw/lfw-deepfunneled/Ann/Ann_0001.jpg"], ""),
    loud: (["A.JPG", "B.JPEG", "C.Png"], ""),
    other_formats: (["1.jpg"], "4 of other formats (.heic, no ending, .txt)"),
    mac_s_zip: (["a.jpg"], "2 hidden: ._a.jpg, __MACOSX"),
    three_formats: ([*(f"{i}.jpg" for i in range(3)), *(f"{kind}_{i}.{kind}"
                    for kind in ("bmp", "webp") for i in range(4))], ""),
    forty_behind_a_link: ([*(f"more/{i:02d}.jpg" for i in range(40)),
                           *(f"own_{i:02d}.jpg" for i in range(12))], ""),
    album_beside_a_mac_s_companion: (["a.jpg", "album.jpg/b.jpg"], "1 hidden: ._a.jpg"),
    linked_once: (["a/1.jpg", "more/x.jpg"], "1 backward link: again"),
    loop: (["a/1.jpg"], "1 broken link: round.jpg, 1 backward link: a/up"),
    broken_link: (["1.jpg"], "1 broken link: gone.jpg"),
    pipe: (["1.jpg"], "1 no regular file: pipe.jpg"),
    socket_like_a_picture: (["1.jpg"], "1 no regular file: s.jpg"),
    long_and_broken_names: (
        ["1.jpg", "a\nb.jpg", "n" * 251 + ".jpg"], "1 broken link: not\\na.jpg",
    ),
    bytes_for_names: (["1.jpg", "Jos\udce9.jpg"], ""),
    blanks: (["-rf.jpg", "Fotos José/ein Bild.jpg", "a'b.jpg"], ""),
}  # fmt: skip


def listed_by_faces(folder: Path) -> list[str]:
    found = dataset._listed(folder)
    dataset.load_dataset(folder, 1, 8, cache=False, progress=False)
    return found.names


def listed_by_generate(folder: Path) -> list[str]:
    found = generate_dataset._photos_in(folder)
    generate_dataset._report(generate_dataset.Job(folder, folder, folder, 1), found, [])
    return found.names


def listed_by_ganless(folder: Path) -> list[str]:
    found = ganless.find_photos([folder])
    print(found.left_out)
    return [path.relative_to(folder).as_posix() for path in found.paths]


def listed_by_image_model(folder: Path) -> list[str]:
    paths = image_model.list_pictures(folder, "--synth_dir")
    return [path.relative_to(folder).as_posix() for path in paths]


LISTERS: dict[str, Callable[[Path], list[str] | int]] = {
    "train.py": listed_by_faces,
    "generate_dataset": listed_by_generate,
    "srez": srez.list_pictures,
    "image_model": listed_by_image_model,
    "ganless_hd": listed_by_ganless,
    "mln": lambda folder: len(mln.load_images(str(folder), 99, 8)),
}


@pytest.mark.parametrize("build", FOLDERS)
@pytest.mark.parametrize("system", LISTERS)
def test_a_folder_means_the_same_to_all(
    system: str, build: Callable[[Path], None], tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    build(folder)
    names, line = FOLDERS[build]
    found = LISTERS[system](folder)
    assert (sorted(found) if isinstance(found, list) else found) in (sorted(names), len(names))
    said = "".join(capsys.readouterr())
    told = [part for part in said.splitlines() if "left out" in part]
    assert [part.partition("left out: ")[2] for part in told] == ([line] if line else [])


# What decodes a picture or lists a folder, and the only files that do. People's pictures and
# folders go through the first two; the others look at what the program itself wrote.
LISTING = {"walk", "fwalk", "glob", "rglob", "iglob", "scandir", "listdir", "iterdir"}
DECODING = {"open", "imread", "imdecode", "imopen", "fromstream", "frombytes", "decode_jpeg"}
OWN_WAYS = {
    "data/pictures.py": {"open"},
    "data/walk.py": {"scandir"},
    "srez/photos.py": {"imdecode"},  # 16 bits of a PNG that the opener has opened and judged
    "cli/generate_dataset.py": {"iterdir", "listdir"},  # faces written before
    "ganless_hd/data.py": {"glob"},  # its cache
    "ganless_hd/resuming.py": {"glob"},  # a run's networks
    "image_model/loop.py": {"iterdir"},  # folders of runs
    "image_model/page.py": {"glob"},  # a run's own pictures, by their names
    "mln/pictures.py": {"glob"},  # a run's own pictures
    "networks/checkpoints.py": {"glob"},  # networks of the package
    "results/story.py": {"glob"},  # a run's own pictures
    "srez/demo.py": {"glob"},  # a run's own pictures
    "srez/training.py": {"iterdir"},  # whether a folder is empty
    "system/compiled.py": {"glob"},  # what it has compiled before
    "system/files.py": {"scandir"},  # temporary files of killed runs
    "system/folders.py": {"iterdir"},  # whether a folder is empty
}


def ways_of(code: str) -> set[str]:
    """Which of them a module calls, under whatever name it imports them; names of modules that
    would do it unseen, too."""
    tree, found = ast.parse(code), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found |= {m for m in modules if m.split(".")[0] in ("imageio", "torchvision", "glob")}
            found |= {m for m in modules if m in ("skimage.io", "matplotlib.image")}
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        opener = name in DECODING and (name != "open" or owner.endswith("Image"))
        lister = name in LISTING and (name != "walk" or owner == "os")
        found |= {name} if opener or lister else set()
    return found


def test_one_opener_and_one_walk_in_the_package() -> None:
    package = Path(__file__).parents[1] / "eyescream_py"
    ways = {p.relative_to(package).as_posix(): ways_of(p.read_text("utf-8"))
            for p in package.rglob("*.py")}  # fmt: skip
    assert {name: way for name, way in ways.items() if way} == OWN_WAYS


def test_the_search_for_other_openers_sees_them() -> None:
    code = "import imageio\nfrom glob import glob\ncv2.imread(x); PIL.Image.open(x); os.walk(x)"
    assert ways_of(code + "\nglob(x)\nopen(x); walk(x); path.open()") == {
        "imageio", "glob", "imread", "open", "walk",
    }  # fmt: skip
