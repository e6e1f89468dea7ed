"""What `birefnet train --dry-run` shows: the recipe, the data, the network, and what the run would take."""

import math
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import torch

from birefnet.cli.data.output import counted
from birefnet.data.batches import Stage, format_sizes
from birefnet.data.cache import raw_bytes
from birefnet.data.structures import Drawn
from birefnet.errors import BiRefNetError
from birefnet.inference.precision import emulates_bfloat16
from birefnet.model.count import count_cost
from birefnet.training.available import available_memory
from birefnet.training.fitting import largest_batch, savings
from birefnet.training.memory import Machine, Memory, cache_bytes, estimate_memory
from birefnet.training.parallel import Parallel
from birefnet.training.plan import Plan
from birefnet.training.processes import joined
from birefnet.training.recipe import Recipe
from birefnet.training.run import EMULATED, Options
from birefnet.training.sets import Source, count
from birefnet.training.timing import Probe, StageTime, can_probe, estimate_time, measure_step
from birefnet.training.trial import empty_network, largest_stage

_WIDTH = 13
_LISTED_SETS = 12

# An estimate may be off by so much.
_TIGHT = 0.8


def show_plan(plan: Plan, options: Options, *, probe: bool = True) -> None:
    """Print what a run would do and take, and whether this machine has the memory for it.

    Args:
        plan: the run.
        options: how and where it would run.
        probe: take a few small steps to tell the time; else only memory is estimated.

    Raises:
        BiRefNetError: the device does not exist, or the recipe cannot be carried out.
    """
    with joined(options.device, options.strategy) as parallel:
        if not parallel.main:
            return
        if options.threads:
            torch.set_num_threads(options.threads)
        _show_recipe(plan.recipe)
        _show_data(plan)
        _show_network(plan)
        _show_steps(plan)
        memory, available = _show_memory(plan, options, parallel)
        _show_disk(plan, options)
        _show_time(plan, parallel, memory, available, probe=probe)


def _show_recipe(recipe: Recipe) -> None:
    _title("Recipe, as recipe.toml in the folder of the run")
    click.echo(recipe.to_toml().rstrip())


def _show_data(plan: Plan) -> None:
    _title("Data")
    _row("train", _told(plan.sets.train))
    if plan.sets.validation is None:
        _row("validation", "none")
    else:
        _row("validation", _told(plan.sets.validation) + (", held out" if plan.choice.val is None else ""))
    for note in plan.sets.notes:
        _row("note", note)
    for problem in plan.sets.problems:
        _row("problem", f"{problem.file}: {problem.detail}")
    if isinstance(plan.sets.train, tuple):
        _row("check", "every file is looked at before the first step; birefnet data check does that alone")


def _told(source: Source) -> str:
    """Say what photos there are."""
    if isinstance(source, Path):
        return f"the pack {source}"
    if isinstance(source, Drawn):
        return f"{len(source):,} photos, drawn from seed {source.seed}"
    sets: dict[str, int] = {}
    for pair in source:
        sets[pair.data] = sets.get(pair.data, 0) + 1
    named = [f"{name} {number:,}" if len(sets) > 1 else name for name, number in sets.items()]
    more = f" and {len(named) - _LISTED_SETS} more sets" if len(named) > _LISTED_SETS else ""
    return f"{counted(len(source), 'photo')} of {', '.join(named[:_LISTED_SETS])}{more}"


def _show_network(plan: Plan) -> None:
    recipe = plan.recipe
    model = empty_network(recipe)
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stage = largest_stage(recipe.data)
    macs = count_cost(model, (stage.height, stage.width)).macs
    _title("Network")
    _row("backbone", recipe.model.backbone)
    _row("parameters", f"{every / 1e6:,.2f} million, of which {trained / 1e6:,.2f} million are trained")
    _row("work", f"{macs / 1e9:,.1f} GMACs a photo of {stage.height} x {stage.width}")
    if recipe.start:
        _row("start", recipe.start)
    elif recipe.pretrained_backbone:
        _row("start", f"random weights, the backbone pretrained ({recipe.pretrained_backbone})")
    else:
        _row("start", "random weights")


def _show_steps(plan: Plan) -> None:
    recipe = plan.recipe
    _title("Steps")
    samples = _samples(plan)
    photos = count(plan.sets.train)
    if samples is None:
        _row("length", f"{recipe.epochs:g} epochs of batches of {recipe.data.batch}")
    else:
        steps = math.ceil(samples / recipe.data.batch)
        epochs = f", {samples / photos:,.4g} epochs" if photos else ""
        _row("length", f"{counted(steps, 'step')} of {counted(recipe.data.batch, 'photo')}{epochs}")
        if recipe.data.dynamic is None:
            for stage in recipe.data.stages:
                kept = ", as many pixels in the photos' proportions" * recipe.data.keep_aspect
                _row("", f"{round(stage.share * steps):,} steps at {stage.height} x {stage.width}{kept}")
    if recipe.data.dynamic is not None:
        low, high = recipe.data.dynamic
        _row("sizes", f"sides drawn from {low} to {high}; the memory below is that of {high} x {high}")


def _show_memory(plan: Plan, options: Options, parallel: Parallel) -> tuple[Memory, int | None]:
    recipe, device = plan.recipe, parallel.device
    machine = Machine(device.type, parallel.world, parallel.strategy)
    memory = estimate_memory(recipe, machine, photos=_packed(plan.sets.train, options))
    available = available_memory(device)
    if available is not None and device.type == "cpu":
        available //= parallel.world  # as if all were on this machine
    _title("Memory of each process, estimated (within about 20 %)")
    if memory.program:
        _row("program", _size(memory.program))
    kept = [name for name, part in (("optimizer", memory.moments), ("average", memory.average)) if part]
    _row("kept", f"{_size(memory.weights + memory.moments + memory.average)}: {', '.join(['weights', *kept])}")
    _row("working", f"{_size(memory.working)}: activations, gradients and the batch at the fullest moment")
    _row("beside", f"{_size(memory.slack)}: the libraries' own, and holes between tensors")
    if memory.photos:
        _row("photos", f"up to {_size(memory.photos)} more of decoded photos, given back where it is needed")
    _row("in all", f"{_size(memory.needed)} with batches of {counted(recipe.data.batch, 'photo')}")
    if recipe.memory.compile:
        _row("", "without memory.compile, which changes this either way")
    if available is None:
        _row("here", f"how much memory {device} has cannot be told")
        return memory, None
    if memory.needed <= available:
        verdict = "fits" if memory.needed < _TIGHT * available else "fits, but only just"
        _row("here", f"{verdict}: {_size(available)} are free on {device}")
        most = largest_batch(recipe, machine, memory, available)
        if most > recipe.data.batch:
            _row("", f"batches of up to about {most:,} would fit")
        return memory, available
    _row("WARNING", f"this does not fit: {_size(available)} are free on {device}")
    most = largest_batch(recipe, machine, memory, available)
    _row("", f"batches of {most:,} would fit: --batch {most}" if most else "nor do batches of 2")
    for saving in savings(recipe, machine, available):
        fits = f"batches of up to {saving.batch:,} fit" if saving.batch else "does not fit either"
        settings = " ".join(f"--set {shlex.quote(setting)}" for setting in saving.settings)
        _row("", f"with {settings}: {_size(saving.memory.needed)}, {fits}")
    return memory, available


def _show_disk(plan: Plan, options: Options) -> None:
    """Say what decoded photos take on the disk, where any are written."""
    if options.cache is None:
        return
    needed = cache_bytes(plan.recipe.data, _packed(plan.sets.train, options))
    if not plan.input_spec.keep_aspect:
        needed += raw_bytes(_packed(plan.sets.validation, options), plan.input_spec.size)
    if not needed:
        return
    folder = options.cache.resolve()
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    _title("Disk")
    _row("photos", f"{_size(needed)} of decoded photos in {options.cache}, where {_size(free)} are free")
    if needed > free:
        _row("WARNING", "not all fit: the rest is decoded each time, which is slow; --cache DIR names another folder")


def _show_time(plan: Plan, parallel: Parallel, memory: Memory, available: int | None, *, probe: bool) -> None:
    _title("Time, estimated from a few small steps just now" if probe else "Time")
    if plan.recipe.precision == "bfloat16" and emulates_bfloat16(parallel.device):
        _row("WARNING", EMULATED.format(device=parallel.device))
    if not probe:
        _row("", "not estimated: no step was tried")
        return
    if not can_probe(memory, available):
        _row("", "not estimated: there is no room to try a step")
        return
    try:
        measured = measure_step(plan.recipe, parallel.device)
    except (BiRefNetError, torch.OutOfMemoryError) as error:
        _row("", f"not estimated: {str(error).splitlines()[0]}")
        return
    samples = _samples(plan)
    times = estimate_time(plan.recipe, measured, samples or 1, parallel.world)
    # Processes on one CPU share its cores.
    world = parallel.world if parallel.device.type != "cpu" else 1
    for line in _time_lines(plan.recipe, times, measured, world):
        _row("", line)
    if samples is not None:
        total = sum(time.seconds for time in times) * parallel.world / world
        _row("in all", f"{_duration(total)}, validations and decoding not counted; other work makes it longer")


def _time_lines(recipe: Recipe, times: Iterable[StageTime], probe: Probe, world: int) -> Iterable[str]:
    yield f"a step of {probe.batch} photos of {probe.height} x {probe.width} took {probe.seconds:.2f} s; by the work,"
    for time in times:
        stage = Stage(time.stage.height, time.stage.width, 1.0)
        drawn = " (the mean of what is drawn)" if recipe.data.dynamic else ""
        rate = time.images_per_second * world
        yield f"at {format_sizes([stage])}{drawn}: {rate:.3g} photos a second, {recipe.data.batch / rate:.3g} s a step"


def _samples(plan: Plan) -> int | None:
    """How many photos are seen in all; None where that depends on a pack not opened yet."""
    if plan.recipe.samples is not None:
        return plan.recipe.samples
    photos = count(plan.sets.train)
    return None if photos is None else plan.recipe.samples_of(photos)


def _packed(source: Source | None, options: Options) -> int:
    """How many photos of a source are kept decoded on the disk."""
    return len(source) if isinstance(source, tuple) and options.cache is not None else 0


def _title(text: str) -> None:
    click.echo(f"\n{text}\n{'-' * len(text)}")


def _row(name: str, text: str) -> None:
    first, *others = text.splitlines() or [""]
    click.echo(f"{name:<{_WIDTH}}{first}")
    for line in others:
        click.echo(f"{'':<{_WIDTH}}{line}")


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    """Say a time as a person would."""
    steps: Sequence[tuple[float, str]] = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
    for length, name in steps:
        if seconds >= 1.5 * length:
            return (
                f"about {seconds / length:.2g} {name}"
                if seconds < 100 * length
                else f"about {seconds / length:.0f} {name}"
            )
    return "about a second"
