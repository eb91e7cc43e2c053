"""What the face trainers choose for a GPU, with a pretended one."""

import contextlib
import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from eyescream_py.game import adversarial, precision
from eyescream_py.game.capture import CapturedIteration
from eyescream_py.game.group import Alone
from eyescream_py.game.working import Working
from eyescream_py.networks import models
from eyescream_py.networks.fused_layers import Beside
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.signals import StopSignal
from eyescream_py.torch7.flat import Flat
from eyescream_py.training import distributed, meeting, players, setup
from eyescream_py.training import game as games
from tests.fake_cuda import CUDA, on_cuda, pretend_capability
from tests.game.small_game import game as small_game
from tests.game.test_capture import FakeStream

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Shared:
    """The options that processes change for themselves."""

    gpu: int
    batch_size: int = 8
    rng: str = "torch"
    noplot: bool = False
    threads: int = 1
    typed: frozenset = frozenset()
    no_fuse: bool = False
    precision: str = "bf16"


def built(patch, name, *, rng="torch", gpu, no_fuse=False):
    """The game of two real networks at 8 px, and what `speed_up` was asked for."""
    options = SimpleNamespace(
        rng=rng, batch_size=4, no_fuse=no_fuse, precision=name,
        D_optmethod="adam", G_optmethod="adam", D_clamp=1.0, G_clamp=5.0,
        adam_beta1=0.9, adam_beta2=0.999, D_L1=0, D_L2=0, G_L1=0, G_L2=0,
        G_ema=0.9, G_ema_power=0,
        D_iterations=1, G_iterations=1, rates=lambda player: ((0.1, 0.0), -1),
    )  # fmt: skip
    faster = []
    patch.setattr(players, "speed_up", lambda net, rounded, compiled: faster.append(rounded))
    nets = models.create_D((1, 8, 8)), models.create_G((1, 8, 8), 4, "upsampling")
    for net in nets if gpu else ():
        on_cuda(net)
    feed = SimpleNamespace(source=None)
    arithmetic = precision.choose(name, CPU)
    return players.build_game(options, nets, feed, None, arithmetic, Alone()), faster


@pytest.mark.parametrize("no_fuse", [False, True])
def test_kernels_join_layers_and_steps_unless_asked_not_to(no_fuse, monkeypatch):
    monkeypatch.setattr(setup, "fused_kernels", lambda device, rounded: kernels_in_torch)
    game, _ = built(monkeypatch, "bf16", gpu=True, no_fuse=no_fuse)
    for player in (game.D, game.G):
        assert (player.fused is None) == no_fuse
        forwards = [layer.__dict__.get("forward") for layer in player.network.modules()]
        joined = [isinstance(forward, Beside) for forward in forwards]
        assert any(joined) != no_fuse
    assert (game.figures.tally is None) == no_fuse


class Another(Alone):
    """The other process of a run, which says no."""

    def all_say(self, ours):
        return False


@pytest.mark.parametrize(
    ("proven", "group", "fuses"), [(True, Alone(), True), (False, Alone(), False),
                                   (True, Another(), False)],
)  # fmt: skip
def test_kernels_that_fail_in_one_process_are_taken_by_none(proven, group, fuses, monkeypatch):
    tried = []

    def fused_kernels(device, rounded):
        tried.append((device, rounded))
        return kernels_in_torch if proven else None

    monkeypatch.setattr(setup, "fused_kernels", fused_kernels)
    options = Shared(0)
    assert setup.with_proven_kernels(options, CPU, group) is options
    chosen = setup.with_proven_kernels(options, CUDA, group)
    assert chosen.no_fuse is not fuses
    assert tried == [(CUDA, True)]
    assert (setup.kernels_of(chosen, CUDA) is kernels_in_torch) is fuses
    tried.clear()
    unwanted = Shared(0, no_fuse=True)
    assert setup.with_proven_kernels(unwanted, CUDA, group) is unwanted
    assert tried == []


def layouts(game):
    last = torch.channels_last
    return {
        p.is_contiguous(memory_format=last) and not p.is_contiguous()
        for player in (game.D, game.G)
        for p in player.network.parameters()
        if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1
    }


@pytest.mark.parametrize("name", ["fp32", "bf16"])
@pytest.mark.parametrize("gpu", [False, True])
def test_networks_take_the_layout_the_layers_and_the_optimizer_of_their_device(
    gpu, name, monkeypatch, capsys
):
    game, faster = built(monkeypatch, name, gpu=gpu)
    assert layouts(game) == {gpu}
    assert faster == ([] if gpu else [name == "bf16"] * 2)
    for player in (game.D, game.G):
        assert isinstance(player.optimizer.t, torch.Tensor) is gpu
        assert (player.working is not None) is (name == "bf16")
        assert bool(player.optimizer.flat) is (gpu or name == "bf16")
        singly = not gpu and name == "fp32"
        assert len(player.optimizer.weights) == (len(player.optimizer.parameters) if singly else 1)
    assert len(game.ema._pairs) == len(game.G.optimizer.weights)


def test_a_replay_keeps_torchs_own_layers(monkeypatch, capsys):
    _, faster = built(monkeypatch, "fp32", rng="lua", gpu=False)
    assert faster == []


@pytest.mark.parametrize("gpu", [False, True])
def test_slopes_of_prelus_are_rounded_on_a_gpu_alone(gpu):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(), nn.BatchNorm2d(2))
    network = on_cuda(network) if gpu else network
    working = Working(network, Flat(network))
    kinds = {type(place.owner) for place in working.places}
    assert kinds == {nn.Conv2d, *([nn.PReLU] if gpu else [])}


@pytest.mark.parametrize("gpu", [False, True])
def test_all_gradients_are_treated_at_once_on_a_gpu_and_one_by_one_elsewhere(gpu):
    network = nn.Linear(2, 1)
    network = on_cuda(network) if gpu else network
    optimizer = setup.make_optimizer("adam", network, (0.1, 0))
    player = adversarial.Learner(network, optimizer, adversarial.Penalty(0, 0.5), 1.0)
    loss = network(torch.tensor([[5.0, 0.25]])).sum()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        player.backward(loss, Alone())
    calls = {event.key: event.count for event in seen.key_averages()}
    assert calls["aten::clamp_"] == (1 if gpu else 2)
    (slopes,) = (0.5 * network.weight.detach() + torch.tensor([5.0, 0.25])).clamp(-1, 1).tolist()
    assert network.weight.grad.tolist() == [slopes]


class SmallTask(games.GameTask):
    def spread(self):
        return 1.0, 1.0


@pytest.mark.parametrize(
    ("device", "no_capture", "captured"), [(CUDA, False, True), (CUDA, True, False),
                                           (CPU, False, True), (CPU, True, False)],
)  # fmt: skip
def test_an_iteration_is_recorded(device, no_capture, captured, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "Stream", lambda *given: FakeStream("side", []))
    game, source = small_game("adam", True)
    game.figures.device = device
    options = SimpleNamespace(
        batch_size=8, G_ema=0, G_ema_power=0, no_capture=no_capture, log_every=1, lr_fall=1,
        visdom_env="",
    )  # fmt: skip
    task = SmallTask(options, "x.net", game, 40, source, None)
    assert isinstance(task._step, CapturedIteration) is captured
    told = "--log_every=1 leaves" in capsys.readouterr().out
    assert told is (captured and device is CUDA)
    task.close()  # nothing holds the graphs any longer, nor what they hold
    assert task._step == game.iteration


@pytest.mark.parametrize(
    ("stored", "now", "said"),
    [
        (True, True, ""), (False, False, ""), (None, True, ""),
        (True, False, "trained by joined kernels, this run takes torch's own ones (--no_fuse)"),
        (False, True, "trained by torch's own kernels, this run takes joined ones (--no_fuse)"),
    ],
)  # fmt: skip
def test_a_run_that_goes_on_by_other_kernels_says_so(stored, now, said, capsys):
    game, source = small_game("adam", True)
    options = SimpleNamespace(
        batch_size=8,
        G_ema=0,
        G_ema_power=0,
        no_capture=True,
        log_every=1,
        precision="fp32",
        lr_fall=1,
        visdom_env="",
    )
    task = SmallTask(options, "x.net", game, 40, source, None)
    assert "fused" not in task.state()  # a processor's
    game.figures.device, game.figures.tally = CUDA, kernels_in_torch.tally if now else None
    state = task.state()
    assert state["fused"] is now
    state["fused"] = stored
    task._load_state(state, "a.net")
    out = capsys.readouterr().out
    assert out.count("\n") == bool(said)
    assert said in out


@pytest.mark.parametrize(("capability", "name"), [((8, 0), "bf16"), ((7, 5), "fp32")])
def test_bfloat16_is_chosen_where_the_gpu_multiplies_it(capability, name, monkeypatch):
    pretend_capability(monkeypatch, *capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: name == "fp32")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: name == "fp32")
    assert precision.choose("auto", CUDA).name == name
    assert precision.choose("auto", CPU).name == ("fp32" if name == "bf16" else "bf16")


def test_the_device_is_prepared_before_anything_is_computed(monkeypatch, capsys):
    told = []
    pretend_capability(monkeypatch, 8, 0)
    monkeypatch.setattr(setup, "choose_device", lambda gpu, typed: CUDA)
    monkeypatch.setattr(setup, "prepare_cuda", lambda *given: told.append(given))
    options = SimpleNamespace(
        threads=1, typed=(), rng="torch", gpu=0, fast=True, strict=False, precision="auto"
    )
    device, arithmetic = setup.device_and_precision(options, Alone(), ())
    assert (device, arithmetic.name) == (CUDA, "bf16")
    assert told == [(CUDA, True, False)]
    assert "--fast: two runs" in capsys.readouterr().out


@pytest.fixture
def second_of_two(monkeypatch):
    """The environment that torchrun makes, and what torch.distributed and those who meet were asked
    for; the first process has come wherever they meet.
    """
    asked = []
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for place in ("met", "joined"):
        dist.PrefixStore("eyescream_py/0", store).add(place, 1)
    environment = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(("set", device)))
    monkeypatch.setattr(
        dist,
        "init_process_group",
        lambda backend, store, rank, world_size, timeout: asked.append(
            (backend, rank, world_size, timeout.days)
        ),
    )
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: asked.append("destroyed"))
    gather, processes = meeting.Company.gather, meeting.Company.processes
    monkeypatch.setattr(
        meeting.Company, "gather", lambda self, where: asked.append(where) or gather(self, where)
    )
    monkeypatch.setattr(
        meeting.Company, "processes", lambda self: asked.append("who is who") or processes(self)
    )
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    yield asked
    del store  # which serves no longer


@pytest.mark.parametrize("gpu", [0, -1])
@pytest.mark.parametrize("fails", [False, True])
def test_processes_join_on_their_own_gpus_and_leave_after_their_graphs(
    gpu, fails, second_of_two, capsys
):
    task = SimpleNamespace(close=lambda: second_of_two.append("graphs let go"))
    ended = pytest.raises(RuntimeError) if fails else contextlib.nullcontext()
    with (
        ended,
        distributed.joined(Shared(gpu), StopSignal()) as (group, chosen, _),
        contextlib.closing(task),
    ):
        assert (group.rank, group.size) == (1, 2)
        assert chosen.gpu == (1 if gpu == 0 else -1)
        assert chosen.noplot
        print("said by the second process")
        if fails:
            raise RuntimeError("the run fails")
    device = [("set", torch.device("cuda", 1))] if gpu == 0 else []
    backend = "cpu:gloo,cuda:nccl" if gpu == 0 else "gloo"
    # who is who: while the first, which holds the store, is there to say it
    joining = ["joined", "who is who", (backend, 1, 2, 2)]
    assert second_of_two == ["met", *device, *joining, "graphs let go", "destroyed"]
    assert capsys.readouterr().out == ""
