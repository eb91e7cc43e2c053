import pytest
import torch

from eyescream_py.mln.b0_estimation import Stage, cosine_field, estimate_turns
from eyescream_py.mln.data import Examples
from eyescream_py.mln.simulation import Setup, make_protocol
from tests.mln.small import SIDE, phantoms, random_images, small_params


def test_cosine_field_adds_its_waves() -> None:
    amplitudes = torch.zeros(3, 3)
    amplitudes[0, 0], amplitudes[0, 2] = 2.0, 1.0
    field = cosine_field(amplitudes, 8)
    place = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(field, (2 + torch.cos(2 * torch.pi * place)).expand(8, 8))


def test_the_field_of_a_simulated_scan_is_found() -> None:
    setup = Setup(side=SIDE, coils=4, samples=500, turns=6, b0_hz=60)
    protocol, b0 = make_protocol(setup)
    batch = Examples(small_params(), protocol, phantoms()).simulate([1])
    schedule = (Stage(0.5, 2, 5), Stage(1.0, 3, 9))
    estimate = estimate_turns(
        protocol.trajectory, protocol.acquisition.coils[0], protocol.mask[0], batch.signal, 5,
        schedule, lambda text: None,
    )  # fmt: skip
    seen = batch.label[0, 0].abs() > 0.1
    truth = b0 * setup.readout_ms / 1000
    assert (estimate.turns - truth)[seen].abs().mean() < 0.5 * truth[seen].abs().mean()
    assert estimate.residuals[-1] < 0.8 * estimate.residuals[0]


@pytest.mark.parametrize(("hertz", "noise", "most"), [(1e-3, 0.1, 20.0), (30.0, 0.02, 4.0)])
def test_noise_is_not_taken_for_a_field(hertz: float, noise: float, most: float) -> None:
    """Root-mean-square Hz where the image is; 40.6 and 5.5 without what is usual of fields."""
    setup = Setup(side=SIDE, coils=4, samples=500, turns=6, b0_hz=hertz)
    protocol, b0 = make_protocol(setup)
    batch = Examples(small_params(), protocol, phantoms()).simulate([1])
    signal = batch.signal + 2**0.5 * noise * random_images(*batch.signal.shape)
    estimate = estimate_turns(
        protocol.trajectory, protocol.acquisition.coils[0], protocol.mask[0], signal, 5,
        (Stage(0.5, 2, 5), Stage(1.0, 5, 9)), lambda text: None,
    )  # fmt: skip
    power = batch.label[0, 0].abs().square()
    wrong = estimate.turns / (setup.readout_ms / 1000) - b0
    assert float((wrong.square() * power).sum() / power.sum()) ** 0.5 < most
