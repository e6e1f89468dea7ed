"""ResNet (He et al., CVPR 2016, arXiv 1512.03385) with bottlenecks, in the usual version 1.5.

Version 1.5 halves a map in the 3x3 convolution of a bottleneck, not in the 1x1 one before it, so no pixel is skipped
(Goyal et al. 2017, arXiv 1706.02677, section 5.1).
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid, run_stages

EXPANSION = 4
"""Channels of a bottleneck's output for each inner one."""


class Bottleneck(nn.Module):
    """Narrow by a 1x1 convolution, look around by a 3x3 one, widen by a 1x1 one, and add the input (figure 5).

    Args:
        in_channels: channels of the input.
        inner_channels: channels of the 3x3 convolution; the output has four times as many.
        stride: stride of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, inner_channels: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * inner_channels
        self.conv1 = nn.Conv2d(in_channels, inner_channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner_channels)
        self.conv2 = nn.Conv2d(inner_channels, inner_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner_channels)
        self.conv3 = nn.Conv2d(inner_channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
            if stride > 1 or in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.  (B, in_channels, H, W) -> (B, 4 * inner_channels, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class ResNet(Backbone):
    """ResNet without its classifier.

    Args:
        depths: bottlenecks per stage.
        width: channels of the stem and inner channels of the first stage; doubled by each further one.
    """

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        inner = (width, 2 * width, 4 * width, 8 * width)
        out = c1, c2, c3, c4 = tuple(EXPANSION * channels for channels in inner)
        self.channels = (c1, c2, c3, c4)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Bottleneck(in_channels, channels, stride=1 if i == 0 else 2),
                *(Bottleneck(EXPANSION * channels, channels, stride=1) for _ in range(depth - 1)),
            )
            for i, (in_channels, channels, depth) in enumerate(zip((width, *out[:3]), inner, depths, strict=True))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image.  (B, 3, H, W) -> four maps at strides 4, 8, 16, 32 (sides rounded up)."""
        return run_stages(self.stages, self.stem(image))


resnet50 = partial(ResNet, depths=(3, 4, 6, 3))
