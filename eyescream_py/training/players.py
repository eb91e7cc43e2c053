"""D and G set up as the options say: forms of their layers, optimizers, averages, kernels."""

from __future__ import annotations

import torch
from torch import nn

from eyescream_py.game.adversarial import (
    AccuracyGate,
    FaultyPenalty,
    Feed,
    Game,
    Learner,
    Penalty,
)
from eyescream_py.game.answers import Logits, Probabilities
from eyescream_py.game.averaging import Ema
from eyescream_py.game.fused_adam import FusedAdam
from eyescream_py.game.group import Alone
from eyescream_py.game.precision import Precision
from eyescream_py.game.taming import Taming
from eyescream_py.game.working import Working
from eyescream_py.networks import models
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.fused_head import fuse_head
from eyescream_py.networks.fused_layers import Tools, fuse, learn_early
from eyescream_py.system.lanes import Lanes
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.optim import Adam
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training.game import GameOptions
from eyescream_py.training.setup import join_steps, kernels_of, make_optimizer

NEVER = 2.0  # an accuracy that D cannot reach: it is never held back


def build_game(
    options: GameOptions,
    networks: tuple[nn.Module, nn.Module],
    feed: Feed,
    source: RandomSource,
    arithmetic: Precision,
    group: Alone,
    max_accuracy: float = NEVER,
    taming: Taming | None = None,
) -> Game:
    """D against G, whose weights are drawn already, set up as the options say."""
    (D, G), replay = networks, options.rng == "lua"
    device = next(D.parameters()).device
    tools = _tools(options, device)
    for net in networks:
        set_random_source(net, source)
        group.share_statistics(net)
        _make_fast(net, options, rounded=arithmetic.name == "bf16")
    _describe(D, G)
    # a replay listens to probabilities as Lua did
    answers = Probabilities(D) if replay else logits_of(networks, tools)
    gate = AccuracyGate(max_accuracy, options.batch_size, device)
    rounded = arithmetic.name == "bf16" and not replay
    D_player, G_player = _players(options, networks, rounded, tools, gate)
    if taming and taming.bound:
        D_player.fused = None  # what bounds the weights comes between their step and rounding
    return Game(
        D=D_player,
        G=G_player,
        feed=feed,
        gate=gate,
        iterations=(options.D_iterations, options.G_iterations),
        autocast=arithmetic.autocast,
        group=group,
        taming=taming,
        answers=answers,
        ema=_average(options, G_player),
        tally=tools.kernels.tally if tools else None,
    )


def _players(
    options: GameOptions, networks: tuple[nn.Module, nn.Module], rounded: bool,
    tools: Tools | None, gate: AccuracyGate,
) -> tuple[Learner, Learner]:  # fmt: skip
    # a replay keeps the Lua program's fault
    penalty_of_G = FaultyPenalty if options.rng == "lua" else Penalty
    penalties = (Penalty(options.D_L1, options.D_L2), penalty_of_G(options.G_L1, options.G_L2))
    D, G = (
        _player(options, name, network, penalty, rounded, tools)
        for name, network, penalty in zip("DG", networks, penalties, strict=True)
    )
    join_steps(options, *((G,) if gate.can_close else (D, G)))
    return D, G


def _tools(options: GameOptions, device: torch.device) -> Tools | None:
    kernels = kernels_of(options, device)
    return Tools(kernels, Lanes(device)) if kernels else None


def _describe(D: nn.Module, G: nn.Module) -> None:
    print(f"Discriminator network:\n{D}\nGenerator network:\n{G}")
    print(f"Number of free parameters in D: {models.free_parameters(D)}")
    print(f"Number of free parameters in G: {models.free_parameters(G)}")


def logits_of(networks: tuple[nn.Module, nn.Module], tools: Tools | None) -> Logits:
    """D's answers; with `tools` they and both networks compute by kernels."""
    D, G = networks
    answers = Logits(D, tools.kernels.judge if tools else None)
    if tools:
        fuse_head(D, tools)
        for net in (D, G):  # only now, as D's last layer has to keep computing in full
            fuse(net, tools)
    return answers


def _make_fast(network: nn.Module, options: GameOptions, rounded: bool) -> None:
    """Layouts and forms of layers that suit the device; a replay keeps torch's own arithmetic."""
    if next(network.parameters()).is_cuda:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif options.rng != "lua":
        speed_up(network, rounded, compiled=not options.no_fuse)


def _average(options: GameOptions, G: Learner) -> Ema | None:
    if not options.G_ema and not options.G_ema_power:
        return None
    return Ema(G.network, options.G_ema, options.G_ema_power, G.optimizer.flat)


def _player(
    options: GameOptions, name: str, network: nn.Module, penalty: Penalty, rounded: bool,
    tools: Tools | None,
) -> Learner:  # fmt: skip
    method, clamp = getattr(options, f"{name}_optmethod"), getattr(options, f"{name}_clamp")
    betas = (options.adam_beta1, options.adam_beta2)
    on_gpu = next(network.parameters()).is_cuda
    optimizer = make_optimizer(method, network, *options.rates(name), betas, on_gpu, rounded)
    working = Working(network, optimizer.flat) if rounded and optimizer.flat else None
    fused = None
    if tools and isinstance(optimizer, Adam):
        factors = (penalty.l1, penalty.l2)
        fused = FusedAdam(tools.kernels, optimizer, factors, clamp, working)
        learn_early(network, fused)
    lanes = tools.lanes if tools else None
    return Learner(network, optimizer, penalty, clamp, working, fused, lanes)
