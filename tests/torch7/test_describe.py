"""What `show` says of every golden network is true: sizes, parameters, what is shared."""

import pytest
import torch

from eyescream_py.torch7 import Storage, T7Error, Table, TorchObject, to_module
from eyescream_py.torch7.describe import count_parameters, describe, network_lines
from eyescream_py.torch7.describe_layer import describe_module
from eyescream_py.torch7.export.convert import network_of

from .class_cases import sequential
from .golden_classes import Entry, case_of, entries


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in entries()])
def test_the_parameters_are_those_of_the_module(entry: Entry) -> None:
    net = case_of(entry)["net"]
    trained = sum(parameter.numel() for parameter in to_module(net, dtype=None).parameters())
    assert count_parameters(net) == trained


def test_common_memory_counts_once() -> None:
    memory = torch.rand(6, 4)
    weights = memory, memory.t(), memory[2:5], memory[:, 1:3], memory[0, :1].expand(3, 4)
    net = sequential(*(TorchObject("nn.Linear", Table(weight=w)) for w in weights))
    assert count_parameters(net) == 24
    sides = sequential(*(layer("Linear", weight=memory[:, i : i + 2]) for i in (0, 2)))
    assert count_parameters(sides) == 24
    huge = layer("Linear", weight=torch.zeros(10).as_strided((2**30, 2**30), (0, 0)))
    assert count_parameters(sequential(huge)) == 1


def test_a_node_of_a_graph_is_never_taken_for_another() -> None:
    """Nodes without a module get a description of their own, which was freed and met again."""
    graphs = [case_of(entry)["net"] for entry in entries() if entry.name.startswith("gm_")]
    lines = [line.split(": ")[-1] for graph in graphs for line in describe(graph)]
    assert "input" in lines
    assert not any(line.startswith(("the same input", "the same output")) for line in lines)


def layer(name: str, **fields: object) -> TorchObject:
    return TorchObject(f"nn.{name}", Table(**fields))


VOLUME = {"kT": 2, "kW": 4, "kH": 3, "dT": 1, "dW": 3, "dH": 2, "padT": 0, "padW": 2, "padH": 1}
LAYERS = [
    (layer("Linear", weight=torch.zeros(2, 3)), "nn.Linear(3 -> 2)"),
    (layer("LookupTable", weight=torch.zeros(6, 3)), "nn.LookupTable(6 -> 3)"),
    (layer("Euclidean", weight=torch.zeros(5, 3)), "nn.Euclidean(5 -> 3)"),
    (layer("CMul", weight=torch.zeros(3, 4)), "nn.CMul"),
    (layer("FastLSTM", inputSize=5, outputSize=4, p=0), "nn.FastLSTM(5 -> 4)"),
    (layer("SeqLSTM", inputsize=3, outputsize=4, weight=torch.zeros(7, 16)), "nn.SeqLSTM(3 -> 4)"),
    (layer("LSTM", input_dim=6, hidden_dim=8, weight=torch.zeros(14, 32)), "nn.LSTM(6 -> 8)"),
    (layer("Inception", inputSize=2, outputSize=Table({1: 3})), "nn.Inception"),
    (
        layer("TemporalConvolution", inputFrameSize=4, outputFrameSize=3, kW=2, dW=1),
        "nn.TemporalConvolution(4 -> 3, 2, 1)",
    ),
    (layer("SpatialSubSampling", nInputPlane=2, kW=3, kH=2, dW=2, dH=1), "(3x2, 2,1)"),
    (layer("VolumetricMaxPooling", **VOLUME), "nn.VolumetricMaxPooling(2x4x3, 1,3,2, 0,2,1)"),
    (
        layer("SpatialConvolution", kW=3, kH=3, dW=1, dH=1, dilationW=2, dilationH=1, groups=4),
        "(3x3, 1,1, dilation 2,1, groups 4)",
    ),
    (layer("SpatialFullConvolution", kW=3, kH=3, dW=2, dH=2, adjW=1, adjH=0), "2,2, adj 1,0)"),
    (layer("Reshape", size=Storage(torch.tensor([2, 3])), nelement=6), "nn.Reshape(2, 3)"),
    (layer("Dropout", p=0.5), "nn.Dropout(0.5)"),
]


@pytest.mark.parametrize(("obj", "expected"), LAYERS)
def test_a_layer_has_its_own_sizes(obj: TorchObject, expected: str) -> None:
    assert describe_module(obj).endswith(expected)


def test_networks_in_tables_by_name_are_shown_and_counted() -> None:
    """densecap's regions and SharpMask's refinements; of densecap's nets most are in its net."""
    linear, shared = (layer("Linear", weight=torch.zeros(2, 3)) for _ in range(2))
    regions = layer("LocalizationLayer", nets=Table(rpn=linear))
    net = layer("Sequential", modules=Table({1: shared}))
    model = layer("DenseCapModel", nets=Table(base=shared), net=net)
    refined = layer("SharpMask", refs=Table({0: linear, 1: regions}))
    assert count_parameters(refined) == 6
    assert list(network_lines(refined)) == [
        "nn.SharpMask {",
        "  refs.0: nn.Linear(3 -> 2)   # weight 2x3",
        "  refs.1: nn.LocalizationLayer {",
        "    nets.rpn: the same nn.Linear(3 -> 2)",
        "  }",
        "}",
    ]
    assert list(network_lines(model))[1:] == [
        "  net: nn.Sequential {",
        "    (1): nn.Linear(3 -> 2)   # weight 2x3",
        "  }",
        "  nets.base: the same nn.Linear(3 -> 2)",
        "}",
    ]


def test_objects_that_are_no_networks_are_shown_as_what_they_hold() -> None:
    """A dictionary of tds, a confusion matrix of optim: neither layers nor parameters."""
    kept = Table(
        words=TorchObject("tds.Hash", Table(a=1), 0),
        confusion=TorchObject("optim.ConfusionMatrix", Table(mat=torch.zeros(3, 3))),
        net=layer("Linear", weight=torch.zeros(2, 3)),
    )
    assert list(describe(kept)) == [
        "net: 6 parameters",
        "  nn.Linear(3 -> 2)   # weight 2x3",
        "confusion: optim.ConfusionMatrix of 1",
        "  mat: torch.FloatTensor of size 3x3",
        "words: tds.Hash of 1",
        "  a: 1",
    ]
    assert network_of(kept, "") is kept["net"]
    with pytest.raises(T7Error, match="there is no network under 'words'"):
        network_of(kept, "words")
