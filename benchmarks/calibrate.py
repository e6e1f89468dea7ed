"""Choose how weights are run, on photos with masks: python benchmarks/calibrate.py MODEL --data DIR.

Scores DIR (foreground above 127) with the network's input at several sizes, with and without the mirror image, whose
colours may be balanced, and with several offsets taken from the logits and several factors on what is left: the logits
of an undertrained network are small, so that its masks stay grey (Platt: "Probabilistic outputs for support vector
machines", 1999), and with several weights of the CRF that lets pixels that look alike agree. With --size, --factor,
--offset, --balance, --crf and --output the choice is written: factor and offset into the last convolution, all else and
whether photos keep their proportions into the preprocessing.

--blend takes a share of other weights, of a training that this one began from, before all else: what is between the two
can keep what the last training forgot, and score better than either (Wortsman et al., "Robust fine-tuning of zero-shot
models", CVPR 2022).
"""

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch

import birefnet
from birefnet import BiRefNet, BiRefNetError
from birefnet.config import MAX_CRF
from birefnet.data.pairs import Pair, find_pairs
from birefnet.errors import ConfigError
from birefnet.imaging.decide import decide, finer
from birefnet.imaging.io import read_photo
from birefnet.imaging.masks import read_map
from birefnet.imaging.postprocess import restore, without_scraps
from birefnet.imaging.preprocess import colours, grey_world, mirrored, prepare
from birefnet.metrics import Conventions, Scorer

_VALUES = ("maxF", "S", "wF", "MAE", "mBA", "maxBIoU")


def blend(network: BiRefNet, other: Path, share: float) -> None:
    """Move a network's weights and statistics by a share of the way to others of the same kind.

    Raises:
        ConfigError: they are of another network.
    """
    second = birefnet.load_model(other)
    if second.config != network.config:
        raise ConfigError(f"{other}: is another kind of network, whose weights mean something else")
    found = second.state_dict()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(found[name], share)


@torch.inference_mode()
def write_logits(model: BiRefNet, pairs: list[Pair], size: int, balance: float, folder: Path) -> None:
    """Write each photo's logits, those of its mirror image, mirrored back, (2, h, w), and its colours, (3, H, W)."""
    spec = replace(model.input_spec, size=(size, size), balance=balance)
    for number, pair in enumerate(pairs):
        rgb = read_photo(pair.image).rgb
        images = prepare(rgb, spec)[None]
        looks = np.concatenate([images, mirrored(images, grey_world(images, spec), spec)])
        both = model(torch.from_numpy(looks)).float().numpy()
        logits = np.concatenate([both[0], both[1, ..., ::-1]])
        seen = colours(rgb, finer((images.shape[2], images.shape[3])), spec.resize)
        np.savez(folder / f"{number}.npz", logits=logits, seen=seen)


def score(
    pairs: list[Pair], folder: Path, factor: float, offset: float, crf: float, mirror: bool, resize: str
) -> dict[str, float]:
    """Score what the logits give."""
    scorer = Scorer(("F", "S", "wF", "MAE", "mBA", "BIoU"), Conventions(truth_above=127))
    for number, pair in enumerate(pairs):
        written = np.load(folder / f"{number}.npz")
        joined = written["logits"].mean(0) if mirror else written["logits"][0]
        truth = read_map(pair.mask).levels
        coarse = np.float32(1) / (1 + np.exp(-np.float32(factor) * (joined - np.float32(offset))))
        if crf:
            coarse = without_scraps(decide(coarse[None], written["seen"][None], crf)[0])
        alpha = restore(coarse, (truth.shape[0], truth.shape[1]), resize, decided=crf > 0)
        scorer.update(np.rint(alpha * 255).astype(np.uint8), truth)
    values = scorer.compute()
    return {name: values[name] for name in _VALUES}


def numbers(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[float]:
    """Read numbers, parted by commas."""
    try:
        return [] if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"takes numbers, parted by commas, not {text!r}") from None


def crf_weights(context: click.Context, parameter: click.Parameter, text: str | None) -> list[float]:
    """Read numbers from 0 to the most that a CRF weighs, parted by commas."""
    found = numbers(context, parameter, text)
    if not all(0 <= weight <= MAX_CRF for weight in found):
        raise click.BadParameter(f"takes numbers from 0 to {MAX_CRF:g}, parted by commas, not {text!r}")
    return found


def numbers_above_zero(context: click.Context, parameter: click.Parameter, text: str) -> list[float]:
    """Read numbers above 0, parted by commas."""
    found = numbers(context, parameter, text)
    if min(found) <= 0:
        raise click.BadParameter(f"takes numbers above 0, parted by commas, not {text!r}")
    return found


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--blend",
    "other",
    nargs=2,
    type=(click.Path(exists=True, dir_okay=False, path_type=Path), click.FloatRange(0, 1)),
    metavar="FILE SHARE",
    help="Take this share of the weights from another file.",
)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--sizes", default="256,320,384", show_default=True, callback=numbers_above_zero, help="Sides of the input to try."
)
@click.option("--factors", default="1,1.5,2.5", show_default=True, callback=numbers_above_zero, help="Factors to try.")
@click.option("--offsets", default="0", show_default=True, callback=numbers, help="Offsets to try.")
@click.option(
    "--balances",
    callback=numbers,
    help="How far to balance the colours of the mirror image, to try.  [default: that of MODEL]",
)
@click.option("--crfs", callback=crf_weights, help="Weights of the CRF to try.  [default: that of MODEL]")
@click.option("--size", type=int, help="The chosen side.  [default: that of MODEL]")
@click.option("--factor", type=click.FloatRange(min=0, min_open=True), help="The chosen factor.  [default: 1]")
@click.option("--offset", type=float, help="The chosen offset.  [default: 0]")
@click.option("--balance", type=click.FloatRange(0, 1), help="The chosen balance.  [default: that of MODEL]")
@click.option("--crf", type=click.FloatRange(0, MAX_CRF), help="The chosen weight.  [default: that of MODEL]")
@click.option("--mirror/--no-mirror", default=None, help="The choice about the mirror image.  [default: that of MODEL]")
@click.option(
    "--keep-aspect/--no-keep-aspect",
    default=None,
    help="Whether photos keep their proportions, in the scores as well.  [default: that of MODEL]",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the weights so.")
def main(
    model: Path,
    other: tuple[Path, float] | None,
    data: Path | None,
    sizes: list[float],
    factors: list[float],
    offsets: list[float],
    balances: list[float],
    crfs: list[float],
    size: int | None,
    factor: float | None,
    offset: float | None,
    balance: float | None,
    crf: float | None,
    mirror: bool | None,
    keep_aspect: bool | None,
    output: Path | None,
) -> None:
    """Score and choose."""
    if data is None and output is None:
        raise click.UsageError("nothing to do: name --data to score, or --output to write what was chosen")
    if output is None and any(choice is not None for choice in (size, factor, offset, balance, crf, mirror)):
        raise click.UsageError(
            "--size, --factor, --offset, --balance, --crf and --mirror are what --output writes: name it, too"
        )
    try:
        network = birefnet.load_model(model).eval()
        if network.config.refiner is not None or network.config.custom:
            raise click.ClickException(f"{model}: its logits are those of a refiner or of a part of one's own")
        if other is not None:
            blend(network, *other)
        if keep_aspect is not None:
            network.input_spec = replace(network.input_spec, keep_aspect=keep_aspect)
        if data is not None:
            looks = list(itertools.product([int(side) for side in sizes], balances or [network.input_spec.balance]))
            choices = list(itertools.product((False, True), factors, offsets, crfs or [network.input_spec.crf]))
            tabulate(network, find_pairs(data), looks, choices)
        if output is not None:
            with torch.no_grad():
                for name, parameter in network.decoder.head.named_parameters():
                    parameter.sub_((offset or 0.0) if name == "bias" else 0.0).mul_(factor or 1.0)
            spec = network.input_spec
            side = (size, size) if size else spec.size
            network.input_spec = replace(
                spec,
                size=side,
                mirror=spec.mirror if mirror is None else mirror,
                balance=spec.balance if balance is None else balance,
                crf=spec.crf if crf is None else crf,
            )
            birefnet.save_model(network, output)
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error


def tabulate(
    network: BiRefNet,
    pairs: list[Pair],
    looks: list[tuple[int, float]],
    choices: list[tuple[bool, float, float, float]],
) -> None:
    """Print the scores of all choices: sizes and balances, and of each mirror, factor, offset and weight of the CRF."""
    click.echo("| size | balance | mirror | factor | offset | CRF | " + " | ".join(_VALUES) + " |")
    click.echo("| --- " * (6 + len(_VALUES)) + "|")
    for side, balance in looks:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with TemporaryDirectory() as folder, ProcessPoolExecutor(mp_context=context) as pool:
            write_logits(network, pairs, side, balance, Path(folder))
            runs = [
                pool.submit(score, pairs, Path(folder), factor, offset, crf, mirror, network.input_spec.resize)
                for mirror, factor, offset, crf in choices
            ]
            for (mirror, *others), running in zip(choices, runs, strict=True):
                cells = [str(side), f"{balance:g}", "yes" if mirror else "no", *(f"{value:g}" for value in others)]
                cells += [f"{value:.4f}" for value in running.result().values()]
                click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
