"""A small ResNet of basic blocks (He et al., CVPR 2016, arXiv 1512.03385), for networks that are trained from scratch.

It has nothing but regular convolutions, which train faster on CPUs, above all in bfloat16, than depthwise ones, which
are bound by memory. Whether it also learns more from each photo was not compared. Shortcuts shrink by a mean of 2 x 2
pixels before their 1x1 convolution, so that none is skipped (He et al., CVPR 2019, arXiv 1812.01187, ResNet-D).
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid, run_stages


class Halved(nn.Module):
    """Means of 2 x 2 pixels, of fewer at the end of an odd side.  (B, C, H, W) -> (B, C, H / 2, W / 2), rounded up.

    What `ceil_mode` does, of which OpenVINO makes nothing at all where the map is a single pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Halve a map; of an even side the last, repeated pixel is not looked at."""
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input added (figure 5 of ResNet).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution, 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        layers: list[nn.Module] = []
        if stride == 2:
            layers.append(Halved())
        if stride > 1 or in_channels != out_channels:
            layers += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.shortcut = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.  (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class MiniResNet(Backbone):
    """A 3x3 convolution of stride 2, then four stages of basic blocks that halve the map each.

    Args:
        widths: channels at strides 4, 8, 16 and 32; the stem has those at stride 4.
        depths: blocks per stage.
    """

    def __init__(self, widths: tuple[int, int, int, int], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.channels = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                BasicBlock(before, width, stride=2), *(BasicBlock(width, width, stride=1) for _ in range(depth - 1))
            )
            for before, width, depth in zip((widths[0], *widths), widths, depths, strict=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image.  (B, 3, H, W) -> four maps at strides 4, 8, 16, 32 (sides rounded up)."""
        return run_stages(self.stages, self.stem(image))


resnet_mini = partial(MiniResNet, widths=(32, 64, 128, 160), depths=(1, 2, 2, 2))
