"""An epoch's pictures, resident with the data set or brought to the device once per epoch."""

import pytest
import torch

from eyescream_py.data import epoch_pool
from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.random import TorchSource


def counted(n=12, target=None):
    rows = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()
    return Dataset(rows, "counted", target=target)


@pytest.mark.parametrize("keep", [False, True])
def test_an_epoch_draws_without_replacement_and_hands_out_what_it_drew(keep):
    pool = EpochPool(counted(), 5, keep)
    source = TorchSource(3)
    seen = set()
    for _ in range(20):
        pool.draw(source)
        values = (pool.floats(torch.arange(5))[:, 0, 0, 0] * 255).round().int().tolist()
        assert values == pool.numbers.tolist()
        assert len(set(values)) == 5
        seen.update(values)
    assert seen == set(range(12))


def test_kept_pictures_are_those_of_the_resident_set_to_the_bit():
    resident, kept = EpochPool(counted(), 7, False), EpochPool(counted(), 7, True)
    indices = torch.tensor([6, 0, 3, 3])
    for pool in (resident, kept):
        pool.draw(TorchSource(1))
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(resident.floats(indices, dtype), kept.floats(indices, dtype))
    assert kept.carrier.rows.images.nbytes == 7 * 4


def test_a_kept_pool_goes_on_where_its_state_was_taken():
    whole, resumed = EpochPool(counted(), 5, True), EpochPool(counted(), 5, True)
    source = TorchSource(7)
    for _ in range(3):
        whole.draw(source)
    stored = {key: value.clone() if torch.is_tensor(value) else value
              for key, value in whole.state().items()}  # fmt: skip
    later = TorchSource(7)
    later.set_state(source.state())
    assert resumed.set_state(stored)
    for _ in range(3):
        assert resumed.numbers.tolist() == whole.numbers.tolist()
        assert torch.equal(resumed.carrier.rows.images, whole.carrier.rows.images)
        assert resumed.carrier.rows.images[:, 0, 0, 0].tolist() == resumed.numbers.tolist()
        whole.draw(source)
        resumed.draw(later)


def test_a_picture_that_cannot_be_read_ahead_is_an_error_of_the_next_draw(monkeypatch):
    pool = EpochPool(counted(), 5, True)
    source = TorchSource(1)

    def fail(*_args, **_more):
        raise OSError("the disk is gone")

    pool.draw(source)
    pool.carrier._pending.result()
    monkeypatch.setattr(torch, "index_select", fail)
    pool.draw(source)  # gathered before; the one after it fails
    with pytest.raises(OSError, match="the disk is gone"):
        pool.draw(source)


def test_a_set_on_another_device_than_its_target_is_streamed():
    assert not counted().streamed
    elsewhere = counted(target=torch.device("meta"))
    assert elsewhere.streamed
    assert elsewhere.rows(2, 5).streamed


@pytest.mark.parametrize("keep", [False, True])
def test_a_pool_of_other_pictures_is_not_taken_over(keep):
    pool = EpochPool(counted(), 4, keep)
    stored = {"pool": torch.tensor([3, 2, 1, 9]), "pictures": 12}
    assert not pool.set_state({**stored, "pictures": 13})
    assert not pool.set_state({**stored, "pool": torch.tensor([1, 2])})
    assert pool.numbers.tolist() == [0, 1, 2, 3]
    assert pool.set_state(stored)
    assert pool.state()["pool"].tolist() == [3, 2, 1, 9]
    assert (pool.floats(torch.tensor([3])) * 255).round().unique().tolist() == [9]
    assert pool.set_state({"pool": torch.tensor([1, 2, 3, 4])})  # as older files have it
    for wrong, words in (
        ({"pool": torch.tensor([0, 1, 2, 12])}, "there are not"),
        ({"pool": torch.tensor([-1, 0, 1, 2])}, "there are not"),
        ({"pool": torch.ones(4)}, "whole numbers"),
        ({"next": torch.tensor([0, 1, 2, 12])}, "there are not"),
        ({"next": torch.tensor([0, 1, 2])}, "there are not"),
        ({"next": torch.ones(4)}, "whole numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            pool.set_state({**stored, **wrong})
    assert pool.numbers.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("keep", [False, True])
def test_a_pool_larger_than_the_set_is_the_set(keep):
    assert len(EpochPool(counted(), 40, keep)) == 12


@pytest.mark.parametrize("pinned", [False, True])
def test_the_host_buffer_is_pinned_where_the_device_wants_it(pinned, monkeypatch):
    asked, empty_ = [], torch.empty

    def empty(shape, *, pin_memory=None, **more):
        asked.append(pin_memory)
        return empty_(shape, **more)

    device = torch.device("meta")
    monkeypatch.setattr(epoch_pool, "wants_pinned", lambda of: pinned and of == device)
    monkeypatch.setattr(torch, "empty", empty)
    epoch_pool.Carrier(counted(target=device), 5)
    assert asked[-1] is pinned


def test_the_buffer_is_not_filled_again_before_the_device_has_read_it(monkeypatch):
    """A GPU copies later: what it reads then has to be what it was sent."""
    late = []
    copy = torch.Tensor.copy_

    def copied(target, source, non_blocking=False):
        if not non_blocking:
            return copy(target, source)
        late.append((target, source))
        return target

    def wait(device):
        while late:
            copy(*late.pop())

    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    monkeypatch.setattr(epoch_pool, "wait_for", wait)
    pool = EpochPool(counted(), 5, True)
    source = TorchSource(3)
    for _ in range(5):
        pool.draw(source)
        pool.carrier._pending.result()  # the next epoch's pictures are in the buffer
        assert pool.carrier.rows.images[:, 0, 0, 0].tolist() == pool.numbers.tolist()


@pytest.mark.parametrize(("whole", "fits"), [(40, True), (39, False)])
def test_a_pool_takes_at_most_half_of_the_device(whole, fits, monkeypatch):
    """Five pictures of four bytes."""
    monkeypatch.setattr(epoch_pool, "whole_memory", lambda device: whole)
    if fits:
        assert len(EpochPool(counted(), 5, True)) == 5
    else:
        with pytest.raises(UserError, match="--N_epoch=5"):
            EpochPool(counted(), 5, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_pictures_in_host_memory_reach_the_gpu():
    device = torch.device("cuda")
    pool = EpochPool(counted(target=device), 5)
    pool.draw(TorchSource(1, device))
    assert pool.floats(torch.arange(5, device=device)).device.type == "cuda"
    assert (pool.carrier.rows.images[:, 0, 0, 0].cpu() == pool.numbers.cpu()).all()
