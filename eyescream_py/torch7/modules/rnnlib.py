"""Readers of `recurrent/rnnlib.py`, of the models of fairseq-lua, and of rnn's SeqDropout."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..files.values import Table
from ..layers.stochastic import SeqDropout
from ..recurrent import rnnlib
from .codec import Node
from .plain import read_dropout
from .registry import register

_MODELS = ("FConvModel", "AvgpoolModel", "BLSTMModel", "SelectionBLSTMModel", "ConvModel")


def build_sequence(node: Node) -> nn.Module:
    return rnnlib.SequenceTable(node.count("dim"), *node.children())


def build_recurrent(node: Node) -> nn.Module:
    """Of the modules only the first; the others are its clones for the steps so far."""
    listed = node.obj.fields.get("modules")
    first = listed.get(1) if isinstance(listed, Table) else None
    made = node.reader.module(first, f"{node.place} > (1)")
    return rnnlib.RecurrentTable(node.count("dim"), made)


def build_dropout(node: Node) -> nn.Module:
    plain: Any = read_dropout(node)
    return SeqDropout(plain.p, plain.scaled, plain.stochastic_inference)


def register_rnnlib() -> None:
    register("nn.SequenceTable", build_sequence)
    register("nn.RecurrentTable", build_recurrent)
    register("nn.SeqDropout", build_dropout)
    for name in _MODELS:
        register(name, lambda node: node.child("module"))
