"""Optional dependencies: import them or say which command installs them."""

import importlib
from types import ModuleType

from birefnet.errors import MissingExtraError, first_line


def require(module: str, *, extra: str | None) -> ModuleType:
    """Import `module`, which comes with the optional dependencies `birefnet[extra]`.

    Args:
        module: its full name.
        extra: the name of these dependencies, None for those of every installation.

    Raises:
        MissingExtraError: the module's top-level package is not installed, or is broken.
    """
    top_level = module.partition(".")[0]
    package = "birefnet" if extra is None else f"birefnet[{extra}]"
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that is broken may raise anything, such as OSError for a missing libcudart
        if isinstance(error, ModuleNotFoundError) and error.name == top_level:
            message = f"{top_level} is not installed: run  pip install '{package}'"
        else:
            message = (
                f"{top_level} is installed but cannot be imported ({first_line(error)}): mend what it names, or run  "
                f"pip install --force-reinstall '{package}'"
            )
        raise MissingExtraError(message, name=top_level) from error
