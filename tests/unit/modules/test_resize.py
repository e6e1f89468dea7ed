"""Resizing's own gradient against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from birefnet.modules.resize import resize


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 5, 7, 9), (14, 3)),
        ((1, 1, 4, 4), (9, 9)),
        ((3, 1, 6, 5), (2, 11)),
        ((2, 3, 1, 1), (4, 5)),
        ((2, 3, 6, 6), (1, 2)),
        ((2, 4, 5, 1), (5, 3)),
    ],
)
def test_the_gradient_is_that_of_bilinear_interpolation(
    shape: tuple[int, int, int, int], size: tuple[int, int], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    resized = resize(x, size)
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    assert torch.equal(resized, expected)
    for upstream in (torch.randn_like(resized), torch.ones(1, dtype=torch.float64).expand_as(resized)):
        (gradient,) = torch.autograd.grad(resized, x, upstream, retain_graph=True)
        (reference,) = torch.autograd.grad(expected, x, upstream, retain_graph=True)
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


def test_half_precision_keeps_its_type_and_the_gradient_close() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12, 10).contiguous(memory_format=torch.channels_last).requires_grad_()
    halved = x.detach().bfloat16().requires_grad_()
    upstream = torch.randn(2, 8, 24, 20)
    (exact,) = torch.autograd.grad(resize(x, (24, 20)), x, upstream)
    (coarse,) = torch.autograd.grad(resize(halved, (24, 20)), halved, upstream.bfloat16())
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), exact, rtol=0.02, atol=0.05)


def test_nothing_is_done_where_the_size_is_right() -> None:
    x = torch.randn(1, 2, 3, 4, requires_grad=True)
    assert resize(x, (3, 4)) is x
