"""The obvious PyTorch port of one training iteration: what train_step.py is compared with.

Eager torch.nn, torch.optim.Adam with its defaults, binary_cross_entropy, a penalty in the loss,
element-wise clamps over parameters, G's loss run backward through the whole of D with its weight
gradients, a float data set behind a DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from eyescream_py.networks import models, models_c2f


def endless(data: Tensor, batch: int) -> Iterator[Tensor]:
    """Shuffled float batches from a DataLoader, for ever."""
    dataset = TensorDataset(data)
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**9)
    for (rows,) in DataLoader(dataset, batch, sampler=sampler):
        yield rows


def penalised(loss: Tensor, network: nn.Module, l2: float) -> Tensor:
    return loss + l2 / 2 * sum((p**2).sum() for p in network.parameters()) if l2 else loss


def clamp_gradients(network: nn.Module, bound: float) -> None:
    for p in network.parameters():
        if p.grad is not None:
            p.grad.clamp_(-bound, bound)


class PlainFaces:
    """train.py's iteration (defaults) on `images` (N,C,S,S) floats."""

    def __init__(self, images: Tensor, batch: int, noise_dim: int = 100) -> None:
        dims = (images.shape[1], images.shape[2], images.shape[3])
        self.device, self.batch, self.noise_dim = images.device, batch, noise_dim
        self.D = models.create_D(dims).to(self.device)
        self.G = models.create_G(dims, noise_dim).to(self.device)
        self.D_opt = torch.optim.Adam(self.D.parameters())
        self.G_opt = torch.optim.Adam(self.G.parameters())
        self.real = endless(images.cpu(), batch // 2)

    def noise(self, n: int) -> Tensor:
        return torch.rand(n, self.noise_dim, device=self.device) * 2 - 1

    def iteration(self) -> None:
        half = self.batch // 2
        real = next(self.real).to(self.device)
        fake = self.G(self.noise(half)).detach()
        targets = torch.cat([torch.ones(half, 1), torch.zeros(half, 1)]).to(self.device)
        self.D_opt.zero_grad()
        loss = F.binary_cross_entropy(self.D(torch.cat([real, fake])), targets)
        penalised(loss, self.D, 1e-4).backward()
        clamp_gradients(self.D, 1)
        self.D_opt.step()

        self.G_opt.zero_grad()
        made = self.D(self.G(self.noise(self.batch)))
        F.binary_cross_entropy(made, torch.ones_like(made)).backward()
        clamp_gradients(self.G, 5)
        self.G_opt.step()
        loss.item()


class PlainPairs:
    """train_c2f.py's iteration (defaults) on coarse and diff pictures made beforehand."""

    def __init__(self, coarse: Tensor, diff: Tensor, batch: int) -> None:
        dims = (coarse.shape[1], coarse.shape[2], coarse.shape[3])
        self.device, self.batch, self.dims = coarse.device, batch, dims
        self.D = models_c2f.create_D(dims).to(self.device)
        self.G = models_c2f.create_G(dims).to(self.device)
        self.D_opt = torch.optim.Adam(self.D.parameters())
        self.G_opt = torch.optim.Adam(self.G.parameters())
        self.pairs = endless(torch.cat([coarse, diff], 1).cpu(), batch)

    def noise(self, n: int) -> Tensor:
        return torch.rand(n, 1, *self.dims[1:], device=self.device) * 2 - 1

    def pair(self) -> tuple[Tensor, Tensor]:
        both = next(self.pairs).to(self.device)
        return both[:, : self.dims[0]], both[:, self.dims[0] :]

    def iteration(self) -> None:
        half = self.batch // 2
        coarse, diff = self.pair()
        diff = torch.cat([diff[:half], self.G(self.noise(half), coarse[half:]).detach()])
        targets = torch.cat([torch.ones(half, 1), torch.zeros(half, 1)]).to(self.device)
        self.D_opt.zero_grad()
        loss = F.binary_cross_entropy(self.D(diff, coarse), targets)
        l1 = 1e-7 * sum(p.abs().sum() for p in self.D.parameters())
        (loss + l1).backward()
        clamp_gradients(self.D, 1)
        self.D_opt.step()

        self.G_opt.zero_grad()
        coarse, _ = self.pair()
        made = self.D(self.G(self.noise(self.batch), coarse), coarse)
        F.binary_cross_entropy(made, torch.ones_like(made)).backward()
        clamp_gradients(self.G, 5)
        self.G_opt.step()
        loss.item()
