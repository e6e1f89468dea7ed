"""A compact trainer: one network, one device, one process, resumable to the bit.

Which photos a step sees and how they are changed follow from the seed and the step alone, and the state of torch's
own generator is saved: a run that stops and resumes goes on exactly as if it had not.
"""

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from birefnet._atomic import atomic_path
from birefnet.config import InputSpec, ModelConfig
from birefnet.data.augment import Batch
from birefnet.data.cache import load_pack
from birefnet.errors import BiRefNetError, ConfigError, DataError, OutputError
from birefnet.losses import PixelWeights, gradient_loss, pixel_losses
from birefnet.model import BiRefNet, TrainOutput
from birefnet.training.feed import Batches, Feed
from birefnet.training.log import Clock, Interval, Log
from birefnet.training.schedule import Recipe, decay_at, rate_at
from birefnet.training.validation import validate

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
WEIGHTS = "model.safetensors"

# A gradient can be finite and yet garbage: under bfloat16, norms of 1e10 were seen between steps of norm 10.
_ABSURD_NORM = 1e7

_MOST_SKIPS_IN_A_ROW = 20

Ending = Literal["finished", "time", "signal"]


def nano_config() -> ModelConfig:
    """Return the small network that trains on a CPU."""
    return ModelConfig(
        backbone="mobilenet_v4_s",
        attention="aspp",
        decoder_channels=32,
        attention_channels=32,
        inward_channels=8,
        gradient_channels=16,
        dropout=0.0,
    )


@dataclass(frozen=True)
class Options:
    """How and where a run is carried out; none of it changes what is learned.

    Attributes:
        device: "cpu" or "cuda".
        threads: CPU threads, None for torch's choice.
        prefetch: make the next batch in a thread while the network works; None for "on a GPU only", because on a
            CPU both want the same cores.
        cache: folder for decoded photos.
        val_every: samples between two validations.
        val_size: side of the square to validate at, which becomes the input size of the saved weights.
        log_every: steps between two lines of the log.
        save_seconds: seconds between two checkpoints.
        max_seconds: stop cleanly after this time, None for never.
    """

    device: str = "cpu"
    threads: int | None = None
    prefetch: bool | None = None
    cache: Path = Path(".cache")
    val_every: int = 20_000
    val_size: int = 288
    log_every: int = 50
    save_seconds: float = 300
    max_seconds: float | None = None


@dataclass
class State:
    """All that changes during a run."""

    model: BiRefNet
    averaged: BiRefNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    recent: Interval = field(default_factory=Interval)


def total_loss(output: TrainOutput, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """Return the weighted terms of the training loss by name; the loss is their sum.

    The final logits are compared at full resolution, the side logits at their own, against the truth averaged over
    their cells: the window of the SSIM over three more full-size outputs would cost an eighth of a step.
    """
    outputs = (output.logits, *output.earlier_logits, *output.side_logits)
    terms = pixel_losses(outputs, batch.target, PixelWeights(iou=recipe.iou_weight), batch.valid, compare_at="output")
    if output.gradient_logits:
        terms["gradient"] = recipe.gradient_weight * gradient_loss(output.gradient_logits, output.gradient_labels)
    return terms


def train(
    config: ModelConfig,
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    val: Path | None = None,
    options: Options | None = None,
    init: Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Ending:
    """Train a network, or go on with a run that was stopped, and save the averaged weights.

    Args:
        config: the network to build.
        recipe: what to do; a resumed run must have the same.
        data: folder with im/ and gt/, or a portable pack.
        run: folder of the run: checkpoint.pt, log.jsonl and, at every clean end, model.safetensors.
        val: as `data`, to validate on.
        options: how and where to run.
        init: weights to start from instead of random ones.
        report: called with each line of the log.

    Returns:
        Why it ended: "finished", "time" (`max_seconds` are over) or "signal" (SIGTERM or Ctrl-C).

    Raises:
        BiRefNetError: a setting, the data or a file cannot be used, or the training diverged.
    """
    options = options or Options()
    started = time.monotonic()
    device = _prepare(options)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{run}: cannot be created ({error.strerror}): name another run folder") from error
    state = _start(config, recipe, options, device, init)
    checkpoint = run / CHECKPOINT
    if checkpoint.exists():
        load_checkpoint(checkpoint, state, recipe, device)
    batches = Batches(data, recipe, device, options.cache)
    val_pack = load_pack(val, options.val_size, options.cache) if val else None
    log = Log(run / LOG, report)

    def measure() -> None:
        if val_pack:
            figures = validate(state.averaged, val_pack, options.val_size, device)
            log.write({**_position(state, recipe), "val": figures})

    saved = time.monotonic()
    ending: Ending = "finished"
    with log, Feed(batches, recipe.steps, _prefetches(options, device)) as fetch, _signals() as caught:
        if options.threads:
            torch.set_num_threads(options.threads)  # again: the prefetching thread has set its own number
        state.model.train()
        while state.step < recipe.steps:
            _step(state, recipe, fetch)
            state.step += 1
            if state.step % options.log_every == 0:
                log.write({**_position(state, recipe), **state.recent.summary()})
                state.recent = Interval()
            if state.step == recipe.steps or _crosses(state.step * recipe.batch, recipe.batch, options.val_every):
                measure()
            if caught:
                ending = "signal"
                break
            now = time.monotonic()
            if options.max_seconds is not None and now - started >= options.max_seconds:
                ending = "time"
                break
            if now - saved >= options.save_seconds:
                save_checkpoint(checkpoint, state, recipe)
                saved = now
        save_checkpoint(checkpoint, state, recipe)
        state.averaged.save(run / WEIGHTS)
    return ending


def _position(state: State, recipe: Recipe) -> dict[str, Any]:
    position = {"step": state.step, "steps": recipe.steps, "samples": state.step * recipe.batch}
    return {**position, "rate": rate_at(recipe, state.step - 1), "skipped": state.skipped}


def _step(state: State, recipe: Recipe, fetch: Callable[[int], Batch]) -> None:
    """Take one step, or skip it where the gradient is of no use."""
    clock = Clock()
    batch = fetch(state.step)
    clock.lap("data")
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(recipe, state.step)
    buffers = [buffer for buffer in state.model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    device = batch.images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        output = state.model.forward_train(batch.images)
    clock.lap("forward")
    terms = total_loss(output, batch, recipe)
    loss = torch.stack(list(terms.values())).sum()
    clock.lap("loss")
    loss.backward()
    clock.lap("backward")
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
    usable = bool(norm <= _ABSURD_NORM)  # False for infinite and NaN
    if usable:
        state.optimizer.step()
        _average(state.averaged, state.model, decay_at(recipe, state.step - state.skipped))
        state.skipped_in_a_row = 0
    else:
        # Batch norm has already seen this batch: NaN in its running averages would stay for good.
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        _count_skip(state, float(loss.detach()), float(norm))
    state.optimizer.zero_grad()
    clock.lap("update")
    if usable:
        state.recent.add({**terms, "loss": loss}, norm)
    state.recent.note(len(batch.images), size=batch.images.shape[-1], seconds=clock.laps)


def _count_skip(state: State, loss: float, norm: float) -> None:
    state.skipped += 1
    state.skipped_in_a_row += 1
    if state.skipped_in_a_row >= _MOST_SKIPS_IN_A_ROW:
        raise BiRefNetError(
            f"training diverged: {state.skipped_in_a_row} steps in a row up to step {state.step} had no usable "
            f"gradient (loss {loss:.4g}, norm {norm:.4g}): lower the learning rate or train in float32"
        )


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and running statistics towards the current ones."""
    current = model.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])


def _start(config: ModelConfig, recipe: Recipe, options: Options, device: torch.device, init: Path | None) -> State:
    torch.manual_seed(recipe.seed)
    model = BiRefNet.from_config(config, InputSpec(size=(options.val_size, options.val_size)))
    if init:
        model.load_weights(init)
    # Channels last is what a CPU's and a GPU's convolutions are fastest with.
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = deepcopy(model).eval().requires_grad_(False)
    return State(model, averaged, _optimizer(model, recipe))


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make AdamW without decay on biases and norms, which have one dimension: shrinking them teaches nothing."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.rate, fused=True)


def save_checkpoint(path: Path, state: State, recipe: Recipe) -> None:
    """Write all that a run needs to go on.

    Raises:
        OutputError: the file cannot be written; the previous one is then untouched.
    """
    content = {
        "config": state.model.config.to_dict(),
        "recipe": recipe.to_dict(),
        "model": state.model.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's own writer reports a full disk so
            raise OutputError(f"{path}: cannot be written ({error})") from error


def load_checkpoint(path: Path, state: State, recipe: Recipe, device: torch.device) -> None:
    """Put a run back to where its checkpoint was written.

    Raises:
        DataError: the file is damaged.
        ConfigError: the run had another network or recipe.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved = {**content["config"], **content["recipe"]}
    except Exception as error:  # torch reports damage in many ways: zip, pickle, key and runtime errors
        raise DataError(f"{path}: cannot be read as a checkpoint: remove it to start the run anew") from error
    asked = {**state.model.config.to_dict(), **recipe.to_dict()}
    changed = [f"{k} {saved.get(k)} -> {asked.get(k)}" for k in asked if saved.get(k) != asked.get(k)]
    if changed:
        raise ConfigError(f"{path}: belongs to another recipe ({', '.join(changed)}): use another run folder")
    state.model.load_state_dict(content["model"])
    state.averaged.load_state_dict(content["averaged"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.skipped = content["step"], content["skipped"]
    state.skipped_in_a_row = content["skipped_in_a_row"]
    torch.set_rng_state(content["random"])
    if device.type == "cuda" and content["random_cuda"]:
        torch.cuda.set_rng_state_all(content["random_cuda"])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of dying of them, so that the step under way is finished and saved.

    A second signal has its usual effect.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return
    usual: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

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


def _prepare(options: Options) -> torch.device:
    try:
        device = torch.device(options.device)
    except RuntimeError:
        raise ConfigError(f"unknown device {options.device!r}: use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {options.device} is not available: use --device cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed memory: by default each large tensor is mapped anew, page fault by page fault."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # other C libraries have none, and need none
        mmap_threshold, trim_threshold = -3, -1
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def _prefetches(options: Options, device: torch.device) -> bool:
    return device.type == "cuda" if options.prefetch is None else options.prefetch


def _crosses(samples: int, batch: int, every: int) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return every > 0 and samples // every > (samples - batch) // every
