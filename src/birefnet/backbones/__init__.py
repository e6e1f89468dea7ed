"""Image encoders behind one contract: an image in, four feature maps out.

`BACKBONES` is the one table from names to builders; each builder takes no required argument.
"""

from collections.abc import Callable

from birefnet.backbones.base import Backbone, Pyramid
from birefnet.backbones.dino_v3 import (
    dino_v3_7b,
    dino_v3_b,
    dino_v3_h_plus,
    dino_v3_l,
    dino_v3_s,
    dino_v3_s_plus,
)
from birefnet.backbones.mobilenet_v4 import mobilenet_v4_s
from birefnet.backbones.pvt_v2 import pvt_v2_b0, pvt_v2_b1, pvt_v2_b2, pvt_v2_b5
from birefnet.backbones.resnet import resnet50
from birefnet.backbones.resnet_mini import resnet_mini
from birefnet.backbones.swin_v1 import swin_v1_b, swin_v1_l, swin_v1_s, swin_v1_t
from birefnet.backbones.vgg import vgg16, vgg16bn
from birefnet.config import unknown_name

__all__ = ["BACKBONES", "Backbone", "Pyramid", "build_backbone"]

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "swin_v1_t": swin_v1_t,
    "swin_v1_s": swin_v1_s,
    "swin_v1_b": swin_v1_b,
    "swin_v1_l": swin_v1_l,
    "pvt_v2_b0": pvt_v2_b0,
    "pvt_v2_b1": pvt_v2_b1,
    "pvt_v2_b2": pvt_v2_b2,
    "pvt_v2_b5": pvt_v2_b5,
    "vgg16": vgg16,
    "vgg16bn": vgg16bn,
    "resnet50": resnet50,
    "dino_v3_s": dino_v3_s,
    "dino_v3_s_plus": dino_v3_s_plus,
    "dino_v3_b": dino_v3_b,
    "dino_v3_l": dino_v3_l,
    "dino_v3_h_plus": dino_v3_h_plus,
    "dino_v3_7b": dino_v3_7b,
    "mobilenet_v4_s": mobilenet_v4_s,
    "resnet_mini": resnet_mini,
}


def build_backbone(name: str) -> Backbone:
    """Build a backbone with random weights by its name.

    Raises:
        ConfigError: no backbone has this name; the message lists those that exist.
    """
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    return BACKBONES[name]()
