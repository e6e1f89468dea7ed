"""The training program: `python -m birefnet.training train`, `pack`."""

import json
from pathlib import Path
from typing import Any

import click

from birefnet.config import ModelConfig
from birefnet.data.cache import load_pack, write_portable
from birefnet.errors import BiRefNetError, ConfigError
from birefnet.training.compact import WEIGHTS, Options, nano_config, train
from birefnet.training.schedule import PRECISIONS, Recipe, format_sizes, parse_sizes

_DEFAULT = Recipe()
_USUAL = Options()


class _Group(click.Group):
    """Shows the package's errors as one line each."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BiRefNetError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Train a small BiRefNet on one machine."""


@main.command("train")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with im/ and gt/, or a .npz pack.")
@click.option("--val", type=click.Path(path_type=Path), help="The same, to validate on.")
@click.option("--run", type=click.Path(path_type=Path), required=True, help="Folder of the run; resumed if it exists.")
@click.option("--config", type=click.Path(path_type=Path), help="JSON file with the network's configuration.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one field of the configuration.")
@click.option("--init", type=click.Path(path_type=Path), help="Weights to start from.")
@click.option("--samples", type=int, default=_DEFAULT.samples, help="Photos seen in the whole run.")
@click.option("--sizes", default=format_sizes(_DEFAULT.sizes), help="SIZE:SHARE of the samples, stage by stage.")
@click.option("--batch", type=int, default=_DEFAULT.batch, help="Photos a step.")
@click.option("--rate", type=float, default=_DEFAULT.rate, help="Peak learning rate.")
@click.option("--warm-up", type=float, default=_DEFAULT.warm_up, help="Share of the samples to reach it.")
@click.option("--weight-decay", type=float, default=_DEFAULT.weight_decay, help="Of AdamW.")
@click.option("--clip", type=float, default=_DEFAULT.clip, help="Largest norm of the gradient.")
@click.option("--ema", type=float, default=_DEFAULT.ema, help="Decay a step of the averaged weights.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=_DEFAULT.precision, help="Of the network.")
@click.option("--seed", type=int, default=_DEFAULT.seed, help="Of everything random.")
@click.option("--device", default=_USUAL.device, help="cpu or cuda.")
@click.option("--threads", type=int, help="CPU threads; by default one a core.")
@click.option("--prefetch/--no-prefetch", default=None, help="Make batches in a thread [default: on a GPU only].")
@click.option("--cache", type=click.Path(path_type=Path), default=_USUAL.cache, help="Folder for decoded photos.")
@click.option("--val-size", type=int, default=_USUAL.val_size, help="Input size to validate at and to save.")
@click.option("--val-every", type=int, default=_USUAL.val_every, help="Samples between two validations.")
@click.option("--log-every", type=int, default=_USUAL.log_every, help="Steps between two lines of the log.")
@click.option("--save-seconds", type=float, default=_USUAL.save_seconds, help="Between two checkpoints.")
@click.option("--max-seconds", type=float, help="Stop cleanly after this time.")
def train_command(
    data: Path,
    val: Path | None,
    run: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    init: Path | None,
    sizes: str,
    **values: Any,
) -> None:
    """Train a network, or go on with a run that was stopped.

    RUN receives checkpoint.pt, log.jsonl and, at every clean end, model.safetensors with the averaged weights.
    """
    recipe_values = {name: values.pop(name) for name in vars(_DEFAULT) if name in values}
    recipe = Recipe(sizes=parse_sizes(sizes), **recipe_values)
    options = Options(**values)
    network = read_config(config, overrides)
    ending = train(network, recipe, data, run, val=val, options=options, init=init, report=_show)
    click.echo(f"{ending}: {run / WEIGHTS}")
    if ending == "signal":
        raise SystemExit(130)


@main.command("pack")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--size", type=int, default=320, help="Side of the square that photos are stretched to.")
@click.option("--limit", type=float, default=40, help="Largest size of the file in megabytes.")
@click.option("--cache", type=click.Path(path_type=Path), default=_USUAL.cache, help="Folder for decoded photos.")
def pack_command(data: Path, output: Path, size: int, limit: float, cache: Path) -> None:
    """Pack the pairs of DATA (im/ and gt/) into the one file OUTPUT (.npz), to train from on another machine."""
    if output.suffix != ".npz":
        raise ConfigError(f"{output}: a pack's name must end in .npz")
    pack = load_pack(data, size, cache)
    quality = write_portable(pack, output, round(limit * 1e6))
    click.echo(
        f"{output}: {len(pack.names)} pairs at {size} px, JPEG quality {quality}, {output.stat().st_size / 1e6:.1f} MB"
    )


def read_config(path: Path | None, overrides: tuple[str, ...]) -> ModelConfig:
    """Read the network's configuration from a JSON file, or take the small one, and change single fields.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown or impossible.
    """
    values = nano_config().to_dict()
    if path:
        try:
            values = ModelConfig.from_dict(json.loads(path.read_text(encoding="utf-8"))).to_dict()
        except (OSError, json.JSONDecodeError, AttributeError) as error:
            raise ConfigError(f"{path}: cannot be read as a JSON configuration ({error})") from error
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set takes KEY=VALUE, not {override!r}")
        values[name] = int(text) if text.isdigit() else text
    return ModelConfig.from_dict(values)


def _show(line: dict[str, Any]) -> None:
    if "val" in line:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in line["val"].items())
        click.echo(f"step {line['step']}  validation  {figures}")
        return
    loss = f"loss {line['loss']:.3f}  norm {line['norm']:.1f}" if "loss" in line else "no usable step"
    times = " ".join(f"{name} {share:.0%}" for name, share in line["share_of_time"].items())
    rest = (line["steps"] / line["step"] - 1) * line["samples"] / line["images_per_second"]
    click.echo(
        f"step {line['step']}/{line['steps']}  {line['size']} px  {loss}  rate {line['rate']:.2e}  "
        f"{line['images_per_second']:.1f} images/s  ({times})  "
        f"{rest / 60:.0f} min left at this speed" + (f"  {line['skipped']} skipped" if line["skipped"] else "")
    )


if __name__ == "__main__":
    main(prog_name="python -m birefnet.training")
