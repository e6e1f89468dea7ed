"""`birefnet data`: what is done to photos and masks before a training."""

import click

from birefnet.cli.data.check import check
from birefnet.cli.data.draw import draw
from birefnet.cli.data.options import HELP
from birefnet.cli.data.pack import pack
from birefnet.cli.data.stats import stats


@click.group(context_settings=HELP)
def data() -> None:
    """Check and describe photos and masks to train on.

    SPEC is a folder with photos in im/ and masks in gt/ (or images/ and masks/, image/ and mask/, img/ and gt/); one
    with both, where masks are called cat_mask.png or cat-alpha.png; a CSV file with the columns image, mask and, if
    wanted, class; or several of these, joined as ROOT/TASK/SET1+SET2.
    """


for _command in (check, draw, pack, stats):
    data.add_command(_command)
