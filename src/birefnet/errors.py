"""Errors a user can cause, each with a one-line message that names the remedy.

Everything the package raises on bad input derives from `BiRefNetError`, so a caller can catch one class; each also
derives from the built-in exception that a Python programmer would expect in its place.
"""


class BiRefNetError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(BiRefNetError, ValueError):
    """A configuration that cannot be built: unknown name, impossible value or combination."""


class InputError(BiRefNetError, ValueError):
    """An argument the network or a function cannot take, such as a size that is no multiple of 32."""


class ImageError(BiRefNetError, ValueError):
    """An image file that cannot be read, or one that is not an image."""


class DataError(BiRefNetError, ValueError):
    """A data set that cannot be used: missing pairs, unreadable files, sizes that differ."""


class WeightsError(BiRefNetError, ValueError):
    """A weights file that cannot be read, or that does not fit the network."""


class OutputError(BiRefNetError, OSError):
    """A result that cannot be written: unwritable folder, full disk, unsupported format."""


class MissingExtraError(BiRefNetError, ImportError):
    """An optional dependency that is not installed; the message holds the command that installs it."""


class LostProcessError(BiRefNetError, ConnectionError):
    """A process of a run of several that has died, has left, or was never reached."""


def first_line(error: BaseException) -> str:
    """Begin of what another library says, for a message of ours; the error's type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
