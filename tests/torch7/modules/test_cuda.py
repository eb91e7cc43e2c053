"""The same networks on a CUDA device, and stochastic layers inside a captured graph."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from eyescream_py.system.recording import recorded
from eyescream_py.torch7 import from_module, load, to_module
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout, WhiteNoise

GOLDEN = Path(__file__).parents[2] / "golden"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_network_computes_on_cuda_what_it_does_on_the_cpu() -> None:
    obj = load(GOLDEN / "adversarial_mini.net")["D"]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    cpu, cuda = to_module(obj).eval(), to_module(obj).eval().cuda()
    torch.testing.assert_close(cuda(x.cuda()).cpu(), cpu(x), rtol=1e-3, atol=1e-3)  # TF32
    cuda.train()(x.cuda()).sum().backward()
    assert all(p.grad is not None for p in cuda.parameters())
    written = from_module(cuda)
    assert written.fields["modules"][1].fields["output"].device.type == "cpu"
    again = to_module(written).eval()
    torch.testing.assert_close(again(x), cpu(x), rtol=0, atol=0)


@pytest.mark.parametrize("layer", [Dropout(0.5), SpatialDropout(0.5), WhiteNoise(0.0, 1.0)])
def test_a_captured_graph_draws_anew_at_every_replay(layer: nn.Module) -> None:
    x = torch.ones(8, 64, 2, 2, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        layer(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph, y = recorded(lambda: layer(x), stream, "a layer", "")
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn.append(y.clone())
    assert not any(torch.equal(*pair) for pair in itertools.combinations(drawn, 2))
