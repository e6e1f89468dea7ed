"""A compact trainer: one network, one device, one process, resumable to the bit.

Nothing here is random but by (seed, step): which photos a step sees and how they are changed follow from these two,
so a run that stops and resumes goes on exactly as if it had not.
"""

import ctypes
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from birefnet._atomic import atomic_path
from birefnet.config import InputSpec, ModelConfig
from birefnet.data.augment import HEADROOM, Augmentation, Batch, augment
from birefnet.data.cache import load_pack
from birefnet.errors import BiRefNetError, ConfigError, DataError, OutputError
from birefnet.losses import PixelWeights, gradient_loss, pixel_losses
from birefnet.model import BiRefNet, TrainOutput
from birefnet.training.schedule import Recipe, decay_at, rate_at, size_at
from birefnet.training.validation import validate
from birefnet.weights import load_weights, save_model

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
        attention="dilated",
        decoder_channels=32,
        attention_channels=32,
        inward_channels=32,
        gradient_channels=16,
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
    recent: "_Interval" = field(default_factory=lambda: _Interval())


def total_loss(output: TrainOutput, batch: Batch, gradient_weight: float) -> dict[str, Tensor]:
    """Return the weighted terms of the training loss by name; the loss is their sum.

    The final logits are compared at full resolution, the side logits at their own, against the truth averaged over
    their cells: the window of the SSIM over three more full-size outputs would cost an eighth of a step.
    """
    outputs = (output.logits, *output.side_logits)
    terms = pixel_losses(outputs, batch.target, PixelWeights(), batch.valid, compare_at="output")
    terms["gradient"] = gradient_weight * gradient_loss(output.gradient_logits, output.gradient_labels)
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
    report: Callable[[dict[str, Any]], None] = lambda line: None,
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
    log = _Log(run / LOG, report)

    def measure() -> None:
        if val_pack:
            figures = validate(state.averaged, val_pack, options.val_size, device)
            log.write({"step": state.step, "samples": state.step * recipe.batch, "val": figures})

    saved = time.monotonic()
    ending: Ending = "finished"
    with log, _Prefetch(batches, recipe.steps, _prefetches(options, device)) as fetch, _signals() as caught:
        if options.threads:
            torch.set_num_threads(options.threads)  # again: the prefetching thread has set its own number
        state.model.train()
        while state.step < recipe.steps:
            _step(state, recipe, fetch)
            state.step += 1
            if state.step % options.log_every == 0:
                log.write(state.recent.summary(state, recipe))
                state.recent = _Interval()
            if _crosses(state.step * recipe.batch, recipe.batch, options.val_every):
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
        save_model(state.averaged, run / WEIGHTS)
        if ending == "finished":
            measure()
    return ending


def _step(state: State, recipe: Recipe, fetch: Callable[[int], Batch]) -> None:
    """Take one step, or skip it where the gradient is of no use."""
    clock = _Clock()
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
    terms = total_loss(output, batch, recipe.gradient_weight)
    loss = torch.stack(list(terms.values())).sum()
    clock.lap("loss")
    loss.backward()  # type: ignore[no-untyped-call]
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
        load_weights(model, init)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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


class Batches:
    """The batch of every step, the same whenever it is asked for.

    Each stage reads photos packed at the size that suits it; they are kept on the device where they fit.
    """

    def __init__(self, data: Path, recipe: Recipe, device: torch.device, cache: Path) -> None:
        self.data, self.recipe, self.device, self.cache = data, recipe, device, cache
        self.augmentation = Augmentation()
        self._side = 0
        self._pixels = torch.empty(0)
        self._orders: dict[int, Tensor] = {}
        self._load(size_at(recipe, 0))

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step."""
        size = size_at(self.recipe, step)
        self._load(size)
        first = step * self.recipe.batch
        chosen = self._chosen(range(first, first + self.recipe.batch))
        pixels = self._pixels[chosen.to(self._pixels.device)].to(self.device)
        generator = torch.Generator().manual_seed(hash((self.recipe.seed, step)))
        batch = augment(pixels, size, self.augmentation, generator)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        return Batch(images, batch.target, batch.valid)

    def _load(self, size: int) -> None:
        side = round(size * HEADROOM)
        if side == self._side or (self._side and self.data.suffix == ".npz"):
            return
        pixels = torch.from_numpy(load_pack(self.data, side, self.cache).pixels)
        if self.device.type == "cuda" and pixels.numel() < torch.cuda.mem_get_info(self.device)[0] // 2:
            pixels = pixels.to(self.device)
        self._side, self._pixels = side, pixels

    def _chosen(self, samples: Sequence[int]) -> Tensor:
        """Photos of the given samples: each epoch is its own random order of all photos."""
        count = len(self._pixels)
        epochs = {sample // count for sample in samples}
        self._orders = {epoch: self._orders.get(epoch, self._order(epoch, count)) for epoch in epochs}
        return torch.stack([self._orders[sample // count][sample % count] for sample in samples])

    def _order(self, epoch: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.recipe.seed, -1 - epoch)))
        return torch.randperm(count, generator=generator)


class _Prefetch:
    """Makes the next batch in a thread while the current one is worked on, or just makes the current one."""

    def __init__(self, batches: Batches, steps: int, threaded: bool) -> None:
        self._batches, self._steps = batches, steps
        # One thread of its own for the batch: more would fight with those of the network.
        self._pool = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,)) if threaded else None
        self._next: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> "_Prefetch":
        if self._pool:
            self._pool.submit(int).result()  # the thread is there, and has set its number of threads
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        if not self._pool:
            return self._batches(step)
        ready = self._next
        future = ready[1] if ready and ready[0] == step else self._pool.submit(self._batches, step)
        batch = future.result()
        if step + 1 < self._steps:
            self._next = step + 1, self._pool.submit(self._batches, step + 1)
        return batch


class _Interval:
    """Figures of the steps since the last line of the log, read from the device only when the line is written."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._seconds: dict[str, float] = {}
        self._usable = self._samples = self._size = 0
        self._worst_norm: Tensor | None = None
        self._started = time.perf_counter()

    def add(self, terms: dict[str, Tensor], norm: Tensor) -> None:
        for name, value in {**terms, "norm": norm}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._worst_norm = norm if self._worst_norm is None else torch.maximum(self._worst_norm, norm)
        self._usable += 1

    def note(self, samples: int, size: int, seconds: dict[str, float]) -> None:
        self._samples += samples
        self._size = size
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def summary(self, state: State, recipe: Recipe) -> dict[str, Any]:
        means = {name: float(value) / self._usable for name, value in self._sums.items()}
        elapsed = time.perf_counter() - self._started
        line: dict[str, Any] = {"step": state.step, "steps": recipe.steps, "samples": state.step * recipe.batch}
        line |= {"size": self._size, "rate": rate_at(recipe, state.step - 1)}
        line |= {name: round(value, 5) for name, value in means.items()}
        if self._worst_norm is not None:
            line["worst_norm"] = round(float(self._worst_norm), 3)
        line |= {"skipped": state.skipped, "images_per_second": round(self._samples / elapsed, 2)}
        line["share_of_time"] = {k: round(v / elapsed, 3) for k, v in self._seconds.items()}
        return line


class _Clock:
    """Seconds between marks. On a GPU the work is only queued, so the figures mean little there."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


class _Log:
    """JSON lines, each written out at once; a resumed run appends."""

    def __init__(self, path: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._report(line)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of dying of them, so that the step under way is finished and saved.

    A second signal has its usual effect.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

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
