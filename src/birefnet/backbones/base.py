"""What the network expects of a backbone: four feature maps and their strides."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

Pyramid = tuple[Tensor, Tensor, Tensor, Tensor]


def run_stages(stages: Iterable[nn.Module], x: Tensor) -> Pyramid:
    """Run four stages, each on the output of the one before, and return all outputs."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    x1, x2, x3, x4 = maps
    return x1, x2, x3, x4


class Backbone(nn.Module, ABC):
    """An image encoder that returns four feature maps, shallow to deep.

    Attributes:
        channels: channels of the four maps, in the order in which they are returned.
        strides: size of the input divided by the size of each map.
        min_side: the smallest side of an image that can be encoded.
        frozen: its weights are not trained: the network keeps them as they are, without gradients, and the backbone
            in evaluation mode.
    """

    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int] = (4, 8, 16, 32)
    min_side: int = 1
    frozen: bool = False

    @abstractmethod
    def forward(self, image: Tensor) -> Pyramid:
        """Encode a normalised image.  (B, 3, H, W) -> four maps (B, channels[i], H / strides[i], W / strides[i])."""
