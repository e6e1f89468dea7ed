"""Draw a model's results beside their photos: python benchmarks/gallery.py PHOTO[@LEFT,TOP,SIDE]... -o DIR.

For every photo DIR/NAME.jpg shows it, the mask and the object on yellow. Where a square of the photo is named, the same
of it follows below at twice its size, for the edges.
"""

import re
from pathlib import Path

import click
from PIL import Image

import birefnet
from birefnet import BiRefNetError

_HEIGHT = 240
_GAP = 6
_GROUND = "#ffd84d"
_PAPER = "white"

Box = tuple[int, int, int, int]


def row(images: list[Image.Image]) -> Image.Image:
    """Set images of one size beside one another."""
    width, height = images[0].size
    strip = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), _PAPER)
    for place, image in enumerate(images):
        strip.paste(image.convert("RGB"), (place * (width + _GAP), 0))
    return strip


def sheet(rows: list[Image.Image]) -> Image.Image:
    """Set rows below one another, in the middle."""
    width = max(each.width for each in rows)
    whole = Image.new("RGB", (width, sum(each.height + _GAP for each in rows) - _GAP), _PAPER)
    top = 0
    for each in rows:
        whole.paste(each, ((width - each.width) // 2, top))
        top += each.height + _GAP
    return whole


def parse(text: str) -> tuple[Path, Box | None]:
    """Read PHOTO or PHOTO@LEFT,TOP,SIDE."""
    match = re.fullmatch(r"(.+)@(\d+),(\d+),(\d+)", text)
    if match is None:
        return Path(text), None
    left, top, side = (int(number) for number in match.groups()[1:])
    return Path(match[1]), (left, top, left + side, top + side)


@click.command(help=__doc__)
@click.argument("photos", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--model", default="nano", show_default=True, help="A name or a file.")
def main(photos: tuple[str, ...], output: Path, model: str) -> None:
    """Draw a sheet for each photo."""
    try:
        predictor = birefnet.load(model)
        mattes = [(path, box, predictor.predict(path)) for path, box in map(parse, photos)]
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error
    output.mkdir(parents=True, exist_ok=True)
    for path, box, matte in mattes:
        images = [Image.fromarray(matte.photo.rgb), matte.mask(), matte.composite(_GROUND)]
        width = round(_HEIGHT * images[0].width / images[0].height)
        rows = [row([image.resize((width, _HEIGHT), Image.Resampling.LANCZOS) for image in images])]
        if box is not None:
            side = 2 * (box[2] - box[0])
            # Each pixel stays a square of four: the edge is to be seen as it is.
            rows.append(row([image.crop(box).resize((side, side), Image.Resampling.NEAREST) for image in images]))
        sheet(rows).save(output / f"{path.stem}.jpg", quality=85)
        click.echo(output / f"{path.stem}.jpg")


if __name__ == "__main__":
    main()
