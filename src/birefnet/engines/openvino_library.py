"""OpenVINO itself, when it is needed, without what it would tell its makers."""

import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, cast

from birefnet._extras import require

if TYPE_CHECKING:
    import openvino

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


@cache
def openvino_core() -> "openvino.Core":
    """The one core of the process, which is never let go.

    A core that compiles gives the thread a stack of its own for signals and takes it away in the end. Of two cores
    whose lives overlap the one that ends last leaves the thread with the stack of the other, which is gone: the next
    Ctrl-C, or a process that ends, is then a segmentation fault.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    core: openvino.Core = openvino_library().Core()
    return core
