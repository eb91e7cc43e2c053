"""Small files without end: tables and layers that hold themselves, or each other twice over."""

import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from eyescream_py.torch7 import T7Error, Table, TorchObject, save, to_module
from eyescream_py.torch7.__main__ import main
from eyescream_py.torch7.describe import describe
from eyescream_py.torch7.export.convert import network_of

from ..class_cases import sequential


@pytest.fixture(autouse=True)
def quickly():
    """None of these takes a second; what they guard against takes hours."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 30


def of_itself(count: int, value: Table | TorchObject) -> Table | TorchObject:
    table = value.fields if isinstance(value, TorchObject) else value
    table.update(dict.fromkeys(range(1, count + 1), value))
    return value


def doubled(levels: int) -> Table:
    """{{..., ...}, {..., ...}}: a table of two times the one before."""
    table = Table(a=1)
    for _ in range(levels):
        table = Table.from_list([table, table])
    return table


@pytest.mark.parametrize("value", [Table(), TorchObject("tds.Hash")])
def test_a_table_that_holds_itself_is_shown_once(value: Table | TorchObject) -> None:
    lines = list(describe(of_itself(500, value)))
    assert len(lines) < 300
    assert any("the same" in line for line in lines)


def test_a_network_under_two_keys_is_shown_once() -> None:
    net = sequential(TorchObject("nn.Tanh"))
    lines = list(describe(Table(best=net, model=net)))
    assert lines[-1] == "model: the same nn.Sequential, shown before"


def test_a_key_that_is_a_table_has_a_short_name() -> None:
    keyed = Table()
    keyed[doubled(60)] = 1
    assert list(describe(keyed)) == ["table of 2: 1"]
    with pytest.raises(T7Error, match=r"a table with the keys table of 2$"):
        to_module(keyed)


@pytest.mark.parametrize(
    ("field", "kind"), [("selectindex", "entry"), ("nSplitOutputs", "split in")]
)
def test_a_table_in_place_of_a_nodes_number_has_a_short_name(field: str, kind: str) -> None:
    node = TorchObject("nngraph.Node", Table(data=Table({field: doubled(60)})))
    graph = TorchObject("nn.gModule", Table(forwardnodes=Table.from_list([node])))
    assert any(line.endswith(f"(1): {kind} table of 2") for line in describe(graph))


def test_the_text_of_a_table_has_an_end() -> None:
    short = Table({1: "a", "b": Table(c=2.5), "d": None})
    short[True] = 1
    assert repr(short) == "{1: 'a', 'b': {'c': 2.5}, 'd': None, True: 1}"
    assert len(repr(doubled(60))) < 50_000
    assert len(str(of_itself(500, Table()))) < 50_000
    assert len(f"{Table.from_list(range(10**6))}") < 50_000
    keyed = Table()
    keyed[keyed] = Table()
    assert len(repr(keyed)) < 200
    deep = Table()
    for _ in range(10**5):
        deep = Table.from_list([deep])
    assert repr(deep).endswith("{...}" + 21 * "}")


def test_networks_are_looked_for_in_each_table_once() -> None:
    net = TorchObject("nn.Tanh")
    table = of_itself(500, Table(opt=doubled(60), model=Table(deep=Table(modules=Table(net=net)))))
    assert network_of(table, "") is net
    assert network_of(table, "model.deep.modules.net") is net


def test_layers_that_hold_each_other_twice_are_counted() -> None:
    net = TorchObject("nn.Tanh")
    for _ in range(18):
        net = sequential(net, net)
    to_module(net).eval()
    for _ in range(22):
        net = sequential(net, net)
    with pytest.raises(T7Error, match="more than 1000000 layers, shared ones counted each time"):
        to_module(net)


def test_a_type_that_is_a_table_is_none() -> None:
    layer = TorchObject("nn.OneHot", Table(outputSize=3, _type=doubled(60)))
    assert to_module(layer)(torch.tensor([2])).tolist() == [[0, 1, 0]]


def test_a_partial_linear_looks_for_its_weight_once_in_each_part() -> None:
    network = sequential()
    network.fields["modules"].update(dict.fromkeys(range(1, 1001), network))
    with pytest.raises(T7Error, match="its network has no weight of two dimensions"):
        to_module(TorchObject("nn.PartialLinear", Table(network=network)))


def test_names_by_keys_have_an_end(tmp_path: Path) -> None:
    """Each level's name is longer than the one before: 20 GB of them in a file of 4 MB."""
    deep, table_keys = Table(), Table()
    for _ in range(100_000):
        deep = Table(a=1, b=deep)
    for number in range(30_000):
        table_keys[Table()] = number
    for name, value in (("deep", deep), ("keys", table_keys)):
        path = tmp_path / f"{name}.t7"
        path.write_bytes(save(None, value))
        out = tmp_path / f"{name}.safetensors"
        result = CliRunner().invoke(main, ["convert", str(path), str(out)])
        if name == "keys":
            assert result.exit_code == 0
            continue
        assert result.exit_code == 2
        assert result.output.endswith("within each other to be named by their keys\n")
        assert not out.exists()
