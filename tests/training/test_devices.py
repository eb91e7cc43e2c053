"""A checkpoint goes from one kind of device to another; what a file cannot hold is told."""

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.random import TorchSource
from eyescream_py.torch7.states import fill
from tests.small_runs import (
    FILES,
    SCRIPTS,
    ToyTask,
    assert_same,
    invoke,
    pictures,
    small_run,
    use_small_networks,
)

GPU_STATE = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0], dtype=torch.uint8)
LINE = "The random numbers start anew"


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Train an epoch, change the file's state by a function, and continue without an iteration."""
    use_small_networks(monkeypatch)

    def go(script, change, *flags):
        data, save = pictures(tmp_path, script), tmp_path / "run"
        small_run(script, save, data, "--epochs=1")
        path = save / FILES[script]
        before = torch7.load(path)
        content = torch7.load(path)
        change(content["resume"]["state"])
        torch7.save(path, content)
        words = (*SCRIPTS[script], f"--save={save}", f"--dataset={data}", f"--network={path}")
        return invoke(script, *words, *flags), before, path

    return go


@pytest.mark.parametrize("script", ["train", "train_c2f", "train_denoiser"])
def test_a_gpus_run_goes_on_with_its_weights_and_moments(script, changed, monkeypatch):
    def of_a_gpu(state):
        state["random"] = {"torch": GPU_STATE}

    done, before, path = changed(script, of_a_gpu, "--epochs=2")
    assert done.exit_code == 0, done.output
    assert done.output.count(LINE) == 1
    after = torch7.load(path)
    assert after["resume"]["position"]["epoch"] == 3
    assert before["resume"]["position"]["epoch"] == 2


def test_weights_and_moments_are_taken_exactly(changed):
    def of_a_gpu(state):
        state["random"] = {"torch": GPU_STATE}

    from eyescream_py.training.run import Run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "go", lambda self: self._save())
        done, before, path = changed("train", of_a_gpu, "--epochs=2")
    # the first run saved before its first iteration, the second what it had read
    assert done.exit_code == 0, done.output
    after = torch7.load(path)
    for name in ("D", "G"):
        assert_same(before[name], after[name])
        key = f"{name}_optimizer"
        assert_same(before["resume"]["state"][key], after["resume"]["state"][key])


def test_sources_tell_their_own_state_from_another_devices():
    source, other = TorchSource(1), TorchSource(2)
    drawn = source.uniform_(torch.empty(3), 0, 1)
    assert not source.set_state({"torch": GPU_STATE})
    assert other.set_state(TorchSource(1).state())
    torch.testing.assert_close(other.uniform_(torch.empty(3), 0, 1), drawn, rtol=0, atol=0)
    for nonsense in (torch.zeros(7, dtype=torch.uint8), 5, torch.zeros(5056)):
        with pytest.raises(ValueError, match="state is none"):
            source.set_state({"torch": nonsense})


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(random={"torch": torch.zeros(9)}),
        lambda state: state["figures"].update(confusion=torch.zeros(5)),
        lambda state: state["figures"]["sums"].update(D_loss=torch.zeros(2, 2)),
        lambda state: state["feed"].update(pool=torch.zeros(12)),
        lambda state: state.update(figures=7),
    ],
)
def test_a_state_that_is_none_is_told_in_a_line(change, changed):
    done, _, path = changed("train", change, "--epochs=2")
    assert done.exit_code != 0
    assert f"{path} makes no sense" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("halvings", [-1, 101, 1.5])
def test_a_count_of_halvings_is_one(halvings, tmp_path, changed):
    from tests.training.test_training import run

    run(tmp_path / "toy", ToyTask(), epochs=1)
    path = tmp_path / "toy" / "toy.net"
    content = torch7.load(path)
    content["resume"]["halvings"] = halvings
    torch7.save(path, content)
    with pytest.raises(UserError, match="makes no sense"):
        run(tmp_path / "toy", ToyTask(), network=str(path), epochs=2)


def test_a_device_that_runs_out_of_memory_is_no_fault_of_the_file(tmp_path):
    from tests.training.test_training import run

    class Full(ToyTask):
        def load(self, content, path):
            raise RuntimeError("CUDA error: out of memory")

    run(tmp_path, ToyTask(), epochs=1)
    with pytest.raises(RuntimeError, match="CUDA error"):
        run(tmp_path, Full(), network=str(tmp_path / "toy.net"), epochs=2)


def test_fill_takes_numbers_and_refuses_other_shapes():
    target = torch.zeros(2, 1)
    fill(target, torch.tensor([[1.0], [2.0]]), "rows")
    assert target.tolist() == [[1], [2]]
    with pytest.raises(ValueError, match="rows has the shape"):
        fill(target, torch.zeros(2), "rows")
    with pytest.raises(ValueError, match="rows: str"):
        fill(target, "two", "rows")
    one = torch.zeros(())
    fill(one, torch.tensor([3.0]), "one")
    assert one == 3
