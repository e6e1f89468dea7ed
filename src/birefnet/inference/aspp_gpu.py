"""The inference form of the pyramid of deformable convolutions for a GPU: whole maps, and as few kernels as there are.

On a CPU `birefnet.inference.aspp` takes a strip of rows at a time, for the cache; a GPU wants all pixels at once. Two
convolutions predict offsets and modulation, one for the largest kernel and one for all others, in an order of which
every branch takes slices without a copy; the branches write side by side what the joining 1x1 convolution reads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.aspp import Aspp, AsppBranch
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from birefnet.modules.deform_triton import deform_conv2d_cuda


class GpuDeformableAspp(nn.Module):
    """Parallel deformable convolutions and the mean of the map, joined by a 1x1 convolution; equals `Aspp`.

    Nothing in it waits for the GPU, so that it can be part of a CUDA graph.

    Args:
        aspp: In evaluation mode, with deformable convolutions, and no norms but such as add a `bias` to each channel.
    """

    def __init__(self, aspp: Aspp) -> None:
        super().__init__()
        convs, norms = [], []
        for branch in aspp.branches:
            assert isinstance(branch, AsppBranch)
            assert isinstance(branch.conv, ModulatedDeformConv2d)
            convs.append(branch.conv)
            norms.append(branch.norm)
        pool, project = aspp.pool.conv, aspp.project
        assert isinstance(pool, nn.Conv2d)
        largest = max(conv.weight.shape[2] for conv in convs)
        small = [i for i, conv in enumerate(convs) if conv.weight.shape[2] < largest]
        large = [i for i in range(len(convs)) if i not in small]
        self.predictors = nn.ModuleList(_predictor([convs[i] for i in group]) for group in (small, large) if group)
        self.groups = [[convs[i].weight.shape[2] ** 2 for i in group] for group in (small, large) if group]

        order = small + large
        self.widths = [convs[i].weight.shape[0] for i in order]
        # As the Triton kernel wants them: rows of taps and input channels, so that it need not copy them at each call.
        self.kernels = nn.ParameterList(
            _frozen(convs[i].weight.detach().permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)) for i in order
        )
        self.biases = nn.ParameterList(_frozen(_bias_of(norms[i], convs[i].weight.detach())) for i in order)
        widths = [conv.weight.shape[0] for conv in convs]
        shares = project.weight.detach().flatten(1).split([*widths, pool.out_channels], dim=1)
        self.join = _frozen(torch.cat([shares[i] for i in order], dim=1).contiguous())
        self.join_bias = _frozen(_joined_bias(project, aspp.norm))
        self.pool = _frozen(pool.weight.detach().flatten(1))
        self.pool_bias = _frozen(_joined_bias(pool, aspp.pool.norm))
        self.pool_share = _frozen(shares[-1].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Look around.  (B, C, H, W) -> (B, out_channels, H, W) in channels-last memory."""
        x = x.contiguous(memory_format=torch.channels_last)
        batch, _, height, width = x.shape
        made = x.new_empty(batch, height, width, self.join.shape[1])
        branches = iter(zip(self.kernels, self.biases, made.split(self.widths, dim=3), strict=True))
        for predictor, group in zip(self.predictors, self.groups, strict=True):
            offset, modulation = predictor(x).split([2 * sum(group), sum(group)], dim=1)
            modulation.sigmoid_().mul_(2)
            shares = zip(offset.split([2 * taps for taps in group], dim=1), modulation.split(group, dim=1), strict=True)
            for offsets, factors in shares:
                kernel, bias, target = next(branches)
                output = deform_conv2d_cuda(x, offsets, factors, kernel, padding=kernel.shape[2] // 2)
                target.copy_(output.permute(0, 2, 3, 1).add_(bias).relu_())
        joined = F.linear(made, self.join)
        joined += self._bias(x)[:, None, None]
        return joined.relu_().permute(0, 3, 1, 2)

    def _bias(self, x: Tensor) -> Tensor:
        """What the mean of each map adds to its pixels, the joining convolution's bias included.  -> (B, O)."""
        mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        pooled = F.relu(F.linear(mean, self.pool, self.pool_bias))
        return F.linear(pooled, self.pool_share, self.join_bias)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _bias_of(norm: nn.Module, weight: Tensor) -> Tensor:
    """Bias of what folding left of a norm: nothing, or a bias for each output channel of a kernel."""
    state = dict(norm.state_dict())
    bias = state.pop("bias", None)
    assert not state, norm
    return weight.new_zeros(len(weight)) if bias is None else bias.flatten()


def _joined_bias(conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Bias of a convolution and what folding left of the norm behind it."""
    bias = _bias_of(norm, conv.weight.detach())
    return bias if conv.bias is None else conv.bias.detach() + bias


def _predictor(convs: list[ModulatedDeformConv2d]) -> nn.Conv2d:
    """Merge what predicts offsets and modulation: all offsets, then all modulations, smaller kernels in the middle."""
    size = max(conv.weight.shape[2] for conv in convs)
    parts = [*(conv.offset_conv for conv in convs), *(conv.modulation_conv for conv in convs)]
    channels = sum(part.out_channels for part in parts)
    merged = nn.Conv2d(parts[0].in_channels, channels, size, padding=size // 2)
    weights = [F.pad(part.weight.detach(), [(size - part.kernel_size[0]) // 2] * 4) for part in parts]
    merged.weight = _frozen(torch.cat(weights).contiguous(memory_format=torch.channels_last))
    merged.bias = _frozen(torch.cat([part.bias.detach() for part in parts if part.bias is not None]))
    return merged
