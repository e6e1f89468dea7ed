"""Atrous spatial pyramid pooling with deformable or dilated convolutions (Chen et al., arXiv 1706.05587)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.deform_conv import ModulatedDeformConv2d
from birefnet.modules.norm import NormBuilder

DILATIONS = (1, 6, 12, 18)
DEFORMABLE_KERNELS = (1, 1, 3, 7)


class AsppBranch(nn.Module):
    """One convolution of the pyramid with a norm and ReLU.  (B, C, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Apply the branch."""
        # Without a norm this is the convolution's own output, which the deformable one does not let be changed.
        return F.relu(self.norm(self.conv(x)), inplace=not isinstance(self.norm, nn.Identity))


class Aspp(nn.Module):
    """Parallel branches that look at different distances, and the mean of the whole map, joined by a 1x1 convolution.

    Args:
        channels: channels of the input.
        branch_channels: channels of each branch.
        deformable: use modulated deformable convolutions of size 1, 1, 3 and 7 (BiRefNet, section 3.2) instead of
            a 1x1 convolution and 3x3 ones of dilation 6, 12 and 18.
        dropout: probability of zeroing an output element in training.
        out_channels: channels of the output, those of the input by default.
        norm: builder of the normalisation.
    """

    def __init__(
        self,
        channels: int,
        branch_channels: int,
        *,
        deformable: bool,
        dropout: float,
        out_channels: int | None = None,
        norm: NormBuilder = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        convs = (
            [ModulatedDeformConv2d(channels, branch_channels, size) for size in DEFORMABLE_KERNELS]
            if deformable
            else [dilated_conv(channels, branch_channels, dilation) for dilation in DILATIONS]
        )
        self.branches = nn.ModuleList(AsppBranch(conv, norm(branch_channels)) for conv in convs)
        self.pool = AsppBranch(nn.Conv2d(channels, branch_channels, 1, bias=False), norm(branch_channels))
        self.project = nn.Conv2d((len(convs) + 1) * branch_channels, out_channels, 1, bias=False)
        self.norm = norm(out_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Look around.  (B, channels, H, W) -> (B, out_channels, H, W)."""
        pooled = self.pool(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        joined = torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1)
        attended: Tensor = self.dropout(F.relu(self.norm(self.project(joined)), inplace=True))
        return attended


def dilated_conv(in_channels: int, out_channels: int, dilation: int) -> nn.Conv2d:
    """A 3x3 convolution of this dilation, or a 1x1 one for dilation 1; size kept, no bias."""
    kernel_size = 1 if dilation == 1 else 3
    padding = 0 if dilation == 1 else dilation
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
