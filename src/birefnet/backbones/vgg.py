"""VGG (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556): thirteen 3x3 convolutions and five poolings."""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid, run_stages

# Configuration D of the paper's table 1: a list for each pooling, of the channels of the convolutions before it.
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg(Backbone):
    """VGG without its linear layers; a map is what a max-pool leaves, so all sides are rounded down.

    The first stage holds two of the five poolings, so that its map is at stride 4. Layers are named by their place
    in VGG's one list of layers, activations and poolings counted, which is how every file of weights names them.

    Args:
        batch_norm: normalise after each convolution.
    """

    channels = (128, 256, 512, 512)
    min_side = 32  # five poolings must leave a pixel

    def __init__(self, *, batch_norm: bool) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        self.stages = nn.ModuleList()
        place, in_channels = 0, 3
        for level, widths in enumerate(VGG16):
            for width in widths:
                layers[str(place)] = nn.Conv2d(in_channels, width, 3, padding=1)
                if batch_norm:
                    layers[str(place + 1)] = nn.BatchNorm2d(width)
                place += 1 + batch_norm
                layers[str(place)] = nn.ReLU(inplace=True)
                place, in_channels = place + 1, width
            layers[str(place)] = nn.MaxPool2d(2)
            place += 1
            if level > 0:
                self.stages.append(nn.Sequential(layers))
                layers = OrderedDict()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image.  (B, 3, H, W) -> four maps at strides 4, 8, 16, 32 (sides rounded down)."""
        return run_stages(self.stages, image)


vgg16 = partial(Vgg, batch_norm=False)
vgg16bn = partial(Vgg, batch_norm=True)
