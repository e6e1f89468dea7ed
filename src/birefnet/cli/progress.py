"""Progress of long work on a terminal, and a clean end where it is stopped."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text


@contextmanager
def shown_progress(total: int, title: str, stopped: str) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, and on Ctrl-C or SIGTERM exit with 130 and a line in place of a traceback.

    Args:
        total: number of steps.
        title: what is done.
        stopped: what to say where it is stopped, with {done} and {total}.

    Yields:
        What to call after each step.
    """
    console = Console(stderr=True)
    done = 0
    # A batch system's way to stop a program ends it as cleanly as Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        hidden = not console.is_terminal
        with Progress(*progress_columns(), console=console, transient=True, disable=hidden) as progress:
            bar = progress.add_task(title, total=total)

            def advance() -> None:
                nonlocal done
                done += 1
                progress.advance(bar)

            yield advance
    except KeyboardInterrupt:
        click.echo(f"stopped: {stopped.format(done=done, total=total)}", err=True)
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def progress_columns() -> tuple[str | ProgressColumn, ...]:
    """Columns of a progress bar: what, how far, how many, how fast and how long still."""
    return (*Progress.get_default_columns()[:2], MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())


class RateColumn(ProgressColumn):
    """Photos a second."""

    def render(self, task: Task) -> Text:
        """Show the speed of the last photos."""
        return Text(f"{task.speed:.1f} a second" if task.speed else "", style="progress.data.speed")
