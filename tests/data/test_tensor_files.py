"""Data sets of Torch 7: the layouts of mnist, cifar-10, SVHN, and programs' own tables."""

import pytest
import torch

from eyescream_py.data.tensor_files import read_pictures
from eyescream_py.system.errors import UserError
from eyescream_py.torch7 import LuaFunction, Table, TorchObject, save

COLOR = torch.arange(6 * 3 * 8 * 8).remainder(251).byte().view(6, 3, 8, 8)
GRAY = COLOR[:, :1].contiguous()
LABELS = torch.arange(1, 7).byte()
SIZE = LuaFunction(8, b"\x1bLJ", Table())


def table(images, **more):
    return Table(data=images, labels=LABELS, size=SIZE, **more)


LAYOUTS = {
    "mnist.t7 and soumith's cifar10-train.t7": (table(COLOR), COLOR),
    "mnist's package": (table(GRAY.squeeze(1)), GRAY),
    "mnist in rows": (table(GRAY.view(6, 64)), GRAY),
    "cifar-10-batches-t7": (table(COLOR.view(6, 192).t()), COLOR),
    "cifar-10 in rows": (table(COLOR.view(6, 192)), COLOR),
    "SVHN by mattorch": (Table(X=COLOR.transpose(2, 3), y=LABELS.view(1, 6)), COLOR),
    "data before X": (Table(X=COLOR, y=LABELS.view(1, 6), data=GRAY.squeeze(1)), GRAY),
    "X and y": (Table(X=COLOR, y=LABELS), COLOR),
    "names as data": (Table(data=["a.png"] * 6, X=COLOR, y=LABELS), COLOR),
    "SVHN with other data": (Table(data=LABELS, X=COLOR.transpose(2, 3), y=LABELS[None]), COLOR),
    "pictures beside an empty table": (Table({1: COLOR[0], 2: COLOR[1], "X": Table()}), COLOR[:2]),
    "images": (Table(images=COLOR, labels=LABELS), COLOR),
    "fb.resnet.torch": (Table(val=table(COLOR[:1]), train=table(COLOR)), COLOR),
    "cifar.torch's provider": (
        TorchObject("Provider", Table(trainData=table(COLOR.float()), testData=table(COLOR[:1]))),
        COLOR,
    ),
    "a list of pictures": (list(COLOR.float() / 255), COLOR.float() / 255),
    "StochasticGradient's": (Table(enumerate(([p, 1] for p in COLOR), 1), size=SIZE), COLOR),
    "a list of gray pictures": (list(GRAY.squeeze(1).double()), GRAY),
    "whole numbers": (COLOR.int(), COLOR),
    "zeros and ones": ((COLOR > 99).float(), (COLOR > 99).float()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ascii", [False, True])
def test_data_sets_of_old_programs(layout, ascii, tmp_path):
    value, expected = LAYOUTS[layout]
    save(tmp_path / "set.t7", value, ascii=ascii)
    images = read_pictures(tmp_path / "set.t7", expected.shape[1], 8, "")
    assert images.dtype == expected.dtype
    assert torch.equal(images, expected)
    assert images.is_contiguous()


def cycle():
    holder = Table()
    holder["data"] = holder
    return holder


@pytest.mark.parametrize(
    "value",
    [
        cycle(),
        Table(data=Table(), labels=LABELS),
        Table(labels=LABELS.view(6, 1, 1, 1)),
        [COLOR[0], GRAY[0]],
        [COLOR[0], "words"],
        [COLOR[0], COLOR[1].float()],
    ],
)
def test_tables_without_pictures_are_told(value, tmp_path):
    save(tmp_path / "set.t7", value)
    with pytest.raises(UserError, match=r"set.t7: holds no pictures: an \(N,C,H,W\) tensor"):
        read_pictures(tmp_path / "set.t7", 3, 8, "")


def test_a_small_file_takes_little_memory(tmp_path):
    one = torch.zeros(1).expand(10**6, 3, 8, 8)
    for value in (one, Table(data=one), [one[0, 0].expand(10**6, 8, 8)] * 2):
        save(tmp_path / "set.t7", value)
        with pytest.raises(UserError, match=r"set.t7: a tensor of \d+x.* repeats its memory"):
            read_pictures(tmp_path / "set.t7", 3, 8, "")
