"""Time the whole product, from JPEG to cut-out: python benchmarks/cutout.py.

Needs scikit-image, for its photos: enlarged, and with fine texture and a sensor's noise laid over. The bundled model
runs on ONNX Runtime, or another one by --model. Measured are the start of the command line, a folder of photos through
it, each in a process of its own, photos of 12 to 48 megapixels through the library, part by part, and a folder of them,
whose parts overlap.
"""

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from skimage import data

import birefnet
from birefnet.batch.pipeline import run
from birefnet.batch.plan import Job
from birefnet.imaging.decide import finer
from birefnet.imaging.io import encode_image, read_photo
from birefnet.imaging.matte import Matte
from birefnet.imaging.postprocess import restore, without_scraps
from birefnet.imaging.preprocess import colours, prepare
from birefnet.predictor import Predictor

SUBJECTS = ("astronaut", "chelsea", "coffee")
SMALL = (1600, 1250)  # width, height
LARGE = {12: (4000, 3000), 24: (6000, 4000), 48: (8000, 6000)}  # by megapixels
OCTAVES = (1, 2, 4, 8)  # pixels from wave to wave of the texture
TEXTURE_STD, NOISE_STD = 5.0, 2.5  # of 255 levels
QUALITY = 92
PARTS = ("decode", "prepare", "network", "restore", "colours", "cut-out", "encode as PNG")


def make_photo(number: int, size: tuple[int, int]) -> bytes:
    """Make the JPEG of a photo; its number decides what there is to see, and all that is random."""
    random = np.random.default_rng(number)
    subject: NDArray[np.uint8] = getattr(data, SUBJECTS[number % len(SUBJECTS)])()
    if number // len(SUBJECTS) % 2:
        subject = subject[:, ::-1]
    enlarged = ImageOps.fit(Image.fromarray(subject), size, Image.Resampling.LANCZOS)
    width, height = size
    texture = np.zeros((height, width), np.float32)
    for octave in OCTAVES:
        waves = random.standard_normal((height // octave, width // octave), np.float32)
        texture += np.asarray(Image.fromarray(waves).resize(size, Image.Resampling.BICUBIC))
    texture *= TEXTURE_STD / texture.std()
    noise = NOISE_STD * random.standard_normal((height, width, 3), np.float32)
    pixels = np.rint(np.asarray(enlarged) + texture[..., None] + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def command_line(*arguments: str | Path) -> tuple[float, float, str]:
    """Run `birefnet` in a process of its own: seconds, peak memory in MiB, and what it said on standard error.

    Linux counts at least the memory of the process that starts another: be small when calling.
    """
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "birefnet", *arguments], stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this process alone, not of all before it
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise SystemExit(text)
    return seconds, usage.ru_maxrss / 1024, text


def start_up(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of the command line's start."""
    runs = [command_line("--help")[0] for _ in range(options.repeats + 1)][1:]
    yield "| command | seconds |"
    yield "| --- | --- |"
    yield f"| `birefnet --help` | {statistics.median(runs):.2f} |"


def folder(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of a folder of photos."""
    with tempfile.TemporaryDirectory() as temporary:
        photos, results = Path(temporary, "photos"), Path(temporary, "results")
        photos.mkdir()
        for number in range(options.photos):
            Path(photos, f"{number:03}.jpg").write_bytes(make_photo(number, SMALL))
        read = sum(file.stat().st_size for file in photos.iterdir()) / options.photos
        seconds, memory, summary = command_line("cutout", photos, "-o", f"{results}/")
        written = sum(file.stat().st_size for file in results.iterdir()) / options.photos
    rate = re.search(r"\(([\d.]+) a second\)", summary)
    assert rate is not None
    yield "| photos | JPEG | PNG | by its own summary | whole process | peak memory |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield (
        f"| {options.photos} of {SMALL[0]} x {SMALL[1]} | {read / 1e6:.2f} MB | {written / 1e6:.2f} MB "
        f"| {rate[1]} a second | {seconds:.1f} s, {options.photos / seconds:.1f} a second | {memory:.0f} MiB |"
    )


def parts_of(file: bytes, predictor: Predictor) -> tuple[list[float], int]:
    """Take a photo from JPEG to PNG; returns the seconds of each of `PARTS`, and the bytes of the PNG."""
    moments = [time.perf_counter()]

    def now() -> None:
        moments.append(time.perf_counter())

    photo = read_photo(file)
    now()
    images = prepare(photo.rgb, predictor.spec)[None]
    now()
    decided = predictor.spec.crf > 0
    seen = None
    if decided:
        seen = colours(photo.rgb, finer((images.shape[2], images.shape[3])), predictor.spec.resize)[None]
    alpha = predictor.segment(images, seen=seen)[0, 0]
    now()
    alpha = without_scraps(alpha) if decided else alpha
    matte = Matte(photo, restore(alpha, photo.rgb.shape[:2], predictor.spec.resize, decided=decided))
    now()
    foreground = matte.foreground
    now()
    assert foreground.shape == photo.rgb.shape
    image = matte.cutout()
    now()
    size = len(encode_image(image, ".png"))
    now()
    return np.diff(moments).tolist(), size


def large_photo(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of large photos, part by part."""
    predictor = birefnet.load(options.model)
    yield f"| photo | JPEG | PNG | {' | '.join(PARTS)} | total |"
    yield "| --- | --- | --- |" + " --- |" * len(PARTS) + " --- |"
    for megapixels in options.megapixels:
        for number, subject in enumerate(SUBJECTS[: 1 if megapixels > 12 else None]):
            file = make_photo(number, LARGE[megapixels])
            runs, sizes = zip(*(parts_of(file, predictor) for _ in range(options.repeats + 1)), strict=True)
            medians = [statistics.median(column) for column in zip(*runs[1:], strict=True)]
            medians.append(statistics.median(sum(run) for run in runs[1:]))
            cells = " | ".join(f"{seconds:.2f} s" for seconds in medians)
            width, height = LARGE[megapixels]
            yield f"| {subject}, {width} x {height} | {len(file) / 1e6:.1f} MB | {sizes[0] / 1e6:.1f} MB | {cells} |"


def overlap(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of a folder of large photos, whose parts overlap."""
    predictor = birefnet.load(options.model)
    yield "| photos | one after the other | of it the network | as a folder | over the network | over half of all |"
    yield "| --- | --- | --- | --- | --- | --- |"
    size, count = LARGE[12], options.large_photos
    with tempfile.TemporaryDirectory() as temporary:
        jobs = []
        for number in range(count):
            source = Path(temporary, f"{number:03}.jpg")
            source.write_bytes(make_photo(number, size))
            jobs.append(Job(source, Path(temporary, "results", f"{number:03}.png")))
        parts_of(jobs[0].source.read_bytes(), predictor)  # what a process does once
        alone = np.array([parts_of(job.source.read_bytes(), predictor)[0] for job in jobs]).mean(axis=0)
        start = time.perf_counter()
        errors = [result.error for result in run(jobs, predictor, Matte.cutout) if result.error]
        seconds = (time.perf_counter() - start) / count
    if errors:
        raise SystemExit(str(errors[0]))
    network, total = alone[PARTS.index("network")], alone.sum()
    yield (
        f"| {count} of {size[0]} x {size[1]} | {total:.2f} s | {network:.2f} s | {seconds:.2f} s "
        f"| {seconds / network:.2f} | {2 * seconds / total:.2f} |"
    )


# The large photos come last: before them, this process is smaller than those it measures.
TABLES = {"start": start_up, "folder": folder, "large": large_photo, "overlap": overlap}


def main() -> None:
    """Parse the options and print the tables."""
    parser = argparse.ArgumentParser(description="Time the whole product, from JPEG to cut-out.")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of a large photo and --help (default: 5)")
    parser.add_argument("--photos", type=int, default=100, help="photos in the folder (default: 100)")
    parser.add_argument("--large-photos", type=int, default=12, help="large photos in a folder (default: 12)")
    parser.add_argument("--model", default="nano", help="for the large photos (default: nano)")
    parser.add_argument(
        "--megapixels", type=int, nargs="+", choices=LARGE, default=list(LARGE), help="large photos (default: all)"
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="tables (default: all)")
    options = parser.parse_args()
    print(f"model {options.model}, {os.cpu_count()} cores, medians of {options.repeats} runs after one more\n")
    for name in options.only:
        table = TABLES[name]
        for line in table(options):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
