"""`sample.py --explore` from its command line: what it takes, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import websocket
from torch import nn

from eyescream_py import torch7
from eyescream_py.cli.explore import _follow, _pair_is_there, place_of, sliders_of
from eyescream_py.networks import models_c2f
from eyescream_py.plots.keys import read_key
from eyescream_py.plots.sliders import move_message
from eyescream_py.plots.windows import Plots
from eyescream_py.results.explore import Explorer
from eyescream_py.results.generator import load_generator
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.shapes import View
from tests.commands import start
from tests.plots.test_plots import free_port, server_pid, wait_until, windows
from tests.small_runs import invoke

FACES = ("--explore", "--G_base=pretrained:faces16", "--gpu=-1", "--threads=1")


def one_line(*flags: str) -> str:
    """What the refused command says."""
    done = invoke("sample", *FACES, *flags)
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "flag",
    [
        "--runs=1",
        "--neighbours",
        "--export=g.pt",
        "--interpolate=8",
        "--writeto=x",
        "--dataset=x",
        "--overwrite",
    ],
)
def test_it_writes_nothing_and_says_so(flag: str) -> None:
    assert f"leave {flag.partition('=')[0]} out" in one_line(flag)


def test_flags_that_change_nothing_are_said(tmp_path: Path) -> None:
    plain = (*FACES[1:], "--gpu=-1", "--runs=1", f"--writeto={tmp_path}", "--dataset=nowhere")
    assert "Not used without --neighbours: --dataset." in invoke("sample", *plain).stdout
    plain = (*FACES[1:], "--gpu=-1", "--runs=1", f"--writeto={tmp_path}", "--overwrite")
    assert "Not used without --export: --overwrite." in invoke("sample", *plain).stdout
    export = (*FACES[1:], "--gpu=-1", f"--export={tmp_path / 'g.safetensors'}", "--runs=1")
    assert "Not used with --export: --runs." in invoke("sample", *export).stdout
    vain = ("--batchSize=4", "--D_base=nowhere", "--G_c2f32=nowhere", "--overwrite")
    said = invoke("sample", *export[:-1], *vain).stdout
    assert "Not used with --export: --D_base, --G_c2f32, --batchSize." in said
    assert (tmp_path / "g.safetensors").is_file()


def test_a_page_s_flags_without_a_page() -> None:
    done = invoke("sample", *FACES[1:], "--visdom_port=9000")
    assert done.exit_code == 2
    assert "--visdom_port: only --explore shows a page" in done.stderr


def test_a_seed_that_a_page_cannot_hold() -> None:
    last = 2**53 - 1  # which face B would go beyond
    assert f"--seed={last}" in one_line(f"--seed={last}")


def test_a_pair_is_asked_for_by_its_flags_or_by_being_there(tmp_path: Path) -> None:
    assert "none.net" in one_line("--G_c2f32=none.net", f"--save_c2f32={tmp_path}")
    options: Any = SimpleNamespace(typed=set(), save_c2f32=str(tmp_path), G_c2f32="up.net")
    assert not _pair_is_there(options)
    (tmp_path / "up.net").touch()
    assert _pair_is_there(options)


def test_without_visdom_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = one_line(f"--visdom_port={free_port()}")
    assert "--explore: Visdom is not installed (pip install -r requirements.txt)" in said


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    said = one_line("--visdom_server=http://127.0.0.1/base", f"--visdom_port={free_port()}")
    assert "no Visdom answers" in said
    assert "leave --visdom_server out" in said


def test_a_port_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyescream_py.plots.client.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert "no Visdom answers" in one_line(f"--visdom_port={mute.getsockname()[1]}")


def test_a_server_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyescream_py.plots.server.__name__", "no_such_module", raising=False)
    assert "does not come up at port" in one_line(f"--visdom_port={free_port()}")


def test_a_generator_of_other_things_than_noise(tmp_path: Path) -> None:
    """The pair of train_c2f.py wants a picture besides: it refines, and is no --G_base."""
    path = tmp_path / "c2f.net"
    network = models_c2f.create_G((1, 16, 16))
    torch7.save(path, {"G": torch7.from_module(network), "opt": {}})
    done = invoke("sample", "--explore", f"--G_base={path}", "--gpu=-1")
    assert done.exit_code == 2
    assert "its G does not begin with a Linear layer on noise" in done.output


def test_what_the_page_says_becomes_a_place() -> None:
    explorer = Explorer(load_generator("pretrained:faces16"), 3)
    sliders = sliders_of(explorer, 4)
    start_values = [slider.value for slider in sliders]
    assert start_values == [4, 5, 0, 0, 0, 0]
    place = place_of(sliders, [4.6, -3, 1.5, -9, 0.25, 3])
    assert place is not None
    assert (place.a, place.b, place.t, place.steps) == (5, 0, 1, (-3, 0.25, 3))
    assert place_of(sliders, [1, 2, 0]) is None


def test_a_colour_generator_and_a_pair_that_refines(tmp_path: Path) -> None:
    """Sliders moved without a browser: all windows follow; Ctrl-C ends command and server."""
    torch.manual_seed(1)
    G = nn.Sequential(nn.Linear(5, 3 * 64), nn.Sigmoid(), View(3, 8, 8))
    torch7.save(tmp_path / "adversarial.net", {"G": torch7.from_module(G), "opt": {}})
    pair = {name: getattr(models_c2f, f"create_{name}")((3, 16, 16)) for name in "GD"}
    content = {name: torch7.from_module(network) for name, network in pair.items()}
    torch7.save(tmp_path / "up.net", {**content, "opt": {"fineSize": 16, "coarseSize": 8}})
    port = free_port()
    process = start(
        "sample.py", "--explore", f"--save_base={tmp_path}", f"--save_c2f32={tmp_path}",
        "--G_c2f32=up.net", "--D_c2f32=up.net", "--gpu=-1", f"--visdom_port={port}",
        "--visdom_env=here",
    )  # fmt: skip
    try:
        wait_until(lambda: len(windows(port, "here")) == 5, 200)
        first = pictures(port)
        page = websocket.create_connection(
            f"ws://127.0.0.1:{port}/{read_key(port)}/socket", timeout=60, suppress_origin=True,
            http_no_proxy=["127.0.0.1"],
        )  # fmt: skip
        move = move_message("here", "sliders", [1, 2, 0.5, 1, 0, 0, 0, 0])
        page.send(json.dumps({"cmd": "forward_to_vis", "data": move}))
        moved = ("face", "way", "refined")
        wait_until(lambda: all(pictures(port).get(name) != first[name] for name in moved))
        assert pictures(port)["seeds"] == first["seeds"]
        shown = {name: (w["title"], w["width"]) for name, w in windows(port, "here").items()}
        assert shown == {
            "sliders": ("adversarial: steps in standard deviations of the noise", 440),
            "face": ("1 to 2, t = 0.5", 12 * 8),
            "refined": ("refined to 16 px", 12 * 16),
            "way": ("the way from A to B", 440),
            "seeds": ("seeds 1 to 50, row by row", 440),
        }
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        # where the network was away, a line more says what of Visdom's page is missing
        assert len([line for line in said.splitlines() if "script files" not in line]) == 4, said
        assert "Stopped by Ctrl-C while exploring; nothing is saved." in said
    finally:
        process.kill()
    assert windows(port, "here") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adversarial.net", "up.net"]


def test_a_dead_server_is_noticed_while_nobody_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender starts a server anew when it has something to send: so it must get something."""
    monkeypatch.setattr("eyescream_py.plots.server._RESTART_PAUSE_S", 0.5)
    monkeypatch.setattr("eyescream_py.cli.explore._LOOK_S", 0.2)
    port = free_port()
    plots = Plots.open(True, "127.0.0.1", port, "here", needed_by="--explore")
    explorer = Explorer(load_generator("pretrained:faces16"), 2)
    arguments = (plots, explorer, None, sliders_of(explorer, 1), "faces16")
    looking = threading.Thread(target=follow_until_closed, args=arguments)
    looking.start()
    try:
        wait_until(lambda: len(windows(port, "here")) == 4)
        dead = server_pid(plots)
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: server_pid(plots) != dead, 60)
        wait_until(lambda: len(windows(port, "here")) == 4, 60)
    finally:
        plots.close()
        looking.join(20)
    assert not looking.is_alive()


def follow_until_closed(*arguments: Any) -> None:
    with pytest.raises(UserError, match="no page any more"):
        _follow(*arguments)


def pictures(port: int) -> dict[str, str]:
    """What each window but the sliders' shows."""
    found = windows(port, "here")
    return {n: w["content"]["src"] for n, w in found.items() if n != "sliders"}


def test_faces_of_the_package_bring_their_judge(tmp_path: Path) -> None:
    """`--G_base=pretrained:faces16` alone is a whole command: no D has to be named or trained."""
    done = invoke("sample", *FACES[1:], f"--export={tmp_path / 'g.safetensors'}")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "g.safetensors").is_file()
