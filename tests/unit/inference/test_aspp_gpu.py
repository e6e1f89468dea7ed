"""The pyramid's form for a GPU equals the plain one; on a CPU it has the plain convolution in it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from birefnet.inference.aspp_gpu import GpuDeformableAspp
from birefnet.modules.aspp import Aspp
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from birefnet.modules.deform_triton import available


class Bias(nn.Module):
    """What folding leaves of a norm behind a convolution without a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def make(norm: Callable[[int], nn.Module], dtype: torch.dtype = torch.float64) -> Aspp:
    """Draw a pyramid whose offsets are of about two pixels."""
    torch.manual_seed(0)
    aspp = Aspp(6, 5, deformable=True, dropout=0.1, out_channels=7, norm=norm).eval()
    for module in aspp.modules():
        if isinstance(module, ModulatedDeformConv2d):
            nn.init.normal_(module.offset_conv.weight, std=2 / module.offset_conv.weight[0].numel() ** 0.5)
            nn.init.normal_(module.offset_conv.bias, std=2)
            nn.init.normal_(module.modulation_conv.weight, std=0.1)
    return aspp.to(dtype)


def maps(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 6, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", [Bias, lambda _: nn.Identity()], ids=["folded norms", "no norms"])
@pytest.mark.parametrize("size", [(9, 13), (3, 2), (1, 1)])
def test_equals_the_plain_pyramid(norm: Callable[[int], nn.Module], size: tuple[int, int]) -> None:
    aspp = make(norm)
    form = GpuDeformableAspp(aspp)
    x = maps(size)
    with torch.inference_mode():
        expected = aspp(x)
        actual = form(x)
        torch.testing.assert_close(form(x.contiguous(memory_format=torch.channels_last)), actual, rtol=0, atol=0)
    assert expected.std() > 0.01
    assert (actual - expected).abs().max() < 1e-12 * expected.abs().max()
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_biases_of_the_convolutions_that_norms_were_folded_into() -> None:
    aspp = make(Bias)
    aspp.pool.conv.bias = nn.Parameter(torch.randn(5, dtype=torch.float64))
    aspp.project.bias = nn.Parameter(torch.randn(7, dtype=torch.float64))
    x = maps((5, 6))
    with torch.inference_mode():
        torch.testing.assert_close(GpuDeformableAspp(aspp)(x), aspp(x))


def test_all_branches_of_one_size() -> None:
    aspp = make(Bias)
    aspp.branches = nn.ModuleList([aspp.branches[2]] * 4)
    with torch.inference_mode():
        torch.testing.assert_close(GpuDeformableAspp(aspp)(maps((5, 6))), aspp(maps((5, 6))))


def test_the_network_it_is_made_of_stays_as_it_is() -> None:
    aspp = make(Bias)
    before = {name: tensor.clone() for name, tensor in aspp.state_dict().items()}
    with torch.inference_mode():
        GpuDeformableAspp(aspp)(maps((5, 6)))
    for name, tensor in aspp.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_no_value_is_waited_for_and_no_norm_is_forgotten() -> None:
    form = GpuDeformableAspp(make(Bias))
    with torch.no_grad():
        traced = make_fx(form)(maps((5, 6)))  # refuses to be asked for values, as a CUDA graph does
        other = maps((5, 6)) * -2
        torch.testing.assert_close(traced(other), form(other))
    with pytest.raises(AssertionError):
        GpuDeformableAspp(make(nn.BatchNorm2d))


@pytest.mark.skipif(not available("cuda"), reason="no GPU with triton here: the pyramid did not run on one")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float16, 2e-2)])
def test_on_a_gpu(dtype: torch.dtype, bound: float) -> None:
    aspp = make(Bias)
    expected = aspp(maps((33, 47)))
    actual = GpuDeformableAspp(aspp).to("cuda", dtype)(maps((33, 47)).to("cuda", dtype))
    assert (actual.cpu().double() - expected).abs().max() < bound * expected.abs().max()
