import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from eyescream_py.srez.make_data import main, render_face


def test_faces_have_celeba_s_frame_and_follow_from_their_seed():
    face = render_face(3)
    assert face.size == (178, 218)
    assert face.tobytes() == render_face(3).tobytes()
    assert face.tobytes() != render_face(4).tobytes()


def test_the_mean_face_has_dark_eyes_where_celeba_has_them():
    mean = np.mean([np.asarray(render_face(i), float).mean(2) for i in range(24)], 0)
    eyes = [mean[107:114, x - 3 : x + 4].mean() for x in (69, 109)]
    cheeks = [mean[125:132, x - 3 : x + 4].mean() for x in (66, 112)]
    assert max(eyes) < min(cheeks) - 10


def test_command_writes_and_never_overwrites(tmp_path):
    folder = tmp_path / "d"
    arguments = ["--dataset", str(folder), "--count", "3"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert sorted(p.name for p in folder.iterdir()) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    with Image.open(folder / "000002.jpg") as picture:
        assert picture.size == (178, 218)
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert f"--dataset={folder}: is not empty" in again.output


@pytest.mark.parametrize("wrong", ["--count=0", "--count=-1", "--count=many", "--seed=-5"])
def test_wrong_numbers_are_refused(tmp_path, wrong):
    result = CliRunner().invoke(main, ["--dataset", str(tmp_path / "d"), wrong])
    assert result.exit_code == 2
    assert not (tmp_path / "d").exists()
