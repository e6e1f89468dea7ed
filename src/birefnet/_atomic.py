"""Writing files so that a crash, a full disk or Ctrl-C never leaves a half-written one."""

import os
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
    """Write a file whole or not at all, leaving nothing behind even when the process is killed, where Linux can.

    Raises:
        OutputError: the operating system refused to write.
    """
    target = Path(target)
    try:
        nameless = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):  # another system, or a file system that knows no files without a name
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        return
    with os.fdopen(nameless, "wb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror})") from error
        with atomic_path(target) as temporary:
            # The file gets a name only now that it is whole; a rename then puts it in the place of an older one.
            temporary.unlink()
            # (A descriptor of a folder, which an absolute path ignores, makes Python follow the link in /proc.)
            try:
                os.link(f"/proc/self/fd/{file.fileno()}", temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
            except OSError:  # no /proc, or a file system that cannot give names later
                temporary.write_bytes(content)


def _use_default_mode(path: Path) -> None:
    """Give a private temporary file the permissions that a newly made file would have."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
