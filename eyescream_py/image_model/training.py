"""The learner behind `train`: L1, reconstruction and the game, each with its own optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from eyescream_py.image_model.adversarial import Batch, Game, Metrics, descend
from eyescream_py.image_model.data import (
    Augmentation,
    Pictures,
    load_folder,
    load_listed,
    load_pairs,
    normalise,
)
from eyescream_py.image_model.losses import build_optimizer
from eyescream_py.image_model.networks import NU_LIMIT, build_critic, build_generator
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions
from eyescream_py.image_model.perception import PerceptualLoss
from eyescream_py.system.errors import UserError
from eyescream_py.system.recording import Recorder

REMEDY = "give --no_capture"  # where a step cannot be recorded


@dataclass(frozen=True)
class Domains:
    """The sets that a run draws from; a set that its options do not need is None.

    `synth` holds sources and `real` targets, whichever the direction; `pairs` are the paired set's
    (source, target), `listed` those that a list names.
    """

    synth: Pictures | None = None
    real: Pictures | None = None
    pairs: Pictures | None = None
    listed: Pictures | None = None

    def present(self) -> dict[str, Pictures]:
        """The sets that the run has, by name."""
        return {name: pictures for name, pictures in vars(self).items() if pictures is not None}


def check_options(options: ModelOptions, image: ImageOptions) -> None:
    """UserError for flags that leave nothing to learn or contradict each other."""
    if options.gen_arch == "NU" and image.image_size > NU_LIMIT:
        raise UserError(f"--gen_arch=NU: give an --image_size of at most {NU_LIMIT}")
    if options.crop > image.image_size:
        raise UserError(f"--crop={options.crop}: give at most --image_size")
    if not (options.use_gan or options.l1 or options.use_recon or options.self_l1):
        raise UserError("--no_gan: nothing is left to learn; add --L1, --self_l1 or --use_recon")
    if options.features_loss and not options.l1:
        raise UserError("--features_loss: is a part of --L1; add --L1 or leave it out")
    if options.use_nd_l1 and not options.l1:
        raise UserError("--use_nd_L1: this chooses the pairs of --L1; add --L1 or leave it out")
    if options.pair_list and (options.use_nd_l1 or not options.l1):
        raise UserError("--pair_list: names the pairs of --L1, and --use_nd_L1 others; give one")
    if options.l1 and not (options.use_nd_l1 or options.pair_list):
        raise UserError(
            "--L1 needs pairs, which equal names in two folders do not make: give --use_nd_L1 and "
            "--nd_dir with NAME_D and NAME_I files, or --pair_list"
        )
    if options.use_nd_gan and not options.use_gan:
        raise UserError("--use_nd_gan and --no_gan contradict each other; leave one out")


def load_domains(
    options: ModelOptions, image: ImageOptions, rng: np.random.Generator, device: torch.device
) -> Domains:
    """Read the folders that `options` need; UserError where one is missing or unfit."""
    size, channels = image.image_size, image.channels
    folders = (options.synth_dir, "--synth_dir"), (options.real_dir, "--real_dir")
    backwards = options.direction == "BtoA"
    source, target = folders[::-1] if backwards else folders
    unpaired = options.use_gan and not options.use_nd_gan
    needs_source = options.use_recon or options.self_l1 > 0
    sets: dict[str, Pictures] = {}
    if unpaired or (needs_source and not options.use_nd_gan):
        sets["synth"] = load_folder(*source, size, channels, rng)
    if unpaired:
        sets["real"] = load_folder(*target, size, channels, rng)
    if options.use_nd_gan or options.use_nd_l1:
        sets["pairs"] = load_pairs(options.nd_dir, "--nd_dir", size, channels, rng)
    if options.l1 and not options.use_nd_l1:
        names = options.synth_dir, options.real_dir
        sets["listed"] = load_listed(str(options.pair_list), names, size, channels, rng)
    augmentation = Augmentation(options.flip, options.crop)
    for name, pictures in sets.items():
        turned = pictures.turned() if backwards and len(pictures.sides) > 1 else pictures
        sets[name] = replace(turned.to(device), augmentation=augmentation)
    return Domains(**sets)


class ImageModel:
    """Generator, and as the options say discriminator and reconstructor, with their optimizers.

    Which sub-step moves what: L1 and self-L1 the generator (rate llr), reconstruction generator and
    reconstructor (rlr), the game the discriminator (dlr) and then the generator (glr).
    """

    def __init__(
        self,
        options: ModelOptions,
        image: ImageOptions,
        gan: GanOptions,
        domains: Domains,
        rng: np.random.Generator,
        device: torch.device,
        capture: bool = True,
    ) -> None:
        self.options = options
        self.domains = domains
        self._batch_size = image.batch_size
        self._sources = _sources(options, domains)
        self._pairs = _l1_pairs(options, domains)
        self._seen_by_network: PerceptualLoss | None = None
        if options.features_loss and self._pairs is not None:
            photos = (normalise(part) for part in self._pairs.sides[1].split(32))
            self._seen_by_network = PerceptualLoss.load(options.features, photos, device)
        self._rng = rng
        self.settings = image.settings("image-model") | {"gen_arch": options.gen_arch}
        self.settings["direction"] = options.direction
        if options.use_gan:
            self.settings["critic"] = gan.critic
        self.modules = _build_modules(options, image, gan, device)
        self.optimizers = _build_optimizers(options, image.optim, gan, self.modules)
        recorder = Recorder(device, capture, REMEDY)
        self._l1 = recorder.step(self._l1_losses)
        self._self_l1 = recorder.step(self._self_l1_loss)
        self._reconstruct = recorder.step(self._reconstruction_loss)
        self.game: Game | None = None
        if options.use_gan:
            g, d = self.optimizers["generator"], self.optimizers["discriminator"]
            networks = self.generator, self.modules["discriminator"]
            self.game = Game(*networks, g, d, gan, rng, recorder=recorder)
        self._seen: Batch | None = None

    @property
    def generator(self) -> nn.Module:
        """The network from depth maps to photos."""
        return self.modules["generator"]

    def draw(self) -> Batch:
        """An unpaired batch (or a paired one with --use_nd_gan) for game and reconstruction."""
        sides = [side for source in self._sources for side in source.draw(self._batch_size)]
        return sides[0], sides[-1]

    def step(self) -> Metrics:
        """L1, self-L1, reconstruction, game: what is on, in this order."""
        options = self.options
        metrics: Metrics = {}
        if self._pairs is not None:
            depths, photos = self._pairs.draw(self._batch_size)
            metrics |= self.l1_step(depths, photos)
            self._seen = depths, photos
        if self._sources:
            x, y = self.draw()
            if self._pairs is None:
                self._seen = x, y
            if options.self_l1:
                metrics["self_L1"] = self.self_l1_step(x)
            if options.use_recon:
                metrics["R"] = self.reconstruction_step(x)
            if self.game is not None:
                metrics.update(self.game.turn(x, y, self.draw))
        return metrics

    def l1_step(self, x: Tensor, y: Tensor) -> Metrics:
        """One step of G towards the photos `y` of its depth maps `x`; the unweighted losses."""
        names = ("L1", "features") if self._seen_by_network is not None else ("L1",)
        return dict(zip(names, self._l1(x, y).tolist(), strict=True))

    def _l1_losses(self, x: Tensor, y: Tensor) -> Tensor:
        output = self.generator(x)
        losses = [F.l1_loss(output, y)]
        total = self.options.l1_weight * losses[0]
        if self._seen_by_network is not None:
            losses.append(self._seen_by_network(output, y))
            total = total + self.options.features_loss * losses[1]
        descend(self.optimizers["l1"], total)
        return torch.stack(losses).detach()

    def self_l1_step(self, x: Tensor) -> float:
        """One step of G towards its own source; the unweighted L1."""
        return self._self_l1(x).item()

    def _self_l1_loss(self, x: Tensor) -> Tensor:
        loss = F.l1_loss(self.generator(x), x)
        descend(self.optimizers["self_l1"], self.options.self_l1 * loss)
        return loss.detach()

    def reconstruction_step(self, x: Tensor) -> float:
        """One step of G and the reconstructor towards R(G(x)) = x."""
        return self._reconstruct(x).item()

    def _reconstruction_loss(self, x: Tensor) -> Tensor:
        loss = F.l1_loss(self.modules["reconstructor"](self.generator(x)), x)
        descend(self.optimizers["reconstruction"], loss)
        return loss.detach()

    def samples(self) -> dict[str, Tensor]:
        """The last batch: input, output, target (its photos, or any others), replay."""
        if self._seen is None:
            return {}
        source, target = self._seen
        pictures = {"input": source, "output": generate(self.generator, source), "target": target}
        if self.options.use_recon:
            pictures["reconstruction"] = generate(self.modules["reconstructor"], pictures["output"])
        return pictures | replayed(self.game, len(source))

    def state(self) -> dict[str, Any]:
        queues = {name: pictures.queue.state() for name, pictures in self.domains.present().items()}
        game = self.game.state() if self.game is not None else None
        return {"rng": self._rng.bit_generator.state, "queues": queues, "game": game}

    def load_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        for name, pictures in self.domains.present().items():
            pictures.queue.load_state(state["queues"].get(name, []))
        if self.game is not None and state["game"] is not None:
            self.game.load_state(state["game"])

    def saved(self) -> None:
        if self.game is not None and self.game.replay is not None:
            self.game.replay.commit()

    def close(self) -> None:
        if self.game is not None and self.game.replay is not None:
            self.game.replay.close()


def _sources(options: ModelOptions, domains: Domains) -> list[Pictures]:
    """What `draw` draws from: the pairs, or synth and real, or synth alone; [] where not needed."""
    if not (options.use_gan or options.use_recon or options.self_l1):
        return []
    sets = (domains.pairs,) if options.use_nd_gan else (domains.synth, domains.real)
    return [pictures for pictures in sets if pictures is not None]


def _l1_pairs(options: ModelOptions, domains: Domains) -> Pictures | None:
    if not options.l1:
        return None
    return domains.pairs if options.use_nd_l1 else domains.listed


@torch.no_grad()
def generate(network: nn.Module, x: Tensor) -> Tensor:
    """`network(x)` as in use (running batch statistics), without a trace on training."""
    training = network.training
    network.eval()
    with torch.random.fork_rng():
        output = network(x)
    network.train(training)
    return output


def replayed(game: Game | None, number: int) -> dict[str, Tensor]:
    """{"replay": some cached pictures}, or nothing where there are none."""
    if game is None or game.replay is None or not game.replay.count:
        return {}
    return {"replay": game.replay.sample(number, np.random.default_rng(0))}


def _build_modules(
    options: ModelOptions, image: ImageOptions, gan: GanOptions, device: torch.device
) -> dict[str, nn.Module]:
    shape = image.channels, image.image_size, image.norm
    builders: dict[str, Callable[[], nn.Module]] = {
        "generator": lambda: build_generator(options.gen_arch, *shape)
    }
    if options.use_gan:
        builders["discriminator"] = lambda: build_critic(gan.critic, *shape)
    if options.use_recon:
        builders["reconstructor"] = lambda: build_generator(options.gen_arch, *shape)
    return {name: build().to(device) for name, build in builders.items()}


def _build_optimizers(
    options: ModelOptions, optim: str, gan: GanOptions, modules: dict[str, nn.Module]
) -> dict[str, Optimizer]:
    generator = list(modules["generator"].parameters())
    plans: dict[str, tuple[list[nn.Parameter], float]] = {}
    if options.l1:
        plans["l1"] = generator, options.llr
    if options.self_l1:
        plans["self_l1"] = generator, options.llr
    if options.use_recon:
        both = generator + list(modules["reconstructor"].parameters())
        plans["reconstruction"] = both, options.rlr
    if options.use_gan:
        plans["generator"] = generator, gan.glr
        plans["discriminator"] = list(modules["discriminator"].parameters()), gan.dlr
    return {name: build_optimizer(optim, params, rate) for name, (params, rate) in plans.items()}
