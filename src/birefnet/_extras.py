"""Optional dependencies: import them or say which command installs them."""

import importlib
from types import ModuleType

from birefnet.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, which comes with the optional dependencies `birefnet[extra]`.

    Raises:
        MissingExtraError: the module's top-level package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top_level = module.partition(".")[0]
        if error.name != top_level:
            raise  # the package is there but broken: its own error says more
        raise MissingExtraError(
            f"{top_level} is not installed: run  pip install 'birefnet[{extra}]'", name=top_level
        ) from error
