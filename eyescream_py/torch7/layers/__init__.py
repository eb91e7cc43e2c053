"""Lua's layers that torch.nn lacks, or has otherwise.

Classes carry their Lua names and Lua's argument conventions: dimensions and indices count from 1.
Layers that torch.nn already has (Linear, Conv2d, BatchNorm, Sigmoid, ...) are used as they are; a
PReLU with one shared slope is ``torch.nn.PReLU(1)``.
"""
