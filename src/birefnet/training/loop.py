"""The training loop: batch, losses, gradient, step; and between steps the log, validations and checkpoints."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from birefnet.data.batches import Batch, Batches
from birefnet.errors import BiRefNetError
from birefnet.losses import training_losses, weights_at
from birefnet.training.interval import Clock, Interval
from birefnet.training.log import Log
from birefnet.training.optimizer import ema_decay_at, rate_at, set_rate
from birefnet.training.parallel import Parallel
from birefnet.training.state import Session

# A gradient can be finite and yet garbage: under bfloat16, norms of 1e10 were seen between steps of norm 10.
_ABSURD_NORM = 1e7

_MOST_SKIPS_IN_A_ROW = 20

Ending = Literal["finished", "no-better", "time", "signal"]
"""Why a run ended: all steps are taken, validations became no better, or it was stopped."""


class DivergedError(BiRefNetError):
    """A loss or gradients that nothing can be learnt from."""


@dataclass(frozen=True)
class Between:
    """What is done between steps, and how often.

    Attributes:
        checkpoint: file of the checkpoint.
        validate: measures the network and tells whether to go on; None where nothing is held out.
        validate_every: samples between two validations, 0 for one at the end.
        log_every: steps between two lines of the log.
        save_seconds: seconds between two checkpoints.
        stop_at: time (of `time.monotonic`) to stop at.
    """

    checkpoint: Path
    validate: Callable[[], bool] | None = None
    validate_every: float = 0
    log_every: int = 50
    save_seconds: float = 300
    stop_at: float | None = None


def run_loop(
    session: Session,
    batches: Batches,
    feed: Callable[[int], AbstractContextManager[Iterator[Batch]]],
    log: Log | None,
    between: Between,
) -> Ending:
    """Take all steps that are left, and write the checkpoint in the end; after an error the one before stays.

    Args:
        session: the run.
        batches: what every step sees.
        feed: gives the batches from a step on.
        log: where figures go; None on all processes but the first.
        between: what is done between steps.

    Raises:
        DivergedError: the loss is not finite, or too many gradients in a row were of no use.
        BiRefNetError: a photo or a file cannot be used.
    """
    progress, parallel = session.progress, session.parallel
    ending: Ending = "finished"
    interval, saved, ticked = Interval(), time.monotonic(), time.monotonic()

    def tick() -> float:
        nonlocal ticked
        now = time.monotonic()
        progress.seconds += now - ticked
        ticked = now
        return now

    with stop_signals() as caught, feed(progress.step) as fed:
        while progress.step < batches.steps:
            clock = Clock()
            batch = next(fed)
            clock.lap("data")
            take_step(session, batches, batch, clock, interval)
            interval.note(len(batch.images) * parallel.world, _size(batch), clock.laps)
            progress.step += 1
            now = tick()
            last = progress.step == batches.steps
            if progress.step % between.log_every == 0 or last:
                line = interval.summary(partial(_mean_over, parallel))
                if log:
                    log.write({**position(session, batches), **line})
                interval = Interval()
            samples = progress.step * session.recipe.data.batch
            if between.validate and (last or crosses(samples, session.recipe.data.batch, between.validate_every)):
                go_on = between.validate()
                interval.aside("validation", tick() - now)
                if not go_on and not last:
                    ending = "no-better"
                    break
            if parallel.any(bool(caught)):
                ending = "signal"
                break
            if between.stop_at is not None and parallel.any(now >= between.stop_at):
                ending = "time"
                break
            if parallel.any(now - saved >= between.save_seconds):
                session.save_checkpoint(between.checkpoint)
                saved = time.monotonic()
        session.save_checkpoint(between.checkpoint)
    return ending


def take_step(session: Session, batches: Batches, batch: Batch, clock: Clock, interval: Interval) -> None:
    """Take one step, or skip it where the gradient is of no use.

    Raises:
        DivergedError: the loss is not finite, or too many gradients in a row were of no use.
    """
    recipe, progress, parallel = session.recipe, session.progress, session.parallel
    set_rate(session.optimizer, rate_at(recipe.optimizer, progress.step, batches.steps))
    statistics = [buffer for buffer in session.model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in statistics]
    terms: dict[str, Tensor] = {}
    parts = split(batch, recipe.memory.accumulate)
    for number, part in enumerate(parts, start=1):
        with parallel.accumulating(session.network, more=number < len(parts)):
            for name, term in _learn_from(session, batches, part, len(parts), clock).items():
                terms[name] = terms[name] + term if name in terms else term
    session.scaler.unscale_(session.optimizer)
    norm = parallel.clip(session.model, recipe.optimizer.clip or float("inf"))
    usable = bool(norm <= _ABSURD_NORM)  # False for infinite and NaN
    if usable:
        session.scaler.step(session.optimizer)
        if session.average is not None:
            taken = progress.step - progress.skipped
            session.average.update(session.model, ema_decay_at(recipe.optimizer, taken))
        progress.skipped_in_a_row = 0
    else:
        # Batch norm has already seen this batch: NaN in its running averages would stay for good.
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
    session.scaler.update()
    session.optimizer.zero_grad()
    clock.lap("update")
    if usable:
        interval.add(terms, norm)
    else:
        interval.skip()
        _count_skip(session, float(norm))


def _learn_from(session: Session, batches: Batches, part: Batch, parts: int, clock: Clock) -> dict[str, Tensor]:
    """Add the gradient of a part of a batch, and return its share of the loss and its terms."""
    recipe, parallel = session.recipe, session.parallel
    with autocast(recipe.precision, parallel.device):
        output = session.network(part.images)
    clock.lap("forward")
    weights = weights_at(recipe.loss, batches.epoch_of(session.progress.step), recipe.epochs_of(session.photos))
    terms = training_losses(
        output,
        part.target,
        recipe.loss,
        weights=weights,
        classes=part.classes,
        image=part.images,
        valid=part.valid,
        compare_at=recipe.compare_at,
        reference_defects=recipe.reference_defects,
    )
    terms = {name: term / parts for name, term in terms.items()}
    loss = torch.stack(list(terms.values())).sum()
    finite = bool(loss.isfinite())
    if parallel.any(not finite):  # on every process alike, or the others would wait for this one
        raise DivergedError(_not_finite(session.progress.step, terms, part.names, mine=not finite))
    clock.lap("loss")
    session.scaler.scale(loss).backward()
    clock.lap("backward")
    return {name: term.detach() for name, term in {**terms, "loss": loss}.items()}


def _not_finite(step: int, terms: dict[str, Tensor], names: tuple[str, ...], *, mine: bool) -> str:
    if not mine:
        return f"step {step + 1}: the loss of another process is not finite: see its message"
    values = ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
    return (
        f"step {step + 1}: the loss is not finite ({values}) on {', '.join(names)}; no step was taken. Look at these "
        "photos, lower the learning rate, or train in float32; the run resumes from its last checkpoint"
    )


def _count_skip(session: Session, norm: float) -> None:
    progress = session.progress
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= _MOST_SKIPS_IN_A_ROW:
        raise DivergedError(
            f"training diverged: {progress.skipped_in_a_row} steps in a row up to step {progress.step + 1} had no "
            f"usable gradient (norm {norm:.4g}): lower the learning rate or train in float32"
        )


def position(session: Session, batches: Batches) -> dict[str, Any]:
    """Tell where a run stands, for a line of the log."""
    step, batch = session.progress.step, session.recipe.data.batch
    return {
        "step": step,
        "steps": batches.steps,
        "samples": step * batch,
        "epoch": round(step * batch / session.photos, 4),
        "rate": rate_at(session.recipe.optimizer, max(0, step - 1), batches.steps),
        "seconds": round(session.progress.seconds, 1),
    }


def split(batch: Batch, parts: int) -> list[Batch]:
    """Part a batch into equal ones."""
    if parts == 1:
        return [batch]
    each = len(batch.images) // parts
    return [
        replace(
            batch,
            images=batch.images[start : start + each],
            target=batch.target[start : start + each],
            valid=batch.valid[start : start + each],
            classes=batch.classes[start : start + each],
            names=batch.names[start : start + each],
        )
        for start in range(0, each * parts, each)
    ]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Let the network compute in a precision; losses and weights stay in float32."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def crosses(samples: int, batch: int, every: float) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return every > 0 and samples // every > (samples - batch) // every


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of dying of them, so that the step under way is finished and saved.

    A second signal has its usual effect.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _frame: object) -> None:
        caught.append(number)
        signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _mean_over(parallel: Parallel, values: Tensor) -> Tensor:
    return torch.stack(parallel.gather(values.cpu())).mean(0)


def _size(batch: Batch) -> tuple[int, int]:
    return batch.images.shape[-2], batch.images.shape[-1]
