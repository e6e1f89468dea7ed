"""A training run from the first look at the photos to the model card: what `birefnet train` does."""

import ctypes
import math
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from birefnet.classes import DIS5K_CLASSES
from birefnet.data.augment import NONE
from birefnet.data.batches import Batches, DataRecipe, parse_sizes
from birefnet.data.compose import Composition
from birefnet.data.loader import Feed, feed
from birefnet.data.photos import Photos, open_photos
from birefnet.data.structures import Drawn
from birefnet.errors import ConfigError, MissingExtraError
from birefnet.inference.precision import emulates_bfloat16
from birefnet.model import BiRefNet
from birefnet.training.card import write_card
from birefnet.training.environment import environment
from birefnet.training.folder import BEST, CHECKPOINT, WEIGHTS, alone_in, as_begun, begin, check_vacant, read_data
from birefnet.training.log import Line, Log
from birefnet.training.loop import Between, Ending, position, run_loop
from birefnet.training.lora import add_lora
from birefnet.training.optimizer import build_optimizer
from birefnet.training.parallel import Parallel
from birefnet.training.plan import Plan
from birefnet.training.plot import plot
from birefnet.training.processes import joined
from birefnet.training.recipe import Recipe
from birefnet.training.samples import ranked, save_samples
from birefnet.training.savings import checkpoint_activations, compile_or_not, freeze
from birefnet.training.sets import Source, check_sets
from birefnet.training.state import Average, Session
from birefnet.training.validation import Validator

EMULATED = "bfloat16 is emulated on this {device}, far slower than float32: take --precision float32"
"""What is said of a run that would be quicker in float32."""


@dataclass(frozen=True)
class Options:
    """How and where a run is carried out; none of it changes what is learned.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        strategy: what several processes share, "ddp" or "fsdp"; see `birefnet.training.parallel`.
        threads: CPU threads of each process, None for torch's choice.
        workers: processes that make batches, None for none on a CPU and a few for a GPU.
        cache: folder for decoded photos, None to decode them anew each time.
        log_every: steps between two lines of the log.
        save_seconds: seconds between two checkpoints.
        max_seconds: stop cleanly after this time, None for never.
        tensorboard: write for TensorBoard, None for "if it is installed".
        check: look at every photo before the first step.
        plots: draw curves and masks at the end; `birefnet train plot` does it too.
    """

    device: str = "auto"
    strategy: str = "ddp"
    threads: int | None = None
    workers: int | None = None
    cache: Path | None = Path(".cache")
    log_every: int = 20
    save_seconds: float = 300
    max_seconds: float | None = None
    tensorboard: bool | None = None
    check: bool = True
    plots: bool = True


class Listener(Protocol):
    """Who is told how a run goes."""

    def report(self, line: Line) -> None:
        """Take a line of the log."""

    def note(self, text: str) -> None:
        """Take a line for a person."""

    def resume(self, run: Path) -> None:
        """Look at the log of a run that goes on."""

    def work(self, title: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """Show the progress of something long that comes before the first step."""


class Silent:
    """Tells nobody."""

    def report(self, line: Line) -> None:
        """Take a line of the log."""

    def note(self, text: str) -> None:
        """Take a line for a person."""

    def resume(self, run: Path) -> None:
        """Look at no log."""

    def work(self, title: str, total: int) -> AbstractContextManager[Callable[[], None]]:  # noqa: ARG002
        """Show no progress."""
        return nullcontext(lambda: None)


def train(
    plan: Plan,
    run: Path,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Ending:
    """Train a network, or go on with a run that was stopped.

    Args:
        plan: what to do; a resumed run must have the same recipe and data.
        run: folder of the run. It receives recipe.toml, data.json, environment.json, log.jsonl, checkpoint.pt,
            best.safetensors (by validation), model.safetensors (the last), pictures, and README.md, a model card draft.
        options: how and where to run.
        listener: who is told how it goes.

    Returns:
        Why it ended.

    Raises:
        BiRefNetError: a setting, the data or a file cannot be used, or the training diverged.
    """
    options, listener = options or Options(), listener or Silent()
    started = time.monotonic()
    with joined(options.device, options.strategy) as parallel, ExitStack() as stack:
        listener = listener if parallel.main else Silent()
        _check_shares(plan.recipe, parallel)
        resumed = parallel.any(parallel.main and (run / CHECKPOINT).exists())
        if parallel.main and resumed:
            stack.enter_context(alone_in(run))
        plan = _prepare(plan, run, parallel, options, listener, resumed=resumed)
        if parallel.main and not resumed:
            stack.enter_context(alone_in(run))
        session = _start(plan, parallel, options, listener, resumed=resumed)
        if resumed:
            session.load_checkpoint(run / CHECKPOINT)
            listener.note(f"the run goes on at step {session.progress.step}")
            listener.resume(run)
        if 0 < plan.recipe.validation.patience <= session.progress.without_better:
            return "no-better"  # that was its end already
        ending = _carry_on(session, plan, run, options, listener, started, resumed=resumed)
        session.save_weights(run / WEIGHTS)
        if parallel.main:
            if options.plots:
                _draw(run, listener)
            _describe(run, plan, session)
    return ending


def _carry_on(
    session: Session, plan: Plan, run: Path, options: Options, listener: Listener, started: float, *, resumed: bool
) -> Ending:
    """Open photos and log, and take the steps that are left."""
    parallel = session.parallel
    photos = _open(plan.sets.train, plan.recipe.data, options, parallel, listener)
    _check_classes(photos, plan.recipe)
    session.photos = len(photos)
    batches = _batches(plan, photos, options, parallel)
    with ExitStack() as stack:
        log = None
        if parallel.main:
            resumed_at = session.progress.step if resumed else None
            tensorboard = options.tensorboard
            log = Log(run, report=listener.report, resumed_at=resumed_at, tensorboard=tensorboard, note=listener.note)
            stack.enter_context(log)
        validator = _validator(plan, options, parallel, listener)
        between = Between(
            run / CHECKPOINT,
            _Validation(session, batches, validator, run, log, listener) if validator else None,
            plan.recipe.validation.every * len(photos),
            options.log_every,
            options.save_seconds,
            None if options.max_seconds is None else started + options.max_seconds,
        )

        def feed_from(step: int) -> Feed:
            return feed(batches, step, parallel.device, workers=options.workers)

        return run_loop(session, batches, feed_from, log, between)


def _check_shares(recipe: Recipe, parallel: Parallel) -> None:
    parts = parallel.world * recipe.memory.accumulate
    if recipe.data.batch % parts:
        raise ConfigError(
            f"a batch of {recipe.data.batch} cannot be shared by {parallel.world} processes in "
            f"{recipe.memory.accumulate} parts each (memory.accumulate): make it a multiple of {parts}"
        )


def _check_classes(photos: Photos, recipe: Recipe) -> None:
    highest = max((category for category in photos.categories if category is not None), default=-1)
    if recipe.model.classes and highest >= recipe.model.classes:
        raise ConfigError(
            f"a photo is of class {highest}, beyond the {recipe.model.classes} of model.classes: "
            f"DIS5K has {len(DIS5K_CLASSES)}"
        )


def _draw(run: Path, listener: Listener) -> None:
    try:
        plot(run)
    except MissingExtraError as error:  # not worth losing a training for
        listener.note(f"no curves are drawn: {error}")


def _describe(run: Path, plan: Plan, session: Session) -> None:
    """Draft a model card."""
    data = {**read_data(run), "share": plan.choice.share if plan.choice.val is None else None}
    write_card(
        run,
        recipe=plan.recipe.to_dict(),
        data=data,
        machine=environment(),
        parameters=sum(parameter.numel() for parameter in session.model.parameters()),
        weights=BEST if (run / BEST).exists() else WEIGHTS,
        resume=f"birefnet train --resume {shlex.quote(run.name)}",
    )


def _on_device(source: Source, recipe: DataRecipe, options: Options) -> bool:
    """Whether batches are made where the network is: from packs that are there, not from files or drawings."""
    if options.workers is not None:
        return options.workers == 0
    return isinstance(source, Path) or not (isinstance(source, Drawn) or options.cache is None or recipe.dynamic)


def _batches(plan: Plan, photos: Photos, options: Options, parallel: Parallel) -> Batches:
    recipe = plan.recipe
    here = _on_device(plan.sets.train, recipe.data, options)
    return Batches(
        photos,
        recipe.data,
        recipe.samples_of(len(photos)),
        recipe.seed,
        mean=plan.input_spec.mean,
        std=plan.input_spec.std,
        rank=parallel.rank,
        world=parallel.world,
        device=parallel.device if here else torch.device("cpu"),
    )


@dataclass
class _Validation:
    """Measures, logs, keeps the best weights, and tells whether to go on."""

    session: Session
    batches: Batches
    validator: Validator
    run: Path
    log: Log | None
    listener: Listener

    def __call__(self) -> bool:
        session, recipe = self.session, self.session.recipe.validation
        progress = session.progress
        measured = self.validator.measure(session)
        value = measured.values[recipe.metric]
        better = math.isfinite(value) and (progress.best is None or recipe.better_is * (value - progress.best) > 0)
        if not math.isfinite(value):
            self.listener.note(f"step {progress.step}: {recipe.metric} is not finite: the network has diverged")
        if better:
            progress.best, progress.best_step, progress.without_better = value, progress.step, 0
            session.save_weights(self.run / BEST)
        else:
            progress.without_better += 1
        if self.log is not None:
            epoch = position(session, self.batches)["epoch"]
            self.log.write({"step": progress.step, "epoch": epoch, "val": measured.values, "best": better})
            samples = ranked(measured.samples, recipe.metric)
            save_samples(self.run, samples, progress.step, f"best, median and worst by {recipe.metric}")
            self.log.pictures(progress.step, {"prediction": samples[-1].prediction[..., None].repeat(3, axis=-1)})
        return not recipe.patience or progress.without_better < recipe.patience


def _prepare(plan: Plan, run: Path, parallel: Parallel, options: Options, listener: Listener, *, resumed: bool) -> Plan:
    """Check the photos of a run that starts and write down what it is, or see that a resumed one is the same."""
    sets = plan.sets
    if parallel.main and resumed:
        sets = as_begun(run, sets, plan.choice)
    elif parallel.main:
        check_vacant(run)
        if options.check:
            sets = check_sets(sets, plan.choice, listener.work)
        begin(run, plan.recipe, {**sets.to_json(plan.choice), "input_spec": plan.input_spec.to_dict()})
    for note in sets.notes:
        listener.note(note)
    # What is left out by the first process is left out by all.
    return replace(plan, sets=parallel.gather(sets)[0])


def _start(plan: Plan, parallel: Parallel, options: Options, listener: Listener, *, resumed: bool) -> Session:
    """Build everything that a run changes, as it is before the first step."""
    recipe, device = plan.recipe, parallel.device
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    torch.manual_seed(recipe.seed)
    if plan.start is not None:
        model = plan.start
        model.input_spec = plan.input_spec
    else:
        source = None if resumed else recipe.pretrained_backbone
        backbone: bool | str = False if source is None else source == "hub" or source
        model = BiRefNet(recipe.model, plan.input_spec, pretrained_backbone=backbone)
    for note in model.notes:
        listener.note(note)
    if recipe.precision == "bfloat16" and emulates_bfloat16(device):
        listener.note(EMULATED.format(device=device))
    model.train()
    if recipe.lora is not None:
        if options.strategy == "fsdp" and parallel.world > 1:
            raise ConfigError("adapters are not trained with --strategy fsdp: use ddp, they need little memory")
        add_lora(model, recipe.lora)
    if recipe.freeze:
        freeze(model, recipe.freeze)
    sharded = options.strategy == "fsdp" and parallel.world > 1  # which shards of no other layout can be made
    layout = torch.channels_last if recipe.memory.channels_last and not sharded else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    if recipe.memory.checkpoint:
        checkpoint_activations(model)
    network = parallel.wrap(model)
    if recipe.memory.compile:
        compile_or_not(network, listener.note)
    if parallel.rank:
        torch.manual_seed(recipe.seed + parallel.rank)  # dropout of its own
    return Session(
        recipe,
        parallel,
        model,
        network,
        build_optimizer(model, recipe.optimizer),
        torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16"),
        Average(model) if recipe.optimizer.ema else None,
        plan.input_spec,
    )


def _validator(plan: Plan, options: Options, parallel: Parallel, listener: Listener) -> Validator | None:
    source = plan.sets.validation
    if source is None:
        return None
    height, width = plan.input_spec.size
    sizes = f"{height}x{width}"
    recipe = replace(plan.recipe.data, sizes=sizes, dynamic=None, augmentation=NONE, composition=Composition())
    if recipe.keep_aspect:  # each photo has a size of its own, and a pack one for all
        options = replace(options, cache=None)
    photos = _open(source, recipe, options, parallel, listener)
    return Validator(photos, source if isinstance(source, tuple) else None, (height, width))


def _open(source: Source, recipe: DataRecipe, options: Options, parallel: Parallel, listener: Listener) -> Photos:
    """Open photos, decoded beforehand at the sizes they are wanted at where there is room."""
    if isinstance(source, Drawn):
        return Drawn(len(source), source.seed, source.kind, headroom=recipe.augmentation.headroom)
    sizes = [(stage.height, stage.width) for stage in parse_sizes(recipe.sizes)] if recipe.dynamic is None else []

    def opened() -> Photos:
        with ExitStack() as shown:
            ticks: list[Callable[[], None]] = []

            def advance(_done: int, total: int) -> None:
                if not ticks:  # shown only where there is something to do
                    ticks.append(shown.enter_context(listener.work("decode the photos", total)))
                ticks[0]()

            return open_photos(
                source,
                sizes,
                cache=options.cache,
                headroom=recipe.augmentation.headroom,
                soft=recipe.soft,
                device=parallel.device if _on_device(source, recipe, options) else None,
                advance=advance,
            )

    if parallel.main:
        photos = opened()
    parallel.barrier()  # the others find what the first has packed
    return photos if parallel.main else opened()


def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed memory: by default each large tensor is mapped anew, page fault by page fault."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # other C libraries have none, and need none
        mmap_threshold, trim_threshold = -3, -1
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
