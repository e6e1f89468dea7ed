"""Train nano's network many times for a short while, one thing changed each time, and score each on other photos.

    python benchmarks/ablate.py --data DATA/train --val DATA/val -o runs/ablation

Needs the extra `train`. Every run starts from random weights and sees the same number of photos; the averaged weights
of its last step are scored by the run itself, at one look. The first two runs differ by their seed alone: what
lies between those two says how much a single run tells. After an interruption the same command goes on.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

RUNS: dict[str, dict[str, str]] = {
    "as it is": {},
    "as it is, another seed": {"seed": "2"},
    "attention: deformable": {"model.attention": "deformable"},
    "attention: none": {"model.attention": "none"},
    "inward: patches": {"model.inward": "patches"},
    "inward: none": {"model.inward": "none"},
    "outward: none": {"model.outward": "false"},
    "gradient label: laplacian": {"loss.gradient_label": "laplacian"},
    "photos stretched": {"data.keep_aspect": "false"},
    "detail block: none": {"model.detail_channels": "0"},
    "decoder and attention: 16 channels": {"model.decoder_channels": "16", "model.attention_channels": "16"},
    "decoder and attention: 64 channels": {"model.decoder_channels": "64", "model.attention_channels": "64"},
    "one scale": {"model.scale_fusion": "none"},
    "no side predictions, outward: none": {"model.side_supervision": "false", "model.outward": "false"},
    "paste: 0.25": {"data.composition.paste": "0.25"},
    "paste: 0": {"data.composition.paste": "0"},
    "structures: 0": {"data.composition.structures": "0"},
    "structures: 0.1": {"data.composition.structures": "0.1"},
    "lights: 0.15": {"data.composition.lights": "0.15"},
    "tint: 0.3": {"data.augmentation.tint": "0.3"},
    "scenes: 0.15": {"data.composition.scenes": "0.15"},
    "slender: 0.35 of paste: 0.15": {"data.composition.paste": "0.15", "data.composition.slender": "0.35"},
    "SSIM: 0": {"loss.pixel.ssim": "0"},
    "structure loss: 10": {"loss.pixel.structure": "10"},
}
_MEASURES = ("maxF", "S", "wF", "MAE", "mBA")


def train(folder: Path, data: Path, val: Path, settings: dict[str, str]) -> dict[str, float]:
    """Train one network; return its measures and the median of the photos that it saw in a second."""
    command = [sys.executable, "-m", "birefnet", "train", "--recipe", "nano", "--log-every=20", "--no-tensorboard"]
    places = ["--no-check", f"--data={data}", f"--val={val}", f"--output={folder}"]
    subprocess.run([*command, *places, *(f"--set={name}={value}" for name, value in settings.items())], check=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = next(line["val"] for line in reversed(lines) if "val" in line)
    speed = statistics.median(line["images_per_second"] for line in lines if "images_per_second" in line)
    return {name: measured[name] for name in _MEASURES} | {"photos/s": speed}


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Photos to train on.")
@click.option("--val", type=click.Path(path_type=Path, exists=True), required=True, help="Photos to score.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--samples", type=int, default=12_000, show_default=True, help="Photos that each run sees.")
@click.option("--sizes", default="128", show_default=True, help="Sizes of the photos, as data.sizes.")
@click.option("--size", type=int, default=192, show_default=True, help="Side of the input when scoring.")
@click.option("--precision", default="bfloat16", show_default=True, help="As of the recipe; float32 on older CPUs.")
@click.option("--only", multiple=True, type=click.Choice(sorted(RUNS)), help="Only these runs; repeatable.")
def main(
    data: Path, val: Path, output: Path, samples: int, sizes: str, size: int, precision: str, only: tuple[str, ...]
) -> None:
    """Train and score what is not done yet, then print the table."""
    common = {
        **{"seed": "1", "samples": str(samples), "precision": precision, "data.sizes": f'"{sizes}"'},
        **{"validation.size": f'"{size}"', "validation.every": "0"},
    }
    asked = common | {"data": str(data.resolve()), "val": str(val.resolve())}
    results = output / "results.json"
    kept: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"asked": asked, "rows": {}}
    if kept["asked"] != asked:
        raise click.ClickException(f"{results}: is of other photos or settings; choose another folder")
    rows: dict[str, dict[str, float]] = kept["rows"]
    for name in only or RUNS:
        if name not in rows:
            folder = output / "".join(letter for letter in name.replace(" ", "-") if letter not in ":,.")
            rows[name] = train(folder, data, val, common | RUNS[name])
            results.write_text(json.dumps(kept, indent=2) + "\n")
    click.echo(f"| {samples:,} samples at {sizes}, scored at {size} | {' | '.join(_MEASURES)} | photos/s |")
    click.echo(f"|---|{'--:|' * (len(_MEASURES) + 1)}")
    for name, row in rows.items():
        measures = " | ".join(f"{row[measure]:.4f}" for measure in _MEASURES)
        click.echo(f"| {name} | {measures} | {row['photos/s']:.0f} |")


if __name__ == "__main__":
    main()
