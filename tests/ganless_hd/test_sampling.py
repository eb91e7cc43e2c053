import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from eyescream_py.ganless_hd.__main__ import main
from eyescream_py.ganless_hd.checkpoints import write_tensors
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.sampling import (
    Painter,
    check_names,
    fitted,
    load_painter,
    load_picture,
    paint_drawing,
    paint_photo,
)
from eyescream_py.system.errors import UserError

from .conftest import save_jpeg

CPU = torch.device("cpu")


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "autoEncoder--3.5.safetensors"
    about = {"kind": "network", "width": 0.0625, "imgSize": 64, "colormap": True}
    write_tensors(path, UNet(0.0625, seed=1).state_dict(), about)
    return path


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_sheet_of_a_photograph(network_file, tmp_path):
    photo = save_jpeg(tmp_path / "me.jpg", 140, 100)
    painter = load_painter(network_file, CPU, tile=0)
    page = pixels(paint_photo(painter, photo, 128, tmp_path / "out"))
    assert page.shape == (128 + 4, 3 * (128 + 2) + 2, 3)
    output = pixels(tmp_path / "out" / "me.png")
    assert output.shape == (128, 128, 3)
    target = fitted(painter, load_picture(photo), 128, "me")
    low, high = page.min(), page.max()
    assert (low, high) == (0, 255)
    shown = page[2:-2, -130:-2].astype(int)
    assert abs(shown - target).max() <= 3  # the input's contours are white, so values hardly move


@pytest.mark.parametrize("size", [(128, 832), (832, 64)])
def test_tiles_give_the_picture_of_one_piece(size):
    network = UNet(0.03125, seed=2).eval()
    inputs = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    whole = Painter(network, CPU, 64, True)(inputs)
    tiled = Painter(network, CPU, 64, True, tile=64)(inputs)
    assert whole.std() > 0.01
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_tiles_are_painted_apart(monkeypatch):
    painter = Painter(UNet(0.03125), CPU, 64, True, tile=64)
    widths = []
    forward = painter.network.forward

    def watched(pictures):
        widths.append(pictures.shape[-1])
        return forward(pictures)

    monkeypatch.setattr(painter.network, "forward", watched)
    painter(torch.zeros(3, 64, 1024, dtype=torch.uint8))
    assert len(widths) == 16
    assert max(widths) == 64 + 2 * 256


def test_colour_cells_keep_their_size_in_larger_pictures():
    painter = Painter(UNet(0.03125), CPU, 64, True)
    picture = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    tall = painter.colours(np.vstack([picture, picture]))
    alone = painter.colours(picture)
    assert np.array_equal(tall[: 128 - 8], alone[: 128 - 8])
    assert Painter(UNet(0.03125), CPU, 64, colormap=False).colours(picture) is None


def test_drawings_light_or_dark(network_file, tmp_path):
    drawing = np.zeros((64, 64, 3), np.uint8)
    drawing[20] = drawing[:, 30] = 255
    Image.fromarray(drawing).save(tmp_path / "light.png")
    Image.fromarray(255 - drawing).save(tmp_path / "dark.png")
    painter = load_painter(network_file, CPU, tile=0)
    light = paint_drawing(painter, tmp_path / "light.png", None, False, 0, tmp_path / "out")
    dark = paint_drawing(painter, tmp_path / "dark.png", None, True, 0, tmp_path / "out")
    assert np.array_equal(pixels(light), pixels(dark))
    assert pixels(light).shape == (68, 2 * 66 + 2, 3)


def test_thin_lines_survive_reduction_and_colours_arrive(network_file, tmp_path):
    drawing = np.zeros((256, 256, 3), np.uint8)
    drawing[100:103] = drawing[200:201] = 255  # the second covers a quarter of a new pixel
    Image.fromarray(drawing).save(tmp_path / "lines.png")
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "red.png")
    painter = load_painter(network_file, CPU, tile=0)
    page = paint_drawing(
        painter, tmp_path / "lines.png", tmp_path / "red.png", False, 64, tmp_path / "out"
    )
    inputs = pixels(page)[2:66, 2:66]
    assert (inputs[[25, 50]] == 255).all()
    assert (inputs[5] == (255, 0, 0)).all()


def test_a_file_says_what_its_network_was_trained_on(tmp_path):
    about = {"kind": "network", "width": 0.0625, "imgSize": 128, "colormap": False}
    write_tensors(tmp_path / "n.safetensors", UNet(0.0625).state_dict(), about)
    painter = load_painter(tmp_path / "n.safetensors", CPU, tile=0)
    assert (painter.size, painter.colormap) == (128, False)


def test_published_files_need_no_metadata(tmp_path):
    path = tmp_path / "autoEncoder--3.98.pth"
    torch.save(UNet(0.0625, seed=1).state_dict(), path)
    painter = load_painter(path, CPU, tile=0)
    assert (painter.size, painter.colormap) == (512, True)
    assert torch.equal(painter.network.collapse.weight, UNet(0.0625, seed=1).collapse.weight)


def test_wrong_network_files(network_file, tmp_path):
    state = UNet(0.0625).state_dict()
    del state["decoderLevels.2.node.bias"]
    write_tensors(tmp_path / "half.safetensors", state, {"width": 0.0625})
    with pytest.raises(
        UserError, match=r"missing or of another size: decoderLevels\.2\.node\.bias"
    ):
        load_painter(tmp_path / "half.safetensors", CPU, tile=0)
    write_tensors(tmp_path / "latest.safetensors", state, {"kind": "run"})
    with pytest.raises(UserError, match="is the state of a run"):
        load_painter(tmp_path / "latest.safetensors", CPU, tile=0)
    with pytest.raises(UserError, match="--tile=100: give a multiple of 64"):
        load_painter(network_file, CPU, tile=100)


def test_pictures_that_cannot_be_used(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    with pytest.raises(UserError, match=r"bad\.jpg: cannot be read as a picture"):
        load_picture(tmp_path / "bad.jpg")
    with pytest.raises(UserError, match=r"gone\.jpg: cannot be read"):
        load_picture(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="smaller than 64 pixels, give --size"):
        fitted(
            Painter(UNet(0.0625), CPU, 64, True), np.zeros((63, 200, 3), np.uint8), 0, "small.jpg"
        )


def test_a_folder_is_painted_but_for_what_is_broken(network_file, tmp_path):
    photos = tmp_path / "photos"
    for name in ("a.jpg", "deep/b.jpg", "out/c.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        save_jpeg(photos / name, 70, 70)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    flags = [str(photos), f"--network={network_file}", f"--out={photos / 'out'}", "--gpu=-1"]
    for _ in range(2):  # what the first one wrote is no picture to the second
        done = CliRunner().invoke(main, ["sample", *flags])
        assert done.exit_code == 0, (done.output, done.exception)
        assert "left out: " in done.stderr
        assert "broken.jpg" in done.stderr
        made = sorted(path.name for path in (photos / "out").glob("*.png"))
        assert made == ["a-sheet.png", "a.png", "b-sheet.png", "b.png"]
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(main, ["sample", str(tmp_path / "empty"), "--gpu=-1"])
    assert done.exit_code == 2


def test_a_picture_too_large_for_the_memory_is_refused_before_it_is_resized(
    network_file, tmp_path, monkeypatch
):
    painter, drawn = load_painter(network_file, CPU, tile=0), tmp_path / "a.png"
    Image.new("L", (4000, 2)).save(drawn)
    monkeypatch.setattr("eyescream_py.system.memory.os.sysconf", lambda name: 4096)  # 17 MB
    with pytest.raises(UserError, match=r"a.png at --size=16384: painting it takes \d+ GB"):
        fitted(painter, np.zeros((2, 4000, 3), np.uint8), 16384, "a.png")
    with pytest.raises(UserError, match=r"a.png at --size=16384: painting it takes \d+ GB"):
        paint_drawing(painter, drawn, None, False, 16384, tmp_path / "out")


def test_what_the_network_holds_counts_as_memory_unless_tiles_keep_it_small(monkeypatch):
    """At width 1 a pixel of one piece takes 396 bytes at the least (468 were measured)."""
    monkeypatch.setattr("eyescream_py.system.memory.os.sysconf", lambda name: 12_000)  # 144 MB
    picture, network = np.zeros((1024, 1024, 3), np.uint8), UNet()
    for size in (0, 1024):
        with pytest.raises(UserError, match=f"a at --size={size}: .*a smaller --size or a --tile$"):
            fitted(Painter(network, CPU, 512, True), picture, size, "a")
    assert fitted(Painter(network, CPU, 512, True, tile=64), picture, 1024, "a") is not None
    with pytest.raises(UserError, match=r"a smaller --size or --tile$"):
        fitted(Painter(network, CPU, 512, True, tile=512), picture, 1024, "a")


def test_of_a_line_of_pixels_drawings_keep_the_middle(network_file, tmp_path):
    Image.new("L", (4000, 2)).save(tmp_path / "line.png")
    painter = load_painter(network_file, CPU, tile=0)
    paint_drawing(painter, tmp_path / "line.png", None, False, 64, tmp_path / "out")
    assert pixels(tmp_path / "out" / "line.png").shape == (64, 8 * 64, 3)


def test_results_of_one_name_are_refused(tmp_path):
    """The sheet of x and the picture of x-sheet would be one file."""
    with pytest.raises(UserError, match=r"^x-sheet.png: several pictures would be written there"):
        check_names([tmp_path / "x.jpg", tmp_path / "x-sheet.jpg"], None, tmp_path / "out")
