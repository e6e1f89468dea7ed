"""Time training, weigh its memory, and hold the estimates against it: python benchmarks/training.py COMMAND.

Needs the extra `train`. Every figure comes from the real training loop in a process of its own; `savings` and
`estimate` train on drawn photos, which need no files, `epoch` on a folder of yours. Peak memory is the resident set of
the whole process on a CPU and what tensors occupy on a GPU.

    savings     what bfloat16, checkpointing, compiling, freezing and adapters save, and what they cost in time
    estimate    the estimates of `birefnet train --dry-run` against what training really takes
    epoch       a whole epoch of the recipe nano: photos a second, and the share of the time spent waiting for them
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Changes = dict[str, Any]

SAVINGS: dict[str, Changes] = {
    "plain, float32": {},
    "precision=bfloat16": {"precision": "bfloat16"},
    "memory.checkpoint=true": {"memory.checkpoint": True},
    "memory.compile=true": {"memory.compile": True},
    "freeze=backbone": {"freeze": ["backbone"]},
    "lora.rank=8": {"lora.rank": 8},
    "bfloat16, checkpoint": {"precision": "bfloat16", "memory.checkpoint": True},
    "bfloat16, checkpoint, freeze=backbone": {
        "precision": "bfloat16",
        "memory.checkpoint": True,
        "freeze": ["backbone"],
    },
    "checkpoint, lora.rank=8": {"memory.checkpoint": True, "lora.rank": 8},
}

ESTIMATES: dict[str, tuple[str, Changes]] = {
    "nano, 224, batch 16": ("nano", {"data.sizes": "224", "data.batch": 16}),
    "Swin-T, 512, batch 2": ("dis5k", {"model.backbone": "swin_v1_t", "data.sizes": "512", "data.batch": 2}),
    "the same, checkpoint": (
        "dis5k",
        {"model.backbone": "swin_v1_t", "data.sizes": "512", "data.batch": 2, "memory.checkpoint": True},
    ),
    "the same, bfloat16": (
        "dis5k",
        {"model.backbone": "swin_v1_t", "data.sizes": "512", "data.batch": 2, "precision": "bfloat16"},
    ),
    "PVT v2 b2, 384, batch 2": ("dis5k", {"model.backbone": "pvt_v2_b2", "data.sizes": "384", "data.batch": 2}),
    "ResNet-50, 384, batch 4 in 2 parts": (
        "dis5k",
        {"model.backbone": "resnet50", "data.sizes": "384", "data.batch": 4, "memory.accumulate": 2},
    ),
}


def measured(recipe: str, changes: Changes, steps: int, device: str) -> dict[str, Any]:
    """Train for some steps in a process of its own: `seconds` of each, `peak` and `estimate` in bytes.

    Linux counts at least the memory of the process that starts another: be small when calling.
    """
    order = json.dumps([recipe, changes, steps, device])
    process = subprocess.run([sys.executable, __file__, "steps", order], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def peak_memory() -> int:
    """Peak of this process's resident memory in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: what getrusage tells includes the process that it was forked from.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def steps(order: str) -> None:
    """What that process does."""
    import torch

    from birefnet.training.memory import Machine, estimate_memory
    from birefnet.training.plan import Asked, make_plan
    from birefnet.training.run import Options, Silent, train
    from birefnet.training.sets import Choice

    recipe, changes, number, device = json.loads(order)
    base = {"pretrained_backbone": None, "precision": "float32"}
    batch = changes.get("data.batch", 2)
    choice = Choice(f"drawn:{max(16, batch)}", share=0)
    plan = make_plan(Asked(recipe, changes={**base, **changes, "samples": number * batch}), choice)
    lines: list[dict[str, Any]] = []

    class Keeping(Silent):
        def report(self, line: dict[str, Any]) -> None:
            lines.append(line)

    listener = Keeping()
    with tempfile.TemporaryDirectory() as folder:
        train(plan, Path(folder, "run"), Options(device=device, log_every=1, tensorboard=False), listener)
    on_gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
    seconds = [
        batch / line["images_per_second"] * (1 - line["share_of_time"].get("data", 0))
        for line in lines
        if "images_per_second" in line
    ]
    # Only now, so that it is not in the peak.
    estimate = estimate_memory(plan.recipe, Machine("cuda" if on_gpu else "cpu")).resident
    print(json.dumps({"seconds": seconds, "peak": peak, "estimate": estimate}))


def savings(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of savings."""
    yield f"{options.backbone} at {options.size}, batches of {options.batch}, {options.steps} steps after one more"
    yield ""
    yield "| setting | seconds a step | ratio | peak memory | ratio |"
    yield "| --- | --- | --- | --- | --- |"
    base: Changes = {
        "model.backbone": options.backbone,
        "data.sizes": str(options.size),
        "data.batch": options.batch,
    }
    plain: tuple[float, float] | None = None
    for name, changes in SAVINGS.items():
        if options.only and not any(part in name for part in ["plain", *options.only.split(",")]):
            continue
        result = measured("dis5k", {**base, **changes}, options.steps + 1, options.device)
        seconds, peak = statistics.median(result["seconds"][1:]), result["peak"]
        plain = plain or (seconds, peak)
        yield (f"| {name} | {seconds:.2f} | {seconds / plain[0]:.2f} | {peak / 1e9:.2f} GB | {peak / plain[1]:.2f} |")


def estimate(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of estimates."""
    yield "| training | estimated peak | measured | estimate / measured |"
    yield "| --- | --- | --- | --- |"
    for name, (recipe, changes) in ESTIMATES.items():
        if options.only and not any(part in name for part in options.only.split(",")):
            continue
        result = measured(recipe, changes, options.steps, options.device)
        ratio = result["estimate"] / result["peak"]
        yield f"| {name} | {result['estimate'] / 1e9:.2f} GB | {result['peak'] / 1e9:.2f} GB | {ratio:.2f} |"


def epoch(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of an epoch."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        run = Path(folder, "run")
        command = ["train", "--data", options.data, "--output", str(run), "--recipe", "nano", "--epochs", "1"]
        command += ["--val-share", "0", "--size", options.size, "--batch", str(options.batch)]
        command += ["--cache", options.cache or str(Path(folder, "cache")), "--log-every", "5", "--no-tensorboard"]
        command += ["--device", options.device]
        command += [] if options.workers is None else ["--workers", str(options.workers)]
        process = subprocess.Popen([sys.executable, "-m", "birefnet", *command], stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this process alone
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode())
        lines = [json.loads(line) for line in Path(run, "log.jsonl").read_text(encoding="utf-8").splitlines()]
    taken = [line for line in lines if "images_per_second" in line]
    # The first interval has what happens once in it.
    later = taken[1:] or taken
    rate = statistics.median(line["images_per_second"] for line in later)
    waiting = statistics.median(line["share_of_time"].get("data", 0) for line in later)
    last = taken[-1]
    yield "| data | photos | size | batch | photos a second | waiting for data | peak memory | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    yield (
        f"| {Path(options.data).name} | {last['samples']} | {options.size} | {options.batch} | {rate:.1f} "
        f"| {waiting:.0%} | {usage.ru_maxrss * 1024 / 1e9:.2f} GB | {last['seconds']:.0f} |"
    )


def main() -> None:
    """Parse the options and print the tables."""
    if sys.argv[1:2] == ["steps"]:
        steps(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description="Time training, and weigh its memory.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("savings", savings), ("estimate", estimate), ("epoch", epoch)):
        command = commands.add_parser(name, help=(function.__doc__ or "").removeprefix("Give the lines of "))
        command.set_defaults(function=function)
        command.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
        if name != "epoch":
            command.add_argument("--steps", type=int, default=3, help="steps of each training (default: 3)")
            command.add_argument("--only", help="rows whose name contains one of these, separated by commas")
        if name == "savings":
            command.add_argument("--backbone", default="swin_v1_t", help="(default: swin_v1_t)")
            command.add_argument("--size", type=int, default=512, help="side of the photos (default: 512)")
            command.add_argument("--batch", type=int, default=2, help="photos a step (default: 2)")
        if name == "epoch":
            command.add_argument("--data", required=True, metavar="DIR", help="as for birefnet train")
            command.add_argument("--size", default="224", help="(default: 224)")
            command.add_argument("--batch", type=int, default=16, help="photos a step (default: 16)")
            command.add_argument("--workers", type=int, help="as for birefnet train")
            command.add_argument("--cache", metavar="DIR", help="where decoded photos stay (default: nowhere)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, device {options.device}\n")
    for line in options.function(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
