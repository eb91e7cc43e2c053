"""The semi-supervised model: a cross-encoder on pairs, then a GAN behind its frozen encoder.

The seed's text describes it and shows its pictures; no code of it was published. It follows domain
transfer networks (Taigman et al. 2016, arXiv 1611.02200).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from eyescream_py.image_model.adversarial import Batch, Game, Metrics, descend
from eyescream_py.image_model.checkpoints import Checkpoint
from eyescream_py.image_model.data import Pictures
from eyescream_py.image_model.losses import build_optimizer
from eyescream_py.image_model.networks import (
    Decoder,
    EncodedGenerator,
    Encoder,
    build_critic,
    channels_last,
)
from eyescream_py.image_model.options import GanOptions, ImageOptions, SemiOptions
from eyescream_py.image_model.training import REMEDY, generate, replayed
from eyescream_py.system.errors import UserError
from eyescream_py.system.recording import Recorder

ROUTES = {  # (domain that goes in, domain that comes out)
    "cross": (("synth", "real"), ("real", "synth")),
    "all": (("synth", "real"), ("real", "synth"), ("synth", "synth"), ("real", "real")),
}


class CrossEncoder:
    """Stage 1: one encoder for both domains and a decoder for each, L1 over the routes on pairs."""

    def __init__(
        self,
        options: SemiOptions,
        image: ImageOptions,
        pairs: Pictures,
        rng: np.random.Generator,
        device: torch.device,
        capture: bool = True,
    ) -> None:
        self._routes = ROUTES[options.routes]
        self._pairs = pairs
        self._batch_size = image.batch_size
        self._rng = rng
        self.settings = image.settings("cross-encoder")
        shape = image.channels, image.norm
        self.encoder = channels_last(Encoder(*shape)).to(device)
        self.decoders = {
            side: channels_last(Decoder(*shape)).to(device) for side in ("real", "synth")
        }
        self.modules: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "decoder_real": self.decoders["real"],
            "decoder_synth": self.decoders["synth"],
        }
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        optimizer = build_optimizer(image.optim, parameters, options.llr)
        self.optimizers: dict[str, Optimizer] = {"l1": optimizer}
        self._descend = Recorder(device, capture, REMEDY).step(self._descent)
        self._seen: Batch | None = None

    def route_losses(self, synth: Tensor, real: Tensor) -> dict[str, Tensor]:
        """L1 of every route against its paired target, by the name `synth_to_real`."""
        batch = {"synth": synth, "real": real}
        codes = {side: self.encoder(pictures) for side, pictures in batch.items()}
        return {
            f"{source}_to_{target}": F.l1_loss(self.decoders[target](codes[source]), batch[target])
            for source, target in self._routes
        }

    def step(self) -> Metrics:
        synth, real = self._pairs.draw(self._batch_size)
        self._seen = synth, real
        total, *losses = self._descend(synth, real).tolist()
        names = (f"{source}_to_{target}" for source, target in self._routes)
        return {"L1": total / len(losses), **dict(zip(names, losses, strict=True))}

    def _descent(self, synth: Tensor, real: Tensor) -> Tensor:
        losses = torch.stack(list(self.route_losses(synth, real).values()))
        total = losses.sum()
        descend(self.optimizers["l1"], total)
        return torch.cat((total[None], losses)).detach()

    def samples(self) -> dict[str, Tensor]:
        if self._seen is None:
            return {}
        synth, real = self._seen
        to_real = EncodedGenerator(self.encoder, self.decoders["real"])
        return {"input": synth, "output": generate(to_real, synth), "target": real}

    def state(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "queue": self._pairs.queue.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._pairs.queue.load_state(state["queue"])

    def saved(self) -> None:
        """Nothing but the checkpoint is on the disk."""

    def close(self) -> None:
        """Nothing is open."""


class FrozenEncoderGan:
    """Stage 2: fake = decoder(E(x)) with E frozen; adversarial + alpha * mean|E(fake) - E(x)|.

    E takes the reconstructor's place: it checks, in code space, that the picture is still of x.
    """

    def __init__(
        self,
        options: SemiOptions,
        image: ImageOptions,
        gan: GanOptions,
        synth: Pictures,
        real: Pictures,
        rng: np.random.Generator,
        device: torch.device,
        capture: bool = True,
    ) -> None:
        self._domains = {"synth": synth, "real": real}
        self._alpha = options.alpha
        self._batch_size = image.batch_size
        self._rng = rng
        self.settings = image.settings("semi") | {"critic": gan.critic}
        shape = image.channels, image.norm
        self.encoder = channels_last(FrozenEncoder(*shape)).to(device)
        self.decoder = channels_last(Decoder(*shape)).to(device)
        self.generator = EncodedGenerator(self.encoder, self.decoder)
        critic = build_critic(gan.critic, image.channels, image.image_size, image.norm).to(device)
        self.modules: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "discriminator": critic,
        }
        g = build_optimizer(image.optim, self.decoder.parameters(), gan.glr)
        d = build_optimizer(image.optim, critic.parameters(), gan.dlr)
        self.optimizers: dict[str, Optimizer] = {"generator": g, "discriminator": d}
        recorder = Recorder(device, capture, REMEDY)
        self.game = Game(self.generator, critic, g, d, gan, rng, self.code_constancy, recorder)
        self._seen: Batch | None = None

    def start_from(self, stage1: Checkpoint, decoder: str) -> None:
        """Take a cross-encoder's encoder, and its photo decoder unless `decoder` is "fresh"."""
        for name in ("channels", "norm"):
            if stage1.settings[name] != self.settings[name]:
                raise UserError(
                    f"--{name}: the encoder in {stage1.path} has {stage1.settings[name]}"
                )
        stage1.restore(self.encoder, "encoder")
        if decoder == "real":
            stage1.restore(self.decoder, "decoder_real")

    def code_constancy(self, fake: Tensor, x: Tensor) -> Tensor:
        """alpha * mean|E(fake) - E(x)| ("f-constancy")."""
        with torch.no_grad():
            wanted = self.encoder(x)
        return self._alpha * F.l1_loss(self.encoder(fake), wanted)

    def draw(self) -> Batch:
        x, y = (self._domains[side].draw(self._batch_size)[0] for side in ("synth", "real"))
        return x, y

    def step(self) -> Metrics:
        x, y = self._seen = self.draw()
        return self.game.turn(x, y, self.draw)

    def samples(self) -> dict[str, Tensor]:
        if self._seen is None:
            return {}
        x, y = self._seen
        pictures = {"input": x, "output": generate(self.generator, x), "target": y}
        return pictures | replayed(self.game, len(x))

    def state(self) -> dict[str, Any]:
        queues = {side: pictures.queue.state() for side, pictures in self._domains.items()}
        rng = self._rng.bit_generator.state
        return {"rng": rng, "queues": queues, "game": self.game.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        for side, pictures in self._domains.items():
            pictures.queue.load_state(state["queues"][side])
        self.game.load_state(state["game"])

    def saved(self) -> None:
        if self.game.replay is not None:
            self.game.replay.commit()

    def close(self) -> None:
        if self.game.replay is not None:
            self.game.replay.close()


class FrozenEncoder(Encoder):
    """An encoder whose weights and batch statistics never move; gradients still pass through it."""

    def __init__(self, channels: int, norm: str = "none") -> None:
        super().__init__(channels, norm)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenEncoder:
        super().train(False)
        return self
