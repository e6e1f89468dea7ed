"""Time what the CRF adds to a photo: python benchmarks/crf.py.

Needs scikit-image, for its photos. Each is predicted with the CRF that the weights ask for and without, in turns, so
that a busy machine slows both; the ratio is the median of the pairs'.
"""

import argparse
import statistics
import time

from skimage import data

import birefnet
from birefnet.imaging.io import Photo, read_photo
from birefnet.predictor import Predictor

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")


def seconds(predictor: Predictor, photo: Photo) -> float:
    """Time one prediction."""
    start = time.perf_counter()
    predictor.predict(photo)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="name or file of a model that asks for a CRF")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    plain, settling = birefnet.load(options.model, crf=0), birefnet.load(options.model)
    if not settling.spec.crf:
        parser.error(f"{options.model} asks for no CRF")
    print("| photo | without | with the CRF | ratio |\n| --- | --- | --- | --- |")
    for name in PHOTOS:
        photo = read_photo(getattr(data, name)())
        for predictor in (plain, settling):  # what is made once for a size of input
            seconds(predictor, photo)
        pairs = [(seconds(plain, photo), seconds(settling, photo)) for _ in range(options.repeats)]
        without, within = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(late / early for early, late in pairs)
        print(f"| {name} | {without:.3f} s | {within:.3f} s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
