"""Read damaged image files by the thousand: each must give a photo, or an ImageError of one printable line.

    python benchmarks/fuzz_images.py --count 20000 --seed 0 --save runs/fuzz

Small files of many kinds are damaged by a rule of the seed and the index alone. Any other exception, a warning, over
10 seconds, a process that ever held over 2 GB and a crash of the interpreter are failures. Worker processes tell of
each file as it is done, so the one at which a worker dies or hangs is known. For Linux, whose peaks are in KiB.
"""

import io
import itertools
import multiprocessing
import os
import random
import re
import resource
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageCms
from rich.progress import track

from birefnet.errors import ImageError
from birefnet.imaging.io import read_photo

SECONDS, PEAK_KIB, CHUNK = 10, 2 * 2**20, 200
RESULTS = ("read", "refused", "failed")
PNG = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 13_000, 2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
# Of each format, where its parts begin; a pattern, how far behind it width and height are, and in how many bytes.
FORMATS: dict[str, tuple[bytes, bytes, tuple[int, int], int]] = {
    "jpeg": (rb"(?=\xff[\xc0-\xfe])", rb"\xff[\xc0-\xc2]\x00", (5, 7), 2),
    "png": (rb"(?s)(?=.{4}(?:[A-Z]{4}|tRNS|acTL|f[cd][AT][LT]|iCCP|eXIf|pHYs))", rb"IHDR", (4, 8), 4),
    "webp": (rb"(?=VP8[ LX]|A(?:NIM|NMF|LPH)|ICCP|EXIF)", rb"VP8X", (12, 15), 3),
    "tiff": (rb"(?=[\x00-\xff][\x01\x87][\x01-\x0c]\x00)", rb"\x00\x01[\x03\x04]\x00", (8, 20), 4),
    "gif": (rb"(?=!\xf9|!\xff|,)", rb"GIF8", (6, 8), 2),
}


def make_seeds() -> list[tuple[str, bytes]]:
    """Make the sound files: (format, content)."""
    seeds, sizes = list[tuple[str, bytes]](), itertools.cycle(((8, 8), (64, 48), (17, 33), (40, 64)))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter

    def add(kind: str, mode: str, frames: int = 1, **options: Any) -> None:
        grey = Image.linear_gradient("L").rotate(30).resize(next(sizes))
        bands = [grey.rotate(90 * turn) for turn in range(Image.getmodebands(mode))]
        image = Image.merge(mode, bands) if len(bands) > 1 else grey.convert(mode)
        if frames > 1:
            options |= {"save_all": True, "append_images": [image.rotate(90 * turn) for turn in range(1, frames)]}
        image.save(buffer := io.BytesIO(), kind, **options)
        seeds.append((kind.replace("mpo", "jpeg"), buffer.getvalue()))

    for mode, progressive in itertools.product(("RGB", "L", "CMYK"), (False, True)):
        icc = profile[:16] + {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}[mode] + profile[20:]
        add("jpeg", mode, progressive=progressive, exif=exif, icc_profile=icc, dpi=(300, 300))
        add("jpeg", mode, progressive=progressive)
    add("mpo", "RGB", 2)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        add("png", mode)
    add("png", "P", transparency=bytes(range(0, 256, 8)))
    add("png", "RGB", transparency=(10, 20, 30), exif=exif, icc_profile=profile, dpi=(72, 72))
    add("png", "RGBA", 3, duration=50, disposal=1)
    for channels, depth in itertools.product((3, 4), (8, 16)):  # interlaced, which Pillow cannot write
        pixels = np.resize(np.arange(251, dtype=np.uint8), (19, 21, channels * depth // 8))
        rows = (b"\0" + row.tobytes() for x, y, dx, dy in ADAM7 for row in pixels[y::dy, x::dx])
        header = struct.pack(">IIBBBBB", 21, 19, depth, {3: 2, 4: 6}[channels], 0, 0, 1)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
        parts = (struct.pack(">I", len(body)) + name + body + bytes(4) for name, body in chunks)
        seeds.append(("png", mend(PNG + b"".join(parts))))
    for mode, frames, lossless in itertools.product(("RGB", "RGBA"), (1, 3), (False, True)):
        add("webp", mode, frames, lossless=lossless, exif=exif, icc_profile=profile)
        add("webp", mode, frames, lossless=lossless)
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "lzma", "zstd"):
        add("tiff", "RGB", compression=compression, dpi=(300, 300))
    for mode, compression in itertools.product(("1", "L", "P", "RGBA", "CMYK", "LAB", "I;16"), ("raw", "tiff_lzw")):
        add("tiff", mode, compression=compression)
    add("tiff", "1", compression="group4")
    add("tiff", "RGB", 3, exif=exif, icc_profile=profile)
    for frames, options in itertools.product((1, 4), ({}, {"transparency": 0, "disposal": 2}, {"interlace": 1})):
        add("gif", "P", frames, **options)
    return seeds


def mend(png: bytes | bytearray) -> bytes:
    """Set the check sums of a PNG right, so that damage gets past them."""
    content, at = bytearray(png), len(PNG)
    while (end := at + 8 + int.from_bytes(content[at : at + 4], "big")) + 4 <= len(content):
        content[end : end + 4] = zlib.crc32(content[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(content)


def mutate(seeds: list[tuple[str, bytes]], seed: int, index: int) -> tuple[str, bytes]:
    """Give the damaged file of an index: (format, content)."""
    rng = random.Random(f"{seed} {index}")
    kind, original = rng.choice(seeds)
    content = bytearray(original)

    def overwrite(at: int, width: int, big: bool) -> None:
        content[at : at + width] = (rng.choice(EXTREMES) % 256**width).to_bytes(width, "big" if big else "little")

    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        content = content or bytearray(1)
        # Half of the damage goes to the head, where sizes and tables are.
        start = rng.randrange(min(len(content), rng.choice((128, len(content)))))
        end = min(start + rng.choice((1, 2, 4, 8, 16, 64, 256)), len(content))
        match rng.randrange(8):
            case 0 | 1:
                for at in rng.choices(range(start, end), k=rng.choice((1, 2, 8))):
                    content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[start : rng.choice((end, end, len(content)))]
            case 3:
                block = bytes(content[start:end])
                content[start:start] = rng.choice((block, block * 50, rng.randbytes(end - start), bytes(end - start)))
            case 4:
                overwrite(start, rng.choice((1, 2, 3, 4)), rng.random() < 0.5)
            case 5:
                _, pattern, offsets, width = FORMATS[kind]
                if found := re.search(pattern, content):
                    for offset in offsets:
                        overwrite(found.start() + offset, width, kind in ("jpeg", "png"))
            case 6:
                content[start:] = (other := rng.choice(seeds)[1])[rng.randrange(len(other)) :]
            case _:
                parts = re.split(FORMATS[kind][0], bytes(content))
                parts.insert(rng.randrange(len(parts)), parts.pop(rng.randrange(len(parts))))
                content[:] = b"".join(parts)
    return kind, mend(content) if content.startswith(PNG) and rng.random() < 0.9 else bytes(content)


def judge(source: bytes | Path) -> str:
    """Read a file: "read", "refused", or what is wrong about how that went."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            photo = read_photo(source)
            shape, alpha = photo.rgb.shape, photo.opacity
            sound = photo.rgb.dtype == np.uint8 and shape[2:] == (3,) and min(shape) > 0
            sound &= alpha is None or (alpha.shape == shape[:2] and 0 <= alpha.min() <= alpha.max() <= 1)
            verdict = "read" if sound and all(map(str.isprintable, photo.notices)) else f"no sound photo: {photo}"
        except ImageError as error:
            verdict = "refused" if str(error).isprintable() else f"not a printable line: {str(error)!r}"
        except Exception as error:
            verdict = repr(error)
    return f"warning: {caught[0].message}" if caught else verdict


def work(results: Connection, folder: str, seed: int, indices: range) -> None:
    """Send a first word that the worker is ready, then the verdict on each index and the peak so far."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's remarks
    seeds, path = make_seeds(), Path(folder, str(os.getpid()))
    results.send("ready")
    for index in indices:
        _, content = mutate(seeds, seed, index)
        path.write_bytes(content)
        results.send((judge(path if index % 4 == 0 else content), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def run_chunk(folder: str, seed: int, indices: range) -> list[tuple[int, str, int]]:
    """Give (index, verdict, peak in KiB) of each index; a new process goes on behind one that had to end."""
    spawn, done = multiprocessing.get_context("spawn"), list[tuple[int, str, int]]()
    while left := indices[len(done) :]:
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=work, args=(theirs, folder, seed, left), daemon=True)
        process.start()
        theirs.close()
        assert ours.recv() == "ready"
        for index in left:
            try:
                verdict, peak = ours.recv() if ours.poll(SECONDS) else (f"over {SECONDS} s", 0)
            except EOFError:
                process.join()
                verdict, peak = f"the interpreter died ({process.exitcode})", 0
            done.append((index, f"{peak >> 10} MiB, {verdict}" if peak > PEAK_KIB else verdict, peak))
            if not 0 < peak <= PEAK_KIB:
                break
        process.kill()
        process.join()
    return done


@click.command(help=__doc__)
@click.option("--count", default=20_000, show_default=True, help="Files.")
@click.option("--seed", default=0, show_default=True, help="What the damage depends on.")
@click.option("--save", type=click.Path(path_type=Path), default="runs/fuzz", show_default=True, help="For failures.")
def main(count: int, seed: int, save: Path) -> None:
    """Read the files, save and print the failures, and print a summary."""
    begin, seeds, tally, peak = time.perf_counter(), make_seeds(), Counter[tuple[str, str]](), 0
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(lambda chunk: run_chunk(folder, seed, chunk), chunks)
        for index, verdict, held in itertools.chain.from_iterable(track(runs, "Reading", len(chunks))):
            kind, content = mutate(seeds, seed, index)
            result = verdict if verdict in ("read", "refused") else "failed"
            tally.update(((kind, result), ("all", result)))
            peak = max(peak, held)
            if result == "failed":
                save.mkdir(parents=True, exist_ok=True)
                (save / f"seed{seed}-index{index}.{kind}").write_bytes(content)
                print(f"seed {seed} index {index} {kind}: {verdict}", flush=True)
    for kind in (*FORMATS, "all"):
        print(f"{kind:5}", *(f"{tally[kind, result]:6} {result}" for result in RESULTS))
    print(f"seed {seed}, peak {peak >> 10} MiB, {time.perf_counter() - begin:.0f} s")
    raise SystemExit(1 if tally["all", "failed"] else 0)


if __name__ == "__main__":
    main()
