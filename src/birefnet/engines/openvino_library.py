"""OpenVINO itself, when it is needed, without what it would tell its makers."""

import sys
from types import ModuleType
from typing import cast

from birefnet._extras import require

_TELEMETRY = "openvino_telemetry"


def openvino_library(module: str = "openvino") -> ModuleType:
    """Import OpenVINO, or a library that builds on it.

    When imported, and again when converting, it would report versions and what it is used for over the network, unless
    the package that does so is missing. It is made to look missing here: cutting out a photo is nobody else's business.

    Args:
        module: "openvino" or "nncf".

    Raises:
        MissingExtraError: it is not installed.
    """
    # None stands for a module that cannot be imported; one that is imported already stays.
    sys.modules.setdefault(_TELEMETRY, cast(ModuleType, None))
    return require(module, extra="openvino")
