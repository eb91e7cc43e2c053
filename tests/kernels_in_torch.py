"""`system.gpu_kernels` by torch's operators: what the kernels are to compute, on any device."""

import math

import torch
import torch.nn.functional as F

NO_POOL, AVERAGE, MAXIMUM = 0, 1, 2


def _whole(x, bias, slope, mask, scale, pool):
    shape = (1, -1, *(1,) * (x.dim() - 2))
    y = F.prelu(x + bias.to(x.dtype).view(shape), slope.to(x.dtype))
    if pool:
        y = (F.avg_pool2d if pool == AVERAGE else F.max_pool2d)(y, 2)
    if mask is not None:
        planes_last = mask.dim() == 4
        whole = mask.dim() == 2 and y.dim() == 4
        mask = mask.permute(0, 3, 1, 2) if planes_last else mask
        y = y * (mask[:, :, None, None] if whole else mask)
    return y * scale


def activate(x, bias, slope, mask, scale, pool, flat, wide):
    y = _filled(_whole(x[:, : len(bias)], bias, slope, mask, scale, pool), wide)
    return (
        y.contiguous() if flat or y.dim() == 2 else y.contiguous(memory_format=torch.channels_last)
    )


def _filled(x, planes):
    return torch.cat([x, x.new_zeros(len(x), planes - x.shape[1], *x.shape[2:])], 1)


def activate_backward(g, x, bias, slope, mask, scale, pool, sums):
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, bias, slope)]
        y = _whole(leaves[0][:, : len(bias)], *leaves[1:], mask, scale, pool)
    dx, *parts = torch.autograd.grad(y, leaves, g[:, : len(bias)])
    return dx, tuple(parts) if sums else None


def add_parts(parts, bias, slope):
    return parts[0].to(bias.dtype), parts[1].to(slope.dtype)


def adam(weights, gradient, moments, rounded, steps, rate, gate, penalty, bound, betas, eps):
    if gate is not None and not gate:
        return
    (l1, l2), (m, v), (b1, b2) = penalty, moments, betas
    g = gradient + l1 * weights.sign() + l2 * weights
    if bound:
        g = g.clamp(-bound, bound)
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    t = float(steps)
    size = float(rate) * math.sqrt(1 - b2**t) / (1 - b1**t)
    weights.addcdiv_(m, v.sqrt() + eps, value=-size)
    if rounded is not None:
        rounded.copy_(weights)


def judge(logits, targets):
    x, t = logits.to(torch.promote_types(logits.dtype, torch.float32)), targets
    slopes = (1 - t) * torch.sigmoid(x) - t * torch.sigmoid(-x)
    return (F.softplus(x) - t * x).mean(), slopes / x.numel()


def tally(logits, targets, loss, trained, sums, counts, certain):
    sums[0] += loss
    sums[2] += 1 if trained is None else trained
    sums[3] += (logits.abs() > certain).sum()
    counts += torch.bincount(2 * (targets > 0.5).long() + (logits > 0).long(), minlength=4)


def widen(x, samples, planes, dtype):
    y = x.new_zeros(samples, planes, *x.shape[2:], dtype=dtype)
    y[: len(x), : x.shape[1]] = x
    return y.contiguous(memory_format=torch.channels_last)


def head(x, weight, bias):
    return F.linear(x.to(weight.dtype), weight, bias)


def head_backward(g, x, weight, sums):
    dx = (g * weight).to(x.dtype)
    return (dx, (g * x).sum(0, keepdim=True).to(weight.dtype), g.sum(0)) if sums else (
        dx, None, None
    )  # fmt: skip


def pictures(images, table, rows, dtype):
    rows = rows if table is None else table[rows]
    return images[rows].to(dtype) / 255


def pairs(images, table, rows, matrix, dtype):
    fine = pictures(images, table, rows, torch.float64)
    coarse = matrix.double() @ fine @ matrix.double().T
    return coarse.to(dtype), (fine - coarse).to(dtype)
