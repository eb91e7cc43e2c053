"""Rules of Lua's nn that no golden network shows: numbers worked out by hand from its Lua files."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import T7Error, Table, from_module, to_module

from .class_cases import modules, node, storage, tables


def run(name: str, x: Any, **fields: Any) -> Any:
    return to_module(node(name, **fields), dtype=None).eval()(x)


def same(got: Tensor, expected: Any) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype))


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


def test_reinforce_layers_in_evaluation() -> None:
    mean, spread = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5])
    same(run("nn.ReinforceNormal", [mean, spread]), mean)
    same(run("nn.ReinforceGamma", mean, scale=3), [3, 6])
    same(run("nn.ReinforceGamma", [mean, spread]), [0.5, 1])
    with pytest.raises(ValueError, match="without a scale"):
        run("nn.ReinforceGamma", mean)
    torch.manual_seed(0)
    drawn = run("nn.ReinforceGamma", torch.full((4000,), 5.0), scale=2, stochastic=True)
    assert abs(drawn.mean().item() - 10) < 0.3  # shape * scale
    assert abs(drawn.var().item() - 20) < 2  # shape * scale^2


def test_reinforce_layers_are_written_as_they_were_read() -> None:
    for name, fields in (
        ("nn.ReinforceGamma", {"scale": 2.5, "stochastic": True}),
        ("nn.ReinforceNormal", {"stdev": torch.ones(3), "stochastic": False}),
        ("nn.ReinforceNormal", {"stochastic": False}),
    ):
        written = from_module(to_module(node(name, **fields)), as_read=False)
        kept = Table({k: v for k, v in written.fields.items() if k in ("scale", "stdev")})
        assert written.typename == name
        assert {k: torch.as_tensor(v).tolist() for k, v in kept.items()} == {
            k: torch.as_tensor(v).tolist() for k, v in fields.items() if k != "stochastic"
        }
        assert written.fields["stochastic"] is fields["stochastic"]


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
    y = layer(torch.arange(3))
    assert (y.dtype, y.tolist()) == (torch.float64, [0, 1, 2])
    written = from_module(layer, as_read=False).fields
    assert {name: written[name] for name in fields} == fields


def test_a_temporal_glimpse_is_a_window_in_a_sequence_with_zeros_around() -> None:
    steps = torch.arange(1.0, 6).reshape(1, 5, 1).repeat(3, 1, 1)
    places = torch.tensor([[-1.0], [0.0], [1.0]])  # the first, the middle, the last step
    windows = run("nn.TemporalGlimpse", [steps, places], size=3)
    same(windows[:, :, 0], [[0, 1, 2], [2, 3, 4], [4, 5, 0]])
    same(run("nn.TemporalGlimpse", [steps[0], places[1]], size=3)[:, 0], [2, 3, 4])


def test_a_glimpse_of_another_scale_than_two_shrinks_bilinearly() -> None:
    image = torch.arange(36.0).reshape(1, 1, 6, 6)
    fields = {"height": 2, "width": 2, "depth": 2, "scale": 3}
    y = run("nn.SpatialGlimpse", [image, torch.zeros(1, 2)], **fields)
    # the window of 6x6 begins at 2 of the image with 2 zeros around: all of it; corners aligned
    same(y[0, 1], [[0, 5], [30, 35]])
    same(run("nn.SpatialGlimpse", [image[0], torch.zeros(2)], **fields), y[0])


def test_total_dropout_scales_nothing_and_colour_noise_has_columns_as_components() -> None:
    layer = to_module(node("nn.TotalDropout", p=0.5)).train()
    assert {layer(torch.ones(1)).item() for _ in range(30)} == {0, 1}
    tensors = {"eigenVectors": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    fields = {"inputChannels": 2, "eigenValues": torch.tensor([1.0, 0.0]), "std": 1.0}
    noise = to_module(node("nn.PCAColorTransform", **tensors, **fields))(torch.zeros(2, 1, 1))
    assert noise[1].item() == pytest.approx(3 * noise[0].item(), rel=1e-5)  # the first column


def test_region_dropout_takes_rows_or_columns_of_any_of_the_four_sides() -> None:
    torch.manual_seed(0)
    layer, x = to_module(node("nn.SpatialRegionDropout", p=0.4)).train(), torch.ones(2, 5, 4)
    found = {tuple(layer(x)[1].mul(0.6).round().int().flatten().tolist()) for _ in range(60)}
    expected = [torch.ones(5, 4, dtype=torch.int) for _ in range(4)]
    expected[0][:2], expected[1][3:], expected[2][:, :1], expected[3][:, 3:] = 0, 0, 0, 0
    assert found == {tuple(mask.flatten().tolist()) for mask in expected}
    assert layer(x).max().item() == pytest.approx(1 / 0.6)


def test_a_crop_while_training_lies_anywhere_for_each_picture_by_itself() -> None:
    """But for the last row and column, as Lua draws."""
    torch.manual_seed(0)
    layer = to_module(node("nn.SpatialUniformCrop", oheight=3, owidth=2)).train()
    x = torch.arange(20.0).reshape(1, 4, 5).repeat(2, 1, 1, 1)
    crops = torch.stack([layer(x) for _ in range(40)])
    places = crops[..., 0, 0]
    assert set(places.flatten().tolist()) == {0, 1, 2}  # one row, three columns
    assert not torch.equal(places[:, 0], places[:, 1])
    same(crops, places[..., None, None] + torch.tensor([[0, 1], [5, 6], [10, 11.0]]))
    assert layer(x[0]).shape == (1, 3, 2)
    assert run("nn.SpatialUniformCrop", x[0], oheight=3, owidth=2)[0, 0, 0] == 1  # ceil(3 / 2)
    same(layer(x[..., :3, :2]), x[..., :3, :2])


def drawn(name: str, x: Any, **fields: Any) -> Tensor:
    """The output while training, or of a layer that draws in evaluation, too."""
    torch.manual_seed(0)
    layer = to_module(node(name, **fields), dtype=None).train(not fields.get("stochastic"))
    y: Tensor = layer(x)
    assert not y.requires_grad
    return y


@pytest.mark.parametrize("stochastic", [False, True])
def test_reinforce_layers_draw(stochastic: bool) -> None:
    always = {"stochastic": stochastic}
    mean = torch.full((4000, 1), 3.0, requires_grad=True)
    for y in (
        drawn("nn.ReinforceNormal", mean, stdev=0.5, **always),
        drawn("nn.ReinforceNormal", [mean, torch.tensor(0.5)], **always),
    ):
        assert (y.mean().item(), y.std().item()) == pytest.approx((3, 0.5), rel=0.03)
    p = torch.tensor([0.2, 0.5, 0.3]).expand(4000, 3)
    y = drawn("nn.ReinforceBernoulli", p, **always)
    assert set(y.unique().tolist()) == {0, 1}
    assert y.mean(0).tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    y = drawn("nn.ReinforceCategorical", p, **always)
    assert set(y.sum(1).tolist()) == {1}
    assert y.mean(0).tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    for name in ("nn.ReinforceBernoulli", "nn.ReinforceCategorical"):
        assert run(name, p) is p


def test_colour_noise_is_one_number_for_all_pixels_of_a_plane() -> None:
    spread = torch.tensor([0.5, 2.0])
    fields = {"inputChannels": 2, "range": spread}
    noise = drawn("nn.SimpleColorTransform", torch.ones(2000, 2, 2, 1), **fields) - 1
    assert torch.equal(noise[..., 0, :], noise[..., 1, :])
    share = noise[:, :, 0, 0] / spread
    assert (share.min().item(), share.max().item()) == pytest.approx((-1, 1), abs=0.01)
    assert share.mean(0).tolist() == pytest.approx([0, 0], abs=0.05)
    fields = {"inputChannels": 2, "eigenVectors": torch.eye(2), "eigenValues": spread, "std": 3.0}
    noise = drawn("nn.PCAColorTransform", torch.ones(4000, 2, 2, 1), **fields) - 1
    assert noise.std(0)[:, 0, 0].tolist() == pytest.approx([1.5, 6], rel=0.05)
    x = torch.ones(2, 2, 1)
    assert run("nn.PCAColorTransform", x, **fields) is x


def test_layers_that_norm_or_gate_go_by_the_last_dimension_whatever_the_others() -> None:
    x = torch.tensor([3.0, -4.0])
    for p, norm in ((2, 5.0), (1, 7.0), (float("inf"), 4.0)):
        same(run("nn.Normalize", x, p=p), x / norm)
        same(run("nn.Normalize", x[None], p=p), x[None] / norm)
    deep = torch.zeros(1, 2, 4) + torch.tensor([1.0, 2.0, 0.0, 0.0])
    same(run("nn.GatedLinearUnit", deep), [[[0.5, 1], [0.5, 1]]])


def test_padding_counts_dimensions_from_the_end() -> None:
    padded = run("nn.Padding", torch.ones(2, 2), dim=-1, pad=1, value=7)
    same(padded, [[1, 1, 7], [1, 1, 7]])


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


WORDS = {
    "weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.double),
    "bias": torch.tensor([0.1, -0.2, 0.3], dtype=torch.double),
    "unigrams": torch.tensor([0.0, 0.0, 1.0], dtype=torch.double),  # noise is the third word
    "k": 2,
}
SENTENCE = torch.tensor([[0.3, -0.4], [1.0, 0.2]], dtype=torch.double)


@pytest.mark.parametrize("fields", [{"batchnoise": True}, {"batchnoise": False}, {}])
def test_noise_contrastive_likelihoods_while_training(fields: dict[str, Any]) -> None:
    words = node("nn.NCEModule", **WORDS, **fields, Z=torch.tensor([4.0], dtype=torch.double))
    module = to_module(words, dtype=None)
    x, target = SENTENCE.clone().requires_grad_(), torch.tensor([1, 2])
    likely, noisy, of_target, of_noise = module([x, target])
    scores = (x @ WORDS["weight"].t() + WORDS["bias"]).exp() / 4
    same(likely, scores[[0, 1], [0, 1]])
    same(noisy, scores[:, [2, 2]])
    same(of_target, [0, 0])
    same(of_noise, [[1, 1], [1, 1]])
    (likely.sum() + noisy.sum()).backward()
    slope = torch.autograd.grad(scores[[0, 1], [0, 1]].sum() + 2 * scores[:, 2].sum(), x)[0]
    torch.testing.assert_close(x.grad, slope)
    assert module.weight.grad.abs().sum(1).gt(0).all()
    assert isinstance(module.eval()([x, target]), list)  # it is not normalized


def test_a_likelihood_constant_that_is_not_known_is_the_first_batchs() -> None:
    unknown = {"Z": torch.tensor([-1.0], dtype=torch.double), "batchnoise": True}
    module = to_module(node("nn.NCEModule", **WORDS, **unknown), dtype=None)
    scores = (SENTENCE @ WORDS["weight"].t() + WORDS["bias"]).exp()
    noisy = module([SENTENCE, torch.tensor([1, 2])])[1]
    same(module.Z, [3 * scores[:, 2].mean()])
    same(noisy, scores[:, [2, 2]] / module.Z)
    assert from_module(module).fields["Z"].tolist() == module.Z.tolist()


def test_noise_is_drawn_by_the_unigrams() -> None:
    torch.manual_seed(0)
    fields = {**WORDS, "k": 6000, "unigrams": torch.tensor([0.2, 0.5, 0.3]).double()}
    module = to_module(node("nn.NCEModule", **fields, batchnoise=True), dtype=None)
    drawn = module([SENTENCE, torch.tensor([1, 2])])[3]
    shares = [(drawn[0] == p).double().mean().item() for p in fields["unigrams"]]
    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    assert torch.equal(drawn[0], drawn[1])  # one draw for the batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unigrams": None}, "unigrams is missing"),
        ({"unigrams": torch.tensor([0.5, 0.5])}, "unigrams has shape"),
        ({"unigrams": torch.tensor([1.0, -1.0, 1.0])}, "no likelihoods"),
        ({"unigrams": torch.zeros(3)}, "no likelihoods"),
        ({"weight": torch.ones(3)}, "weight has shape"),
    ],
)
def test_noise_without_likelihoods_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(T7Error, match=f"NCEModule: .*{message}"):
        to_module(node("nn.NCEModule", **{**WORDS, **change}))
    normalized = {**WORDS, "unigrams": None, "normalized": True}
    module = to_module(node("nn.NCEModule", **normalized), dtype=None)
    with pytest.raises(ValueError, match="no unigrams"):
        module([SENTENCE, torch.tensor([1, 2])])
