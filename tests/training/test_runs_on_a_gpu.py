"""Whole runs of the face trainers on a pretended GPU: as written, recorded and resumed."""

import copy

import pytest
import torch
from PIL import Image
from torch import nn

from eyescream_py import torch7
from eyescream_py.data import epoch_pool
from eyescream_py.game import fused_adam
from eyescream_py.networks import models, models_c2f
from eyescream_py.results import story
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.device import prepare_cuda
from eyescream_py.torch7.layers.containers import ConcatTable, MapTable, ParallelTable
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.layers.tables import FlattenTable, JoinTable
from eyescream_py.training import setup
from tests.pretended_gpu import Kernels, pretended_gpu
from tests.pretended_tensors import CUDA, Graph
from tests.small_runs import FILES, SCRIPTS, assert_same, invoke, pictures, records, small_run

SAVED = ("--gpu=0", "--epochs=2", "--log_every=0")
GAME = (*SAVED, "--N_epoch=28")  # seven iterations an epoch


def branched_D(dims, architecture="default"):
    """All that the real one joins and runs side by side, in a thousandth of its size."""
    channels, size, _ = dims
    dense = nn.Sequential(View(channels * size**2), nn.Linear(channels * size**2, 8), nn.PReLU(),
                          Dropout(), nn.Linear(8, 8), nn.PReLU())  # fmt: skip
    seen = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.PReLU(), nn.MaxPool2d(2),
                         SpatialDropout(), nn.Conv2d(4, 8, 3, padding=1), nn.PReLU(),
                         nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(),
                         View(8 * (size // 2) ** 2))  # fmt: skip
    branches = ConcatTable(dense, seen)
    return nn.Sequential(
        branches, JoinTable(2), nn.Linear(8 + 8 * (size // 2) ** 2, 1), nn.Sigmoid()
    )


def repeating_D(dims, architecture="default"):
    """Branches that get a table, and run a layer for each of its parts."""
    channels, size, _ = dims

    def branch():
        convolution = nn.Conv2d(channels, 4, 3, padding=1)
        return MapTable(nn.Sequential(convolution, nn.PReLU(), View(4 * size**2)))

    return nn.Sequential(
        ConcatTable(nn.Identity(), nn.Identity()), ConcatTable(branch(), branch()), FlattenTable(),
        JoinTable(2), nn.Linear(16 * size**2, 1), nn.Sigmoid(),
    )  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(models, "create_D", branched_D)
    monkeypatch.setattr(fused_adam, "LARGE", 64)  # so that weights learn early
    monkeypatch.setattr(story, "write_curves_if_possible", lambda save, trainer: None)
    with pretended_gpu(monkeypatch) as made:
        kernels = Kernels(made, kernels_in_torch)
        monkeypatch.setattr(setup, "fused_kernels", lambda device, rounded: kernels)
        yield made


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train", (*GAME, "--precision=bf16")),
        ("train", GAME),
        ("train", (*GAME, "--no_fuse", "--precision=bf16", "--D_iterations=2", "--D_maxAcc=0.6")),
        ("train", (*GAME, "--D_r1=1", "--D_r1_every=2", "--G_ema=0.9", "--precision=bf16",
                   "--D_augment=translation,cutout")),
        ("train", (*GAME, "--D_spectral=2", "--D_optmethod=sgd", "--G_optmethod=adagrad")),
        ("train", (*GAME, "--recipe=large", "--D_arch=residual", "--G_planes=16",
                   "--D_planes=64", "--precision=bf16")),
        ("train_c2f", (*GAME, "--precision=bf16")),
    ],
)  # fmt: skip
def test_a_recorded_run_saves_what_the_same_run_as_written_does(script, flags, gpu, tmp_path):
    data = pictures(tmp_path, script)
    small_run(script, tmp_path / "graph", data, *flags)
    assert gpu.graphs
    assert max(graph.replays for graph in gpu.graphs) >= 2
    recorded = len(gpu.graphs)
    small_run(script, tmp_path / "written", data, *flags, "--no_capture")
    assert len(gpu.graphs) == recorded
    first, second = (torch7.load(tmp_path / name / FILES[script]) for name in ("graph", "written"))
    assert_same(first, second)
    metrics = [records(tmp_path / name / "metrics.jsonl") for name in ("graph", "written")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("script", "flags"),
    [("train", ("--D_maxAcc=0.7",)), ("train", ("--precision=fp32",)), ("train_c2f", ()),
     ("train", ("--D_r1=1", "--D_r1_every=2", "--D_iterations=2"))],
)  # fmt: skip
def test_weights_that_learn_early_learn_the_same(script, flags, gpu, monkeypatch, tmp_path):
    data, kernel, early = pictures(tmp_path, script), kernels_in_torch.adam, []
    monkeypatch.setattr(
        kernels_in_torch,
        "adam",
        lambda *given: early.append(given[-1] is not None) or kernel(*given),
    )
    for name, large in (("early", 64), ("late", 1 << 40)):
        early.clear()
        monkeypatch.setattr(fused_adam, "LARGE", large)
        small_run(script, tmp_path / name, data, *GAME, "--precision=bf16", *flags)
        assert any(early) is (name == "early")
    first, second = (torch7.load(tmp_path / name / FILES[script]) for name in ("early", "late"))
    assert_same(first, second)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_slopes_of_a_layer_that_runs_twice_are_added_up_when_they_are_there(
    precision, gpu, monkeypatch, tmp_path
):
    monkeypatch.setattr(models, "create_D", repeating_D)
    data, flags = pictures(tmp_path, "train"), (*GAME, "--epochs=1", f"--precision={precision}")
    small_run("train", tmp_path / "graph", data, *flags)
    small_run("train", tmp_path / "written", data, *flags, "--no_capture")
    first, second = (torch7.load(tmp_path / name / FILES["train"]) for name in ("graph", "written"))
    assert_same(first, second)


def early_D(dims, architecture="default"):
    """One that convolves both of its pictures as they are handed to it."""
    channels, size, _ = dims
    branches = [nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.PReLU()) for _ in range(2)]
    flat = 16 * size**2
    return models_c2f.PairSequential(
        ParallelTable(*branches), JoinTable(2), View(flat), nn.Linear(flat, 1), nn.Sigmoid()
    )


def test_pictures_stay_while_slopes_by_them_are_on_their_way(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(models_c2f, "create_D", early_D)
    data = pictures(tmp_path, "train_c2f")
    small_run("train_c2f", tmp_path / "run", data, *GAME, "--epochs=1", "--no_capture")


R1 = ("--D_r1=1", "--D_r1_every=2", "--D_augment=translation", "--shared_pictures",
      "--D_maxAcc=0.6")  # fmt: skip


@pytest.mark.parametrize(
    ("script", "fault", "failed", "flags"),
    [
        ("train", 1, 1, ("--precision=bf16",)), ("train", 150, 1, ("--precision=bf16",)),
        ("train", 130, 2, ("--no_fuse", *R1)), ("train", 450, 1, ("--no_fuse", *R1)),
        ("train_c2f", 90, 1, ("--precision=bf16",)),
    ],
)  # fmt: skip
def test_a_run_whose_recordings_fail_goes_on_as_written(
    script, fault, failed, flags, gpu, tmp_path
):
    """Of two kinds of iterations both, or those with R1 alone."""
    data = pictures(tmp_path, script)
    gpu.fault, flags = fault, (*GAME, "--epochs=1", *flags)
    said = small_run(script, tmp_path / "failed", data, *flags)
    refusal = "an iteration cannot be recorded on this GPU (operation not permitted"
    assert said.count(refusal) == said.count("this run goes on without, slower") == failed
    # each iteration that failed, and what ended well after it
    in_vain = [graph for graph in gpu.graphs if not graph.replays]
    assert [len(graph.calls) for graph in in_vain] == failed * [fault]
    assert [len(graph.calls) for graph in gpu.graphs].count(1) >= failed
    assert gpu.streams.current is gpu.streams.main
    small_run(script, tmp_path / "written", data, *flags, "--no_capture")
    first, second = (torch7.load(tmp_path / name / FILES[script]) for name in ("failed", "written"))
    assert_same(first, second)
    metrics = [records(tmp_path / name / "metrics.jsonl") for name in ("failed", "written")]
    assert metrics[0] == metrics[1]


def test_a_run_ends_in_a_line_where_nothing_can_be_recorded_any_more(gpu, tmp_path):
    data = pictures(tmp_path, "train")
    gpu.fault = 0
    flags = (*SCRIPTS["train"], *GAME, f"--save={tmp_path / 'run'}", f"--dataset={data}")
    done = invoke("train", *flags)
    assert done.exit_code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error:")]
    assert "cannot be recorded on this GPU (operation not permitted" in line
    assert line.endswith("--no_capture trains without, and slower")


@pytest.mark.parametrize("script", list(FILES))
def test_a_resumed_run_goes_on_to_the_bit(script, gpu, tmp_path):
    data = pictures(tmp_path, script)
    flags = (*(GAME if script in ("train", "train_c2f") else SAVED), "--precision=bf16")
    small_run(script, tmp_path / "whole", data, *flags)
    small_run(script, tmp_path / "parts", data, *flags, "--epochs=1")
    file = tmp_path / "parts" / FILES[script]
    small_run(script, tmp_path / "parts", data, *flags, f"--network={file}")
    assert_same(torch7.load(tmp_path / "whole" / FILES[script]), torch7.load(file))


def test_each_kernel_is_launched(gpu, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(8):
        Image.new("L", (8, 8), 20 * number).save(folder / f"{number}.png")
    small_run("train", tmp_path / "run", folder, *GAME, "--precision=bf16")
    expected = {"pictures", "widen", "activate", "head", "judge", "activate_backward",
                "head_backward", "add_parts", "adam", "tally"}  # fmt: skip
    assert expected <= set(gpu.kernels)


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        x, host = torch.zeros(2, 3, device=CUDA), torch.ones(2, 3)
        for mixed in (lambda: x + host, lambda: host.add_(x), lambda: torch.cat([x, host]),
                      lambda: host.mul_(x)):  # fmt: skip
            with pytest.raises(RuntimeError, match="tensors of the host"):
                mixed()
        for generator, tensor in ((torch.Generator(), x), (torch.Generator("cuda"), host)):
            with pytest.raises(RuntimeError, match="generator"):
                tensor.uniform_(0, 1, generator=generator)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        for read in (x.sum().item, x.cpu, lambda: x.copy_(host), lambda: torch.zeros(2).to(x)):
            with gpu.graph(Graph()), pytest.raises(RuntimeError, match="capturing"):
                read()


def test_work_that_does_not_wait_for_another_streams_is_found(monkeypatch):
    with pretended_gpu(monkeypatch):
        x, main, lane = torch.ones(3, device=CUDA), torch.cuda.current_stream(), torch.cuda.Stream()
        unheeded = pytest.raises(RuntimeError, match="does not wait for another stream")
        with torch.cuda.stream(lane), unheeded:
            x + 1
        lane.wait_stream(main)
        with torch.cuda.stream(lane):
            y = x + 1
        with unheeded:
            x.add_(1)  # which is still read there
        with unheeded:
            y.sum()
        main.wait_stream(lane)
        x.add_(y)
        with torch.cuda.stream(lane), unheeded:
            x.view(3).mul_(2)
        torch.cuda.synchronize()
        with torch.cuda.stream(lane):
            assert x.mul(1).tolist() == [8, 8, 8]


def test_a_recording_that_leaves_a_stream_out_fails(monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        x, lane, own = torch.ones(3, device=CUDA), torch.cuda.Stream(), torch.cuda.Stream()

        def beside():
            with torch.cuda.stream(lane):
                x.add_(1)

        for steps, said in (
            ((beside,), "not recorded"),
            ((lambda: lane.wait_stream(own), beside), "unjoined work"),
            ((lambda: own.wait_stream(lane),), "uncaptured work"),
        ):
            with pytest.raises(RuntimeError, match=said), gpu.graph(Graph(), None, own):
                [step() for step in steps]
            torch.cuda.set_stream(gpu.streams.main)
        with gpu.graph(Graph(), None, own):
            lane.wait_stream(own)
            beside()
            own.wait_stream(lane)
        assert torch.cuda.current_stream() is gpu.streams.main


def test_a_replay_computes_anew_what_operations_depend_on_and_nothing_of_python(monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        x, counted = torch.ones(3, device=CUDA), 1
        weight = nn.Parameter(torch.full((3,), 2.0, device=CUDA))
        generator = torch.Generator(CUDA).manual_seed(3)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.graph(graph, stream=stream):
            y = (weight * x).sum() + counted
            (slopes,) = torch.autograd.grad(y, weight)
            drawn = torch.empty(3, device=CUDA).uniform_(generator=generator)
            x.add_(slopes)
        torch.cuda.current_stream().wait_stream(stream)
        graph.replay()
        assert y.item() == 7
        before, counted = drawn.cpu().clone(), 5
        graph.replay()
        assert y.item() == 13
        assert x.tolist() == [4, 4, 4]
        assert not torch.equal(before, drawn.cpu())
        assert gpu.operations > 5


def test_what_a_run_sets_for_its_gpu_does_not_outlast_it():
    def settings():
        return (
            torch.get_deterministic_debug_mode(), torch.backends.cudnn.deterministic,
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
        )  # fmt: skip

    before = settings()
    with pytest.MonkeyPatch.context() as patch, pretended_gpu(patch):
        prepare_cuda(CUDA, fast=False, strict=False)
        assert settings() != before
    assert settings() == before


def test_modules_move_to_the_pretended_gpu_and_learn_there(monkeypatch):
    with pretended_gpu(monkeypatch):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 1))
        on_host = copy.deepcopy(net)
        net.to(CUDA)
        x = torch.rand(3, 1, 4, 4)
        for network, given in ((on_host, x), (net, x.to(CUDA))):
            network(given).square().sum().backward()
        for p, q in zip(net.parameters(), on_host.parameters(), strict=True):
            assert p.is_cuda
            assert torch.equal(p.grad.cpu(), q.grad)
        with torch.autocast("cuda", torch.bfloat16):
            assert net(x.to(CUDA)).dtype == torch.bfloat16


def test_pictures_beyond_the_memory_are_brought_epoch_by_epoch(gpu, monkeypatch, tmp_path):
    data = pictures(tmp_path, "train")
    brought = []
    original = epoch_pool.Carrier.receive
    monkeypatch.setattr(epoch_pool.Carrier, "receive", lambda c: brought.append(1) or original(c))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 80 << 30))
    small_run("train", tmp_path / "run", data, *GAME, "--N_epoch=16")
    assert len(brought) == 3  # the first at the start, and one an epoch
    assert gpu.graphs
