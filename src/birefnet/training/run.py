"""A training run from the first look at the photos to the model card: what `birefnet train` does."""

import ctypes
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from birefnet.data.augment import NONE
from birefnet.data.batches import Batches, DataRecipe, parse_sizes
from birefnet.data.compose import Composition
from birefnet.data.loader import feed
from birefnet.data.photos import Photos, open_photos
from birefnet.data.structures import Drawn
from birefnet.errors import ConfigError, MissingExtraError
from birefnet.model import BiRefNet
from birefnet.training.card import write_card
from birefnet.training.environment import environment
from birefnet.training.folder import BEST, CHECKPOINT, WEIGHTS, as_begun, begin, read_data
from birefnet.training.log import Line, Log
from birefnet.training.loop import Between, Ending, position, run_loop
from birefnet.training.lora import add_lora
from birefnet.training.optimizer import build_optimizer
from birefnet.training.parallel import Parallel
from birefnet.training.plan import Plan
from birefnet.training.plot import plot
from birefnet.training.processes import joined
from birefnet.training.samples import ranked, save_samples
from birefnet.training.savings import checkpoint_activations, compile_or_not, freeze
from birefnet.training.sets import Source, check_sets
from birefnet.training.state import Average, Session
from birefnet.training.validation import Validator


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
        resumed = parallel.any(parallel.main and (run / CHECKPOINT).exists())
        plan = _prepare(plan, run, parallel, options, listener, resumed=resumed)
        session = _start(plan, parallel, options, listener, resumed=resumed)
        if resumed:
            session.load_checkpoint(run / CHECKPOINT)
            listener.note(f"the run goes on at step {session.progress.step}")
            listener.resume(run)
        photos = _open(plan.sets.train, plan.recipe.data, options, parallel, listener)
        batches = _batches(plan, photos, parallel)
        session.photos = len(photos)
        log = None
        if parallel.main:
            resumed_at = session.progress.step if resumed else None
            tensorboard = options.tensorboard
            log = Log(run, report=listener.report, resumed_at=resumed_at, tensorboard=tensorboard, note=listener.note)
            stack.enter_context(log)
        validator = _validator(plan, options, parallel, listener)
        between = Between(
            run / CHECKPOINT,
            _Validation(session, batches, validator, run, log) if validator else None,
            plan.recipe.validation.every * len(photos),
            options.log_every,
            options.save_seconds,
            None if options.max_seconds is None else started + options.max_seconds,
        )
        ending = run_loop(
            session, batches, lambda step: feed(batches, step, parallel.device, workers=options.workers), log, between
        )
        session.save_weights(run / WEIGHTS)
        if parallel.main:
            _describe(run, plan, session, listener)
    return ending


def _describe(run: Path, plan: Plan, session: Session, listener: Listener) -> None:
    """Draw the run's curves and masks, and draft a model card."""
    try:
        plot(run)
    except MissingExtraError as error:  # not worth losing a training for
        listener.note(f"no curves are drawn: {error}")
    data = {**read_data(run), "share": plan.choice.share if plan.choice.val is None else None}
    write_card(
        run,
        recipe=plan.recipe.to_dict(),
        data=data,
        machine=environment(),
        parameters=sum(parameter.numel() for parameter in session.model.parameters()),
        weights=BEST if (run / BEST).exists() else WEIGHTS,
        resume=f"birefnet train --resume {run.name}",
    )


def _batches(plan: Plan, photos: Photos, parallel: Parallel) -> Batches:
    recipe = plan.recipe
    return Batches(
        photos,
        recipe.data,
        recipe.samples_of(len(photos)),
        recipe.seed,
        mean=plan.input_spec.mean,
        std=plan.input_spec.std,
        rank=parallel.rank,
        world=parallel.world,
        device=parallel.device,
    )


@dataclass
class _Validation:
    """Measures, logs, keeps the best weights, and tells whether to go on."""

    session: Session
    batches: Batches
    validator: Validator
    run: Path
    log: Log | None

    def __call__(self) -> bool:
        session, recipe = self.session, self.session.recipe.validation
        progress = session.progress
        measured = self.validator.measure(session)
        value = measured.values[recipe.metric]
        better = progress.best is None or recipe.better_is * (value - progress.best) > 0
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
    model.train()
    if recipe.lora is not None:
        if options.strategy == "fsdp" and parallel.world > 1:
            raise ConfigError("adapters are not trained with --strategy fsdp: use ddp, they need little memory")
        add_lora(model, recipe.lora)
    if recipe.freeze:
        freeze(model, recipe.freeze)
    layout = torch.channels_last if recipe.memory.channels_last else torch.contiguous_format
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
    recipe = replace(plan.recipe.data, sizes=f"{height}x{width}", augmentation=NONE, composition=Composition())
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
                device=parallel.device,
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
