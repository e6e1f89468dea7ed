"""MobileNetV4 (Qin et al., ECCV 2024, arXiv 2404.10518): universal inverted bottlenecks for every processor.

The small convolutional variant spends regular convolutions at high resolution, where depthwise ones are bound by
memory, and depthwise ones where the maps are small. It trains from scratch and exports everywhere.
"""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid, run_stages


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, if `act`, a ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UniversalInvertedBottleneck(nn.Module):
    """Expand and project by 1x1 convolutions, with optional depthwise ones before and between (figure 4).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        start_kernel: size of the depthwise convolution before the expansion, 0 for none.
        middle_kernel: size of the depthwise convolution after the expansion, 0 for none.
        stride: stride of the block, taken by its last depthwise convolution.
        expansion: ratio of the inner width to `in_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        start_kernel: int,
        middle_kernel: int,
        stride: int,
        expansion: int,
    ) -> None:
        super().__init__()
        hidden = expansion * in_channels
        layers: list[nn.Module] = []
        if start_kernel:
            start_stride = 1 if middle_kernel else stride
            layers.append(
                conv_norm(in_channels, in_channels, start_kernel, stride=start_stride, groups=in_channels, act=False)
            )
        layers.append(conv_norm(in_channels, hidden, 1))
        if middle_kernel:
            layers.append(conv_norm(hidden, hidden, middle_kernel, stride=stride, groups=hidden))
        layers.append(conv_norm(hidden, out_channels, 1, act=False))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.  (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Block(NamedTuple):
    """One inverted bottleneck of the table below."""

    start_kernel: int
    middle_kernel: int
    expansion: int


# Table 11 of the paper, MNv4-Conv-S; the first block of each stage halves the map.
SMALL_STRIDE_16 = (Block(5, 5, 3), *[Block(0, 3, 2)] * 4, Block(3, 0, 4))
SMALL_STRIDE_32 = (
    Block(3, 3, 6),
    Block(5, 5, 4),
    Block(0, 5, 4),
    Block(0, 5, 3),
    Block(0, 3, 4),
    Block(0, 3, 4),
)


class MobileNetV4(Backbone):
    """The small convolutional MobileNetV4 up to stride 32, without its classifier's wide layers.

    Args:
        widths: channels at strides 4, 8, 16 and 32.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.channels = widths
        stride4, stride8, stride16, stride32 = widths
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    conv_norm(3, stride4, 3, stride=2),
                    conv_norm(stride4, stride4, 3, stride=2),
                    conv_norm(stride4, stride4, 1),
                ),
                nn.Sequential(conv_norm(stride4, 3 * stride4, 3, stride=2), conv_norm(3 * stride4, stride8, 1)),
                self._bottlenecks(stride8, stride16, SMALL_STRIDE_16),
                self._bottlenecks(stride16, stride32, SMALL_STRIDE_32),
            ]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    @staticmethod
    def _bottlenecks(in_channels: int, out_channels: int, blocks: tuple[Block, ...]) -> nn.Sequential:
        layers = []
        for i, block in enumerate(blocks):
            layers.append(
                UniversalInvertedBottleneck(
                    in_channels if i == 0 else out_channels,
                    out_channels,
                    block.start_kernel,
                    block.middle_kernel,
                    stride=2 if i == 0 else 1,
                    expansion=block.expansion,
                )
            )
        return nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image.  (B, 3, H, W) -> four maps at strides 4, 8, 16, 32 (sides rounded up)."""
        return run_stages(self.stages, image)


mobilenet_v4_s = partial(MobileNetV4)
