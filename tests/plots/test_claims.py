"""Two runs whose windows would replace each other's."""

import os
from pathlib import Path

import pytest

from eyescream_py.plots.client import Address
from eyescream_py.plots.windows import Plots


class Nowhere:
    """A sender that sends nothing."""

    env = "run"

    def address(self) -> Address:
        return Address("127.0.0.1", 8097)

    def finish(self) -> None: ...


def test_two_runs_of_a_trainer_in_one_environment_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first, second, third = (Plots(Nowhere()) for _ in range(3))  # type: ignore[arg-type]
    first.tell_of_others("adversarial.net")
    second.tell_of_others("autoencoder.net")
    assert not capsys.readouterr().out
    third.tell_of_others("adversarial.net")
    told = capsys.readouterr().out
    assert told.startswith(f"--visdom_env=run: process {os.getpid()} (")
    assert told.endswith("shows the same windows there, and each replaces the other's; "
                         "give another name\n")  # fmt: skip
    for plots in (first, second, third):
        plots.close()
    assert not list(tmp_path.iterdir())  # nothing is left of the claims
    third.tell_of_others("adversarial.net")  # it has no page any more
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_claim_is_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"eyescream_py-{os.getuid()}").write_text("a file")
    for plots in (Plots(Nowhere()), Plots(Nowhere())):  # type: ignore[arg-type]
        plots.tell_of_others("adversarial.net")
        plots.close()
    assert not capsys.readouterr().out
