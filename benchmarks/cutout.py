"""Time the whole product, from JPEG to cut-out: python benchmarks/cutout.py.

Needs scikit-image, for its photos: enlarged, and with fine texture and a sensor's noise laid over. The bundled model
runs on ONNX Runtime. Measured are the start of the command line, a folder of photos through it, each in a process of
its own, and one large photo through the library, part by part.
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
from birefnet.imaging.io import encode_image, read_photo

SUBJECTS = ("astronaut", "chelsea", "coffee")
LARGE, SMALL = (4000, 3000), (1600, 1250)  # width, height
OCTAVES = (1, 2, 4, 8)  # pixels from wave to wave of the texture
TEXTURE_STD, NOISE_STD = 5.0, 2.5  # of 255 levels
QUALITY = 92
PARTS = ("decode", "prepare, network, restore", "colours", "encode as PNG")


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


def large_photo(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of one large photo, part by part."""
    predictor = birefnet.load()
    yield f"| photo of {LARGE[0]} x {LARGE[1]} | JPEG | PNG | {' | '.join(PARTS)} | total |"
    yield "| --- | --- | --- |" + " --- |" * len(PARTS) + " --- |"
    for number, subject in enumerate(SUBJECTS):
        file, encoded = make_photo(number, LARGE), b""
        runs = []
        for _ in range(options.repeats + 1):
            moments = [time.perf_counter()]
            photo = read_photo(file)
            moments.append(time.perf_counter())
            matte = predictor.predict(photo)
            moments.append(time.perf_counter())
            image = matte.cutout()
            moments.append(time.perf_counter())
            encoded = encode_image(image, ".png")
            moments.append(time.perf_counter())
            runs.append([*np.diff(moments), moments[-1] - moments[0]])
        medians = [statistics.median(column) for column in zip(*runs[1:], strict=True)]
        sizes = f"{len(file) / 1e6:.1f} MB | {len(encoded) / 1e6:.1f} MB"
        yield f"| {subject} | {sizes} | " + " | ".join(f"{seconds:.2f} s" for seconds in medians) + " |"


def main() -> None:
    """Parse the options and print the tables."""
    parser = argparse.ArgumentParser(description="Time the whole product, from JPEG to cut-out.")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of a large photo and --help (default: 5)")
    parser.add_argument("--photos", type=int, default=100, help="photos in the folder (default: 100)")
    options = parser.parse_args()
    print(f"model nano on ONNX Runtime, {os.cpu_count()} cores, medians of {options.repeats} runs after one more\n")
    # The large photo comes last: before it, this process is smaller than those it measures.
    for table in (start_up, folder, large_photo):
        for line in table(options):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
