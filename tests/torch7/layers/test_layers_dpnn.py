"""Layers of dpnn beyond the golden networks: what they draw, counted, and rules by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from eyescream_py.torch7 import T7Error, Table, from_module, to_module

from ..class_cases import modules, node, run, same


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


def test_an_inception_takes_a_picture_without_a_batch() -> None:
    x = torch.arange(12.0).reshape(3, 2, 2)
    same(run("nn.Inception", x, modules=modules(node("nn.Square"))), x**2)


def test_a_temporal_glimpse_is_a_window_in_a_sequence_with_zeros_around() -> None:
    steps = torch.arange(1.0, 6).reshape(1, 5, 1).repeat(3, 1, 1)
    places = torch.tensor([[-1.0], [0.0], [1.0]])  # the first, the middle, the last step
    windows = run("nn.TemporalGlimpse", [steps, places], size=3)
    same(windows[:, :, 0], [[0, 1, 2], [2, 3, 4], [4, 5, 0]])
    same(run("nn.TemporalGlimpse", [steps[0], places[1]], size=3)[:, 0], [2, 3, 4])


def test_a_glimpse_need_not_be_square() -> None:
    image = torch.arange(25.0).reshape(1, 1, 5, 5)
    for height, width, seen in ((3, 1, [[7], [12], [17]]), (1, 3, [[11, 12, 13]])):
        fields = {"height": height, "width": width, "depth": 1}
        same(run("nn.SpatialGlimpse", [image, torch.zeros(1, 2)], **fields), [[seen]])
    corner = [image, torch.tensor([[-1.0, 1.0]])]
    for height, width, seen in ((3, 1, [[0], [4], [9]]), (1, 3, [[3, 4, 0]])):
        fields = {"height": height, "width": width, "depth": 1}
        same(run("nn.SpatialGlimpse", corner, **fields), [[seen]])


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


@pytest.mark.parametrize(("least", "changed"), [(None, True), (0.5, True), (0.3, False)])
def test_entropy_is_raised_where_it_is_below_the_least(least: float | None, changed: bool) -> None:
    fields = {} if least is None else {"minEntropy": least}
    x = torch.tensor([[0.9, 0.1]] * 2, requires_grad=True)  # 0.325
    run("nn.CategoricalEntropy", x, **fields).sum().backward()
    assert x.grad is not None
    assert (x.grad != 1).all().item() == changed


@pytest.mark.parametrize(("scale", "change"), [(None, [[-2.0], [-3]]), (0.5, [[-2.0], [-1.5]])])
def test_centres_go_to_the_means_of_their_rows(scale: float | None, change: list[Any]) -> None:
    fields = {"k": 2, "dim": 1, "weight": torch.tensor([[0.0], [10.0]])}
    layer = to_module(node("nn.Kmeans", **fields, **({"scale": scale} if scale else {})))
    y = layer(torch.tensor([[1.0], [3.0], [13.0]]))
    same(y, [1, 1, 2])
    y.sum().backward()
    same(layer.weight.grad, change)


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


@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_likelihood_constant_that_is_not_known_is_the_first_batchs(
    of_batch: bool, bias: bool
) -> None:
    """Of the noise's likelihoods where that is the batch's, else of the targets', too."""
    fields = {**WORDS, "Z": torch.tensor([-1.0], dtype=torch.double), "batchnoise": of_batch}
    fields = {**fields, "k": 1, "bias": WORDS["bias"] if bias else None}
    module = to_module(node("nn.NCEModule", **fields), dtype=None)
    scores = (SENTENCE @ WORDS["weight"].t() + (WORDS["bias"] if bias else 0)).exp()
    noisy = module([SENTENCE, torch.tensor([1, 2])])[1]
    targets = scores[[0, 1], [0, 1]]
    seen = scores[:, 2] if of_batch else torch.cat([scores[:, 2], targets])
    same(module.Z, [3 * seen.mean()])
    same(noisy, scores[:, [2]] / module.Z)
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


@pytest.mark.parametrize("log", [False, True])
def test_in_evaluation_a_normalized_one_says_how_likely_each_word_is(log: bool) -> None:
    found = run("nn.NCEModule", [SENTENCE, None], **WORDS, normalized=True, logsoftmax=log)
    scores = SENTENCE @ WORDS["weight"].t() + WORDS["bias"]
    likely = scores.exp() / scores.exp().sum(1, keepdim=True)
    same(found, likely.log() if log else likely)
