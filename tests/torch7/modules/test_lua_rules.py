"""Rules of Lua's nn that no golden network shows: numbers worked out by hand from its Lua files."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyescream_py.torch7 import T7Error, from_module, to_module

from ..class_cases import modules, node, run, same, sequential, storage, tables


def test_the_slope_of_abs_at_zero_is_one() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    run("nn.Abs", x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1, 1, 1]


def test_average_pooling_that_does_not_divide_is_the_mean_times_the_whole_window() -> None:
    x = torch.arange(1.0, 10).reshape(1, 3, 3)
    pool = {"kW": 2, "kH": 2, "dW": 2, "dH": 2, "ceil_mode": True, "divide": False}
    # windows of 4, 2, 2 and 1 pixels: means 3, 4.5, 7.5, 9
    same(run("nn.SpatialAveragePooling", x, **pool), [[[12, 18], [30, 36]]])
    module = to_module(node("nn.SpatialAveragePooling", **pool))
    assert from_module(module, as_read=False).fields["divide"] is False
    with pytest.raises(T7Error, match="divisor_override"):
        from_module(nn.AvgPool2d(2, ceil_mode=True, divisor_override=1))


def test_transpose_counts_from_after_the_batch_where_it_knows_of_one() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    swap = {"permutations": tables((1, 2)), "numInputDims": 2}
    same(run("nn.Transpose", x, **swap), x.transpose(1, 2))
    same(run("nn.Transpose", x[0], **swap), x[0].t())
    same(run("nn.Transpose", x[None], **swap), x[None].transpose(2, 3))
    written = from_module(to_module(node("nn.Transpose", **swap)), as_read=False)
    assert written.fields["numInputDims"] == 2


def test_squeeze_keeps_a_batch_of_one() -> None:
    assert run("nn.Squeeze", torch.ones(1, 1, 1), numInputDims=2).shape == (1, 1)
    assert run("nn.Squeeze", torch.ones(1, 1, 3, 1), numInputDims=3).shape == (1, 3)
    assert run("nn.Squeeze", torch.ones(2, 1, 3, 1), numInputDims=3).shape == (2, 3)
    assert run("nn.Squeeze", torch.ones(1, 1)).shape == (1,)


def test_cmul_of_as_many_elements_goes_by_elements() -> None:
    weight = torch.arange(1.0, 7).reshape(1, 2, 3)
    y = run("nn.CMul", torch.ones(2, 1, 3), weight=weight, size=storage(1, 2, 3))
    same(y, weight.reshape(2, 1, 3))
    one = run("nn.CMul", torch.ones(2, 3), weight=torch.tensor([2.0]), size=storage(1))
    same(one, torch.full((2, 3), 2.0))


def test_a_negative_length_takes_no_entry_of_a_table() -> None:
    assert run("nn.NarrowTable", [torch.ones(1), torch.ones(2)], offset=1, length=-1) == []


@pytest.mark.parametrize("dim", [None, 2])
def test_a_mixture_takes_experts_as_list_or_tensor(dim: int | None) -> None:
    gates = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    experts = torch.tensor([[[4.0, 8.0], [8.0, 16.0]], [[1.0, 2.0], [3.0, 4.0]]])
    fields = {} if dim is None else {"dim": dim}
    for given in (experts, list(experts.unbind(1))):
        same(run("nn.MixtureTable", [gates, given], **fields), [[7, 14], [1, 2]])


def test_a_mixture_without_a_batch() -> None:
    gates, experts = torch.tensor([0.5, 0.5]), torch.tensor([[2.0, 4.0], [4.0, 8.0]])
    same(run("nn.MixtureTable", [gates, experts]), [3, 6])
    same(run("nn.MixtureTable", [gates, list(experts)]), [3, 6])


def test_children_without_an_input_and_inputs_without_a_child() -> None:
    two = modules(node("nn.Identity"), node("nn.Square"))
    first, second = run("nn.ParallelTable", [torch.ones(1), torch.full((1,), 3.0), 0], modules=two)
    assert (first.item(), second.item()) == (1, 9)
    sides = {"inputDimension": 1, "outputDimension": 1}
    same(run("nn.Parallel", torch.full((1, 2), 3.0), modules=two, **sides), [3, 3])
    with pytest.raises(ValueError, match="got 3 slices"):
        run("nn.Parallel", torch.ones(3, 2), modules=two, **sides)


def test_local_response_normalization_of_even_size_is_refused() -> None:
    with pytest.raises(T7Error, match="odd size only, not 4"):
        to_module(node("nn.SpatialCrossMapLRN", size=4))
    with pytest.raises(T7Error, match="odd size, not 4"):
        from_module(nn.LocalResponseNorm(4))


def test_weight_norm_around_a_layer_with_a_flat_weight() -> None:
    inner = {"nInputPlane": 2, "nOutputPlane": 1, "kW": 2, "kH": 2}
    layer = node("nn.SpatialConvolutionMM", **inner, bias=torch.zeros(1))
    v = torch.ones(1, 8)
    fields = {"viewIn": storage(1, 8), "viewOut": storage(1, 8), "outputDim": 1, "g": v[:, :1]}
    y = run("nn.WeightNorm", torch.ones(1, 2, 2, 2), modules=modules(layer), v=v, **fields)
    same(y, [[[[8 / (8 + 1e-4) ** 0.5]]]])


def test_a_smallest_norm_beyond_floats_is_written() -> None:
    weights = {"v": torch.ones(2, 3), "g": torch.ones(2, 1), "weight": torch.ones(2, 3)}
    module = to_module(node("nn.LinearWeightNorm", **weights, eps=1e300))
    assert from_module(module, as_read=False).fields["eps"] == 1e300


def test_what_torch_refuses_to_write_is_a_t7error() -> None:
    module = nn.BatchNorm1d(2)
    module.running_mean = module.running_mean.to_sparse()
    with pytest.raises(T7Error, match="BatchNorm1d: torch refuses to write the layer"):
        from_module(module)


# The root 5 has the children 1 and 2; 1 has the children 3 and 4.
TREE = {
    "childParent": torch.tensor([[5, 1], [5, 2], [1, 1], [1, 2], [-1, -1]], dtype=torch.int32),
    "parentChildren": torch.tensor([[1, 2], *[[-1, -1]] * 3, [3, 2]], dtype=torch.int32),
    "rootId": 5,
    "weight": torch.tensor([[1.0], [2.0], [3.0], [5.0]]),
    "bias": torch.zeros(4),
}


def test_a_soft_max_tree_is_the_product_of_choices_on_the_way_to_the_leaf() -> None:
    tree = to_module(node("nn.SoftMaxTree", **TREE))
    likelihood = tree([torch.ones(3, 1), torch.tensor([2, 3, 4])])
    first, second = torch.tensor([3.0, 5.0]).softmax(0), torch.tensor([1.0, 2.0]).softmax(0)
    same(likelihood.exp(), torch.stack([first[1], first[0] * second[0], first[0] * second[1]]))
    assert likelihood.exp().sum().item() == pytest.approx(1)  # of all leaves
    with pytest.raises(ValueError, match="no leaf 9"):
        tree([torch.ones(1, 1), torch.tensor([9])])


@pytest.mark.parametrize("field", ["module", "modules"])
def test_a_forest_mixes_its_trees(field: str) -> None:
    other = {**TREE, "weight": torch.tensor([[2.0], [0.0], [-1.0], [4.0]])}
    trees = [node("nn.SoftMaxTree", **fields) for fields in (TREE, other)]
    gates = {"weight": torch.tensor([[1.0], [-2.0]]), "bias": torch.tensor([0.5, 0.0])}
    chosen = node("nn.SelectTable", index=1), node("nn.Linear", **gates), node("nn.SoftMax")
    gater, experts = sequential(*chosen), node("nn.ConcatTable", modules=modules(*trees))
    trunk = node("nn.ConcatTable", modules=modules(gater, experts))
    inner = sequential(trunk, node("nn.MixtureTable"))
    fields = {"module": {"module": inner}, "modules": {"modules": modules(inner)}}[field]
    x, leaves = torch.tensor([[1.0], [0.5], [-1.0]]), torch.tensor([2, 3, 4])
    share = (x.numpy() @ np.array([[1.0, -2.0]]) + np.array([0.5, 0.0])) @ np.array([1, -1])
    share = 1 / (1 + np.exp(-share))
    first, second = (to_module(tree)([x, leaves]).detach().numpy() for tree in trees)
    forest = to_module(node("nn.SoftMaxForest", **fields))
    same(forest([x, leaves]).detach(), share * first + (1 - share) * second)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.ones(3, 1)},
        {"childParent": torch.tensor([[5, 1], [5, 2], [1, 3], [9, 2]])},
        {"childParent": torch.tensor([[5, 1], [5, 3], [1, 1], [1, 2]])},
        {"parentChildren": torch.tensor([[9, 2]] * 5)},
        {"childParent": torch.zeros(0)},
        {"rootId": "5"},
    ],
)
def test_a_spoilt_tree_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(T7Error, match="SoftMaxTree: "):
        to_module(node("nn.SoftMaxTree", **{**TREE, **change}))


def test_a_tree_in_circles_ends() -> None:
    circle = {"childParent": torch.tensor([[1, 1], [1, 2], [1, 1], [1, 2]]), "rootId": 5}
    tree = to_module(node("nn.SoftMaxTree", **{**TREE, **circle}))
    with pytest.raises(ValueError, match="root is not 5"):
        tree([torch.ones(1, 1), torch.tensor([3])])


def test_a_conversion_of_any_dimensions_changes_the_type_alone() -> None:
    fields = {"inputShape": "b*", "outputShape": "b*", "nInputDim": -1, "nOutputDim": -1}
    layer = to_module(node("nn.Convert", **fields, _type="torch.DoubleTensor"), dtype=None)
    for x in (torch.arange(3), torch.arange(8).reshape(2, 2, 2)):
        y = layer(x)
        assert (y.dtype, y.tolist()) == (torch.float64, x.tolist())
    written = from_module(layer, as_read=False).fields
    assert {name: written[name] for name in fields} == fields


def test_layers_that_norm_or_gate_go_by_the_last_dimension_whatever_the_others() -> None:
    x = torch.tensor([3.0, -4.0])
    for p, norm in ((2, 5.0), (1, 7.0), (float("inf"), 4.0)):
        same(run("nn.Normalize", x, p=p), x / norm)
        same(run("nn.Normalize", x[None], p=p), x[None] / norm)
    deep = torch.zeros(1, 2, 4) + torch.tensor([1.0, 2.0, 0.0, 0.0])
    same(run("nn.GatedLinearUnit", deep), [[[0.5, 1], [0.5, 1]]])


@pytest.mark.parametrize(
    ("name", "shape"), [("", (2,)), ("Spatial", (2, 3, 1)), ("Volumetric", (2, 1, 3, 1))]
)
def test_batch_normalization_of_one_sample_in_evaluation(name: str, shape: tuple[int, ...]) -> None:
    """Lua's makeBatch gives the input a first dimension of one, and the output has it too."""
    fields = {"running_mean": torch.ones(2), "running_var": torch.full((2,), 4.0), "eps": 0}
    layer = to_module(node(f"nn.{name}BatchNormalization", **fields, affine=False)).eval()
    same(layer(torch.full(shape, 7.0)), torch.full((1, *shape), 3.0))
    with pytest.raises(ValueError, match=r"expected|dimension"):
        layer.train()(torch.full(shape, 7.0))


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1, 1), (1, 2, 1, 1, 1)])
def test_one_number_for_each_feature_is_normalized_as_in_evaluation(shape: tuple[int, ...]) -> None:
    name = {2: "", 4: "Spatial", 5: "Volumetric"}[len(shape)]
    statistics = {"running_mean": torch.ones(2), "running_var": torch.tensor([4.0, 9])}
    weights = {"weight": torch.tensor([2.0, 3]), "bias": torch.tensor([0.0, 1])}
    layer = to_module(node(f"nn.{name}BatchNormalization", **statistics, **weights, eps=0))
    x = torch.full(shape, 7.0, requires_grad=True)
    y = layer.train()(x)
    same(y, torch.tensor([6.0, 7]).reshape(shape))
    y.sum().backward()
    assert x.grad is not None
    same(x.grad, torch.ones(shape))
    assert layer.running_mean.tolist() == [1, 1]
    assert layer.running_var.tolist() == [4, 9]
    more = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(1))
    same(layer(more).mean(0).reshape(-1), [0, 1])
    assert layer.running_mean.tolist() != [1, 1]


@pytest.mark.parametrize("affine", [False, True])
def test_without_eps_a_plane_of_one_value_becomes_the_bias(affine: bool) -> None:
    statistics = {"running_mean": torch.zeros(2), "running_var": torch.ones(2), "momentum": 0.25}
    weights = {"weight": torch.tensor([2.0, 3]), "bias": torch.tensor([5.0, 1])} if affine else {}
    layer = to_module(node("nn.BatchNormalization", **statistics, **weights, eps=0, affine=affine))
    x = torch.tensor([[4.0, 1], [4, 3], [4, 8]], requires_grad=True)
    y = layer(x)
    steps = (x[:, 1].detach() - 4) / (26 / 3) ** 0.5
    expected = [torch.full((3,), 5.0), 3 * steps + 1] if affine else [0 * steps, steps]
    same(y, torch.stack(expected, 1))
    y[0].sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0, 0, 0]
    slope = (1 - 1 / 3 - steps[0] * steps / 3) - torch.tensor([0.0, 1, 1])
    slope = slope / (26 / 3) ** 0.5 * (3 if affine else 1)
    same(x.grad[:, 1], slope)
    same(layer.running_mean, [1, 1])
    same(layer.running_var, [0.75, 0.75 + 13 / 4])


def test_slopes_of_three_dimensions_are_of_the_features_that_fit() -> None:
    fields = {"weight": torch.tensor([0.5, 0.25]), "nOutputPlane": 2}
    minus = -torch.ones(3, 2, 4)
    same(run("nn.PReLU", minus, **fields)[:, :, 0], [[-0.5, -0.25]] * 3)  # (N,F,L)
    same(run("nn.PReLU", minus.transpose(0, 1), **fields)[:, :, 0], [[-0.5] * 3, [-0.25] * 3])
    same(run("nn.PReLU", -torch.ones(2, 2, 1), **fields)[:, :, 0], [[-0.5, -0.25]] * 2)
    same(run("nn.PReLU", -torch.ones(1, 2, 1, 1, 1), **fields).reshape(-1), [-0.5, -0.25])


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_slopes_of_rows_of_norm_one_are_those_of_the_formula(p: float) -> None:
    x = torch.tensor([[3.0, -4.0, 0.5]], dtype=torch.double, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, -1.0], dtype=torch.double)
    found = torch.autograd.grad((run("nn.Normalize", x, p=p) * weights).sum(), x)[0]
    expected = torch.autograd.grad((x / x.abs().pow(p).sum() ** (1 / p) * weights).sum(), x)[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_values_of_an_index_linear_are_shares_of_the_largest_seen_while_training() -> None:
    weight = torch.tensor([[2.0, 0.5, 1.0, 10.0, 3.0], [4.0, 0.25, 1.0, 0.0, 5.0]])
    fields = {"weight": weight, "bias": torch.tensor([1.0]), "normalize": 4}
    layer = to_module(node("nn.IndexLinear", **fields)).eval()
    keys, values = torch.tensor([1, 2]), torch.tensor([1.0, -8.0])
    same(layer([keys, values]), [1 + 3 * (0.5 + 10) - 5])  # beyond the largest: its sign
    same(layer.weight, weight)
    same(layer.train()([keys, values]), [1 + 3 * (0.5 + 10) - 5])
    assert layer.weight[:, :2].tolist() == [[2, 0.5], [8, 0.125]]
    same(layer([keys, values / 2]), [1 + 3 * (0.25 + 10) - 2.5])


def test_padding_counts_dimensions_from_the_end() -> None:
    padded = run("nn.Padding", torch.ones(2, 2), dim=-1, pad=1, value=7)
    same(padded, [[1, 1, 7], [1, 1, 7]])


def test_a_constant_is_repeated_for_each_sample_of_a_batch_only() -> None:
    fields = {"value": torch.tensor([1.0, 2.0]), "nInputDim": 2}
    same(run("nn.Constant", torch.ones(3, 1, 1), **fields), [[1, 2]] * 3)
    same(run("nn.Constant", torch.ones(3, 1), **fields), [1, 2])


def test_a_constant_of_as_many_elements_is_added_by_elements() -> None:
    constant = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    same(run("nn.AddConstant", torch.ones(4), constant_scalar=constant), [2, 3, 4, 5])


def test_the_padding_row_of_a_table_with_a_largest_norm_has_no_gradient() -> None:
    fields = {"weight": torch.ones(3, 1), "maxNorm": 9, "paddingValue": 1}
    table = to_module(node("nn.LookupTable", **fields))
    table(torch.tensor([1, 2])).sum().backward()
    assert table.weight.grad.tolist() == [[0], [1], [0]]


def test_gram_matrices_of_both_style_programs() -> None:
    x = torch.arange(4.0).reshape(2, 1, 2)
    same(run("nn.GramMatrix", x), [[1, 3], [3, 13]])
    same(run("nn.GramMatrix", x[None], normalize=True), [[[0.25, 0.75], [0.75, 3.25]]])


def test_a_depth_wise_convolution_without_a_bias() -> None:
    weight = torch.arange(1.0, 5).reshape(2, 2, 1, 1)  # (multiplier, planes, 1, 1)
    sizes = {"nInputPlane": 2, "nOutputPlane": 2, "kW": 1, "kH": 1}
    x = torch.tensor([[[1.0]], [[10.0]]])
    same(run("nn.SpatialDepthWiseConvolution", x, weight=weight, **sizes).flatten(), [1, 3, 20, 40])
