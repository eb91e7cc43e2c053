"""nn.gModule: graphs that Lua wrote, graphs that we write, and graphs that are none."""

import copy
import importlib
import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module
from eyescream_py.torch7.__main__ import main
from eyescream_py.torch7.graph import GraphModule, GraphNode, child_name
from eyescream_py.torch7.layers.tables import CAddTable
from eyescream_py.torch7.modules.graph import MAX_NODES

from .golden_classes import case_of, entries, python_value, tensors

GRAPHS = [entry for entry in entries() if entry.kind == "gModule"]


def graph_of(name: str) -> Table:
    """A case of the golden files, read anew so that a test can spoil it."""
    entry = next(entry for entry in GRAPHS if entry.name == name)
    return load(save(None, case_of(entry)))


def shape_of(graph: TorchObject) -> list[tuple]:
    """What runs and what it reads, by the tables of the file and by its two graphs' edges."""
    datas = [node.fields["data"] for node in graph.fields["forwardnodes"].to_list()]
    at = {id(data): i for i, data in enumerate(datas)}
    read = [
        (
            data["module"].typename if "module" in data else None,
            [at[id(source)] for source in data["mapindex"].to_list()],
            all(data["mapindex"][s] == i for i, s in enumerate(data["mapindex"].to_list(), 1)),
            data.get("selectindex"),
            data.get("nSplitOutputs"),
        )
        for data in datas
    ]
    for key in ("fg", "bg"):
        edges = graph.fields[key].fields["edges"].to_list()
        pairs = [[at[id(e.fields[k].fields["data"])] for k in ("from", "to")] for e in edges]
        read.append((key, sorted(pairs)))
    return read


@pytest.mark.parametrize("entry", GRAPHS, ids=lambda entry: entry.name)
def test_a_graph_that_we_write_is_the_one_that_lua_wrote(entry):
    case = case_of(entry)
    module = to_module(case["net"], None).eval()
    written = load(save(None, from_module(module)))
    again = to_module(written, None).eval()
    outputs = list(tensors(again(python_value(case["input"]))))
    for got, expected in zip(outputs, tensors(case["output"]), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    if isinstance(module, GraphModule):
        assert shape_of(written) == shape_of(case["net"])
        assert len(written.fields["modules"]) == len(case["net"].fields["modules"])
        assert written.fields["nInputs"] == case["net"].fields["nInputs"]


def test_a_graph_can_be_made_in_python_and_written():
    nodes = [GraphNode(()), GraphNode((0,), "first"), GraphNode((0, 1), "add")]
    graph = GraphModule(nodes, {"first": nn.Linear(3, 3), "add": CAddTable()}, [2, 1])
    x = torch.randn(2, 3)
    total, first = graph(x)
    assert torch.equal(total, x + first)
    for got, expected in zip(to_module(from_module(graph))(x), (total, first), strict=True):
        assert torch.equal(got, expected)


def test_several_inputs_come_as_a_list_or_as_arguments():
    case = graph_of("gm_multi_input")
    module = to_module(case["net"]).eval()
    inputs = python_value(case["input"])
    torch.testing.assert_close(module(*inputs), module(inputs))
    with pytest.raises(ValueError, match=f"takes a list of {len(inputs)} inputs, not 1"):
        module(inputs[0])


def test_a_module_that_two_nodes_run_is_one_child():
    net = graph_of("gm_shared_weights_chain")["net"]
    module = to_module(net)
    linears = [part for part in module.children() if isinstance(part, nn.Linear)]
    assert len(linears) > len({id(part.weight) for part in linears})  # two layers, one weight
    layers = [data for node in net.fields["forwardnodes"].to_list()
              if "module" in (data := node.fields["data"])]  # fmt: skip
    same = [data for data in layers if data["module"].typename == "nn.Linear"]
    same[1]["module"] = same[0]["module"]
    module = to_module(net)
    used = [node.module for node in module.nodes if node.module]
    assert len(set(used)) == len(used) - 1 == len(list(module.children()))


def test_the_graph_prints_as_source():
    text = repr(to_module(graph_of("gm_split_two_uses")["net"]))
    assert "x2 = self.concat_table_2(x1)" in text
    assert "x6 = self.cmul_table_3([x4, x5])" in text
    assert "return [x6, x7]" in text


def test_labels_become_names_but_never_those_of_a_module():
    assert child_name("i2h 1", "Linear", {}) == "i2h_1"
    assert child_name("forward", "Linear", {}) == "linear_1"
    assert child_name("class", "Linear", {}) == "linear_1"
    assert child_name("a", "SpatialConvolution", {"a": 0}) == "spatial_convolution_2"
    assert child_name("été", "gModule", {}) == "t"


def test_a_graph_of_2013_whose_input_node_knows_where_inputs_go():
    case = graph_of("gm_multi_input")
    net = case["net"].fields
    nodes = net["forwardnodes"].to_list()
    targets = [node.fields["data"] for node in nodes if "selectindex" in node.fields["data"]]
    readers = [
        data
        for node in nodes
        if (data := node.fields["data"])["mapindex"].to_list()
        and any(data["mapindex"][1] is target for target in targets)
    ]
    source = net["innode"].fields["data"]
    source["data"], source["mapindex"] = Table(), Table.from_list(readers)
    for data in readers:
        data["mapindex"] = Table.from_list([source])
    gone = {id(target) for target in targets}
    kept = [n for n in nodes if id(n.fields["data"]) not in gone]
    net["forwardnodes"] = Table.from_list(
        n for n in kept if "nSplitOutputs" not in n.fields["data"]
    )
    del net["nInputs"]
    module = to_module(case["net"]).eval()
    assert module.n_inputs == len(readers)
    torch.testing.assert_close(module(python_value(case["input"])), case["output"])


def test_what_a_split_takes_is_checked():
    nodes = [GraphNode(()), GraphNode((0,), split=2), GraphNode((1,), select=2)]
    graph = GraphModule(nodes, {}, [2])
    assert graph(["a", "b"]) == "b"
    with pytest.raises(ValueError, match="splits its output in 2"):
        graph(["a"])
    with pytest.raises(ValueError, match="splits its output in 2"):
        graph(torch.zeros(2))
    with pytest.raises(ValueError, match="no entry 3"):
        GraphModule([GraphNode(()), GraphNode((0,), select=3)], {}, [1])(["a"])


def _node(net, number):
    return net["forwardnodes"][number].fields["data"]


def _cycle(net):
    _node(net, 3)["mapindex"][1] = _node(net, 5)


def _itself(net):
    _node(net, 3)["mapindex"][1] = _node(net, 3)


def _missing(net):
    _node(net, 3)["mapindex"][1] = Table(mapindex=Table())


def _no_nodes(net):
    net["forwardnodes"] = Table()


def _no_node(net):
    net["forwardnodes"][3] = "node"


def _twice(net):
    net["forwardnodes"][3] = net["forwardnodes"][4]


def _no_output(net):
    net["outnode"].fields["data"]["mapindex"] = Table()


def _no_input(net):
    del net["innode"]


def _other_start(net):
    net["innode"] = net["forwardnodes"][2]


def _huge(net):
    net["forwardnodes"] = Table.from_list([net["forwardnodes"][1]] * 1_000_000)


def _within_itself(net):
    outer = TorchObject("nn.gModule", net)
    _node(net, 3)["module"] = outer


def _select_and_module(net):
    _node(net, 3)["selectindex"] = 1


def _no_module(net):
    _node(net, 3)["module"] = 7


def _criterion(net):
    _node(net, 3)["criterion"] = TorchObject("nn.MSECriterion", Table())


ATTACKS = {
    _cycle: r"node 2 reads a node that is missing or comes later \(a cycle\?\)",
    _itself: "missing or comes later",
    _missing: "missing or comes later",
    _no_nodes: "no list of forward nodes",
    _no_node: "no node",
    _twice: "twice among the forward nodes",
    _no_output: "the graph has no output",
    _no_input: "the graph has no innode",
    _other_start: "does not begin with its input node",
    _huge: f"1000000 nodes, more than the limit of {MAX_NODES}",
    _select_and_module: "select index",
    _no_module: "expected an nn object",
    _criterion: "holds a criterion",
}


@pytest.mark.parametrize("spoil", ATTACKS, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_graph_is_one_line(spoil):
    net = graph_of("gm_chain")["net"]
    spoil(net.fields)
    with pytest.raises(T7Error, match=ATTACKS[spoil]) as caught:
        to_module(net)
    assert "\n" not in str(caught.value)


def test_a_graph_that_holds_itself_is_one_line():
    net = graph_of("gm_chain")["net"]
    _node(net.fields, 3)["module"] = net
    with pytest.raises(T7Error, match="the container holds itself"):
        to_module(net)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_show_draws_a_graph(tmp_path: Path):
    save(tmp_path / "net.t7", graph_of("gm_multi_in_out")["net"])
    assert run("show", tmp_path / "net.t7").output.splitlines() == [
        "45 parameters",
        "  nn.gModule {",
        "    (1): input",
        "    (2) <- 1: split in 2",
        "    (3) <- 2: entry 1",
        "    (4) <- 3: nn.Identity",
        "    (5) <- 4: nn.Linear(5 -> 4)   # weight 4x5, bias 4",
        "    (6) <- 2: entry 2",
        "    (7) <- 6: nn.Identity",
        "    (8) <- 7: nn.Linear(3 -> 4)   # weight 4x3, bias 4",
        "    (9) <- 5, 8: nn.CAddTable",
        "    (10) <- 9: nn.Tanh",
        "    (11) <- 9: nn.ReLU",
        "    (12) <- 11: nn.Linear(4 -> 1)   # weight 1x4, bias 1",
        "    (13) <- 10, 12: output",
        "  }",
    ]


@pytest.mark.parametrize("spoil", [_cycle, _missing, _no_nodes, _no_node, _twice, _no_module])
def test_spoilt_graphs_can_be_shown_but_not_converted(spoil, tmp_path: Path):
    net = graph_of("gm_chain")["net"]
    spoil(net.fields)
    save(tmp_path / "net.t7", net)
    assert run("show", tmp_path / "net.t7").exit_code == 0
    out = ["convert", tmp_path / "net.t7", tmp_path / "w.safetensors", "--source"]
    result = run(*out, tmp_path / "m.py")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["net.t7"]


def test_damaged_networks_open_or_are_refused(monkeypatch):
    """A short run of fuzz/torch7_graphs.py; docs/torch7-format.md has the long ones."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    fuzz = importlib.import_module("fuzz.torch7_graphs")
    done, good = fuzz.run(0, 200, 60)
    assert 0 < good <= done


def test_a_long_graph_can_be_written_copied_and_pickled():
    nodes = [GraphNode(()), *(GraphNode((i,), f"t_{i}") for i in range(1000))]
    graph = GraphModule(nodes, {f"t_{i}": nn.Tanh() for i in range(1000)}, [1000])
    module = to_module(load(save(None, from_module(nn.Sequential(graph)))))
    x = torch.ones(2)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301
        assert torch.equal(other(x), graph(x))
        assert isinstance(from_module(other), TorchObject)


def test_a_graph_with_as_many_outputs_as_nodes_keeps_what_comes_out():
    count = 2000
    nodes = [GraphNode(()), *(GraphNode((i,)) for i in range(count))]
    graph = GraphModule(nodes, {}, range(count + 1))
    assert graph(7) == [7] * (count + 1)
    assert not any(graph._done)  # nothing may be let go


def test_a_graph_too_long_to_be_read_again_is_not_written():
    nodes = [GraphNode(()), *[GraphNode((0,))] * MAX_NODES]
    with pytest.raises(T7Error, match=f"{MAX_NODES + 2} nodes, more than the limit"):
        from_module(GraphModule(nodes, {}, [1]))


def test_an_error_is_one_line_whatever_the_file_holds():
    """Found by the fuzzer: a table whose keys are characters, a newline among them."""
    with pytest.raises(T7Error, match=r"keys a, \\n, \\x1b"):
        to_module(Table({"a": 1, "\n": 2, "\x1b": 3}))
