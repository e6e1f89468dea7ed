"""Writing files so that a crash, a full disk or Ctrl-C never leaves a half-written one, and folders for them."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from birefnet.errors import OutputError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it is renamed to `target`, on any error it is removed.

    Raises:
        OutputError: the operating system refused to write (unwritable folder, full disk, a folder in its place).
    """
    target = Path(target)
    temporary = None
    try:
        # In the same folder, because a rename is atomic only within one file system; the suffix stays, because
        # writers choose the format by it; the name is short, because the target's may be as long as names can be.
        handle, name = tempfile.mkstemp(prefix=".birefnet-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _use_default_mode(temporary)
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_whole(target: str | Path, content: bytes) -> None:
    """Write a file whole or not at all, leaving no part of it behind even when the process is killed, on Linux.

    Raises:
        OutputError: the operating system refused to write.
    """
    target = Path(target)
    try:
        if _write_nameless(target, content):
            return
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def make_folder(folder: Path, remedy: str = "") -> None:
    """Make a folder, with those that it lies in, unless it is there.

    Args:
        folder: its path.
        remedy: what the user can do where it cannot be made, for the message.

    Raises:
        OutputError: the operating system refused to make it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = f": {remedy}" if remedy else ""
        raise OutputError(f"{folder}: the folder cannot be made ({error.strerror or error}){advice}") from error


def _write_nameless(target: Path, content: bytes) -> bool:
    """Write a file that gets a name only when it is whole; False where the system knows no such files."""
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        return False
    temporary = target.with_name(f".birefnet-{secrets.token_hex(8)}{target.suffix}")
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        try:
            # A link cannot take an older file's place, hence the second name. (A descriptor of a folder, which an
            # absolute path ignores, is what makes Python follow the link in /proc.)
            os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor, follow_symlinks=True)
        except OSError:  # no /proc, or a file system that cannot give names later
            return False
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _use_default_mode(path: Path) -> None:
    """Give a private temporary file the permissions that a newly made file would have."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
