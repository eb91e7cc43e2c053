"""The step as a recording, and what a GPU does at once; without a GPU both are pretended."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.mln import networks, nufft, series, steps, training
from eyescream_py.mln.data import Ahead, Examples
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.networks import build_network
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol, network_shape
from eyescream_py.plots.windows import Plots
from eyescream_py.system.device import prepare_cuda
from eyescream_py.system.recording import Recorder
from tests.fake_cuda import RECORDING, gpu, recording_device, values_read
from tests.mln.small import SIDE, phantoms, random_images, small_params, spiral_protocol

CPU = torch.device("cpu")


@pytest.fixture(params=RECORDING)
def device(request, monkeypatch) -> torch.device:
    return recording_device(request.param, monkeypatch, strict=True)


def protocol_on(device: torch.device, **settings) -> Protocol:
    made = spiral_protocol(**settings)
    acquisition = made.acquisition
    moved = Acquisition(
        nufft.choose_operator(made.trajectory, SIDE, device),
        acquisition.coils.to(device),
        acquisition.phases if acquisition.phases is None else acquisition.phases.to(device),
        acquisition.interpolation
        if acquisition.interpolation is None
        else acquisition.interpolation.to(device),
    )
    return replace(made, acquisition=moved, mask=made.mask.to(device))


def learner(params: Params, protocol: Protocol):
    torch.manual_seed(0)
    network = build_network(network_shape(params, protocol), protocol.trajectory)
    network.to(protocol.mask.device)
    return network, steps.adam(network, params)


@pytest.mark.parametrize(
    "keys",
    [
        {"WL2_Lambda": 0.01, "noise_level": 0.01},
        {"Init": "covariance", "nTimeSegments": 2},
        {"TrainableFourier": 1, "WPhaseOnly": 0.1, "bComplexBias": 1},
    ],
)
def test_a_recorded_step_is_the_written_one(device: torch.device, keys: dict) -> None:
    known = {k: v for k, v in keys.items() if k in ("WL2_Lambda", "noise_level", "nTimeSegments")}
    params = replace(
        small_params(**known),
        init=keys.get("Init", "random"),
        trainable_fourier=keys.get("TrainableFourier", 0),
        phase_only_weight=keys.get("WPhaseOnly", 0.0),
        complex_bias=keys.get("bComplexBias", 0),
    )
    protocol = protocol_on(device)
    examples = Examples(params, protocol, phantoms())
    (written, one), (recorded, two) = (learner(params, protocol) for _ in range(2))
    descent = Recorder(device).step(functools.partial(steps.descend, recorded, two, params))
    for number in range(20):
        batch = examples.batch(4 * number, 4)
        rate = 0.01 / (1 + number)
        a, before = steps.train_step(written, one, batch, params, rate)
        b, output = steps.train_step(recorded, two, batch, params, rate, descent)
        assert b == pytest.approx(a, rel=1e-5)
        torch.testing.assert_close(output, before)
    for p, q in zip(written.parameters(), recorded.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("bank", [{}, {"BankSize": 8, "BankK": 3, "noise_level": 0.01}])
def test_a_recorded_run_goes_on_to_the_bit(
    tmp_path: Path, device: torch.device, bank: dict
) -> None:
    params = small_params(learning_rate_start=0.01, **bank)
    windows = Plots.open(False, "", 0, "")

    def started(name: str) -> training.Run:
        return training.new_run(
            params, protocol_on(device), phantoms(), tmp_path / name, lambda text: None
        )

    def train(run: training.Run, batches: int) -> training.Run:
        training.train(run, windows, lambda text: None, batches)
        return run

    whole, part = train(started("whole"), 11), train(started("part"), 5)
    file = part.checkpoint_folder / training.CHECKPOINT_NAME
    resumed = train(training.resumed_run(file, params, part.protocol, phantoms()), 11)
    assert resumed.progress.losses == whole.progress.losses
    for one, two in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_nothing_of_a_step_is_read_back() -> None:
    params = replace(small_params(WL2_Lambda=0.01), init="covariance")
    protocol = spiral_protocol()
    batch = Examples(params, protocol, phantoms()).batch(0, 4)
    network, optimizer = learner(params, protocol)
    step = functools.partial(steps.descend, network, optimizer, params)
    assert values_read(lambda: step(batch.signal, batch.label)) == []


@pytest.mark.parametrize("gpu_there", [False, True])
def test_the_next_batch_is_begun_ahead_on_a_gpu_alone(gpu_there: bool) -> None:
    made: list[int] = []

    class Listed:
        device = torch.device("cuda" if gpu_there else "cpu")

        def batch(self, first: int, count: int) -> int:
            made.append(first // count)
            return first // count

    batches = Ahead(Listed(), 4)
    for number in (3, 4, 5, 9):  # the last as if another run had gone on from there
        assert batches.take(number) == number
        batches.begin_next()
    assert made == ([3, 4, 5, 6, 9, 10] if gpu_there else [3, 4, 5, 9])


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.uint16, ">i2"])
def test_examples_made_at_once_are_those_made_one_by_one(kind) -> None:
    rng = np.random.default_rng(0)
    images = (200 * rng.random((5, SIDE + 9, SIDE + 2))).astype(kind)
    examples = Examples(small_params(), spiral_protocol(), images)
    numbers = list(range(40))
    one_by_one, at_once = examples._made(numbers, CPU), examples._made_at_once(numbers, CPU)
    assert at_once.shape == one_by_one.shape == (40, 1, SIDE, SIDE)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)


def test_bands_made_at_once_are_drawn_in_turn() -> None:
    protocol = spiral_protocol()
    two = replace(
        protocol,
        acquisition=replace(
            protocol.acquisition, coils=protocol.acquisition.coils.repeat(2, 1, 1, 1)
        ),
    )
    examples = Examples(small_params(), two, phantoms())
    one_by_one, at_once = examples._made([3, 4], CPU), examples._made_at_once([3, 4], CPU)
    assert at_once.shape == (2, 2, SIDE, SIDE)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)


def test_samples_gathered_from_the_grid_are_those_of_the_sparse_product() -> None:
    operator = nufft.GriddedNUFFT(spiral_protocol().trajectory, SIDE, dtype=torch.complex128)
    grids = random_images(6, 4 * SIDE**2, dtype=torch.complex128)
    torch.testing.assert_close(operator._gathered(grids), operator._multiplied(grids))


def test_a_series_held_back_is_the_one_that_leaves_at_once(monkeypatch) -> None:
    signal = random_images(7, 3, 10)

    def images() -> torch.Tensor:
        done = series.reconstruct_series(lambda part: part.abs()[:, None], signal, CPU, 2)
        return done.images

    expected = images()
    assert torch.equal(expected, signal.abs()[:, None])
    whole, given = torch.cat, []
    monkeypatch.setattr(series, "HELD", 2 * 3 * 10 * 4)
    monkeypatch.setattr(torch, "cat", lambda parts: given.append(len(parts)) or whole(parts))

    class Pretended:
        type = "cuda"

    monkeypatch.setattr(torch.Tensor, "to", lambda self, *given, **words: self)
    done = series.reconstruct_series(lambda part: part.abs()[:, None], signal, Pretended(), 2)
    assert torch.equal(done.images, expected)
    assert given[0] == 2  # two batches left together


@gpu
def test_a_gpu_simulates_and_reconstructs_as_a_processor_does() -> None:
    device = torch.device("cuda")
    prepare_cuda(device, fast=False, strict=True)
    params = small_params(nTimeSegments=2)
    batches = [
        Examples(params, protocol_on(on, b0_hz=50.0), phantoms()).batch(0, 6)
        for on in (CPU, device)
    ]
    for name in ("signal", "label"):
        a, b = (getattr(batch, name) for batch in batches)
        assert (a - b.cpu()).norm() < 1e-4 * a.norm(), name
    outputs, slopes = [], []
    for on in (CPU, device):
        network, _ = learner(params, protocol_on(on))
        output = network(batches[0].signal.to(on))
        steps.reconstruction_loss(output, batches[0].label.to(on)).backward()
        outputs.append(output.detach().cpu())
        slopes.append(network.k_layer.weight.grad.cpu())
    assert (outputs[0] - outputs[1]).norm() < 1e-4 * outputs[0].norm()
    assert (slopes[0] - slopes[1]).norm() < 1e-4 * slopes[0].norm()


def test_a_gpu_takes_large_chunks() -> None:
    class There:
        is_cuda, shape = True, (10, 2, 4)

        def element_size(self) -> int:
            return 8

    weight = torch.zeros(5, 8, 1)
    row = 8 * 4 * 8
    assert networks._chunk(There(), weight, 1 << 12) == networks.GPU_MEMORY // row
    here = torch.zeros(10, 2, 4, dtype=torch.complex64)
    assert networks._chunk(here, weight, 1 << 12) == (1 << 12) // row
