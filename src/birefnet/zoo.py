"""Published weights: one table of what can be downloaded, for what, on what terms.

The facts are those of the model cards on the Hugging Face hub and of the authors' README and evaluation logs
(`ZooModel.scores_source` says which). What no public page states is None; only `memory_gb` is an estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from birefnet.config import InputSpec, unknown_name

TASKS = ("general", "dis", "cod", "sod", "portrait", "matting")
"""What weights are for: any photo, thin and intricate objects, camouflaged ones, salient ones, people, soft alpha."""

HUB = "https://huggingface.co"

RESTRICTED_DATA = (
    "the author states MIT for code and weights; some of the training photos are for research only, so look at their "
    "terms before commercial use"
)


@dataclass(frozen=True)
class ZooModel:
    """Weights that somebody published on the Hugging Face hub.

    Attributes:
        name: what this package calls them.
        repo: their repository on the hub, OWNER/NAME.
        summary: what they are for, in one line.
        backbone: name of the encoder's backbone, a key of `birefnet.backbones.BACKBONES`.
        input_spec: the preprocessing they were trained with.
        tasks: which of `TASKS` they are good for, the main one first.
        licence: the terms its publisher states: an SPDX-like name.
        commercial: whether these terms allow commercial use.
        gated: whether the hub asks to log in and to accept the terms first.
        dynamic: smallest and largest side of the input, where any size between them (a multiple of 32) works.
        revision: the commit they are pinned to; None for the newest.
        sha256: of the weights file at `revision`; None where the hub's own checksum has to do.
        size_bytes: of the weights file, rounded to a megabyte as its page on the hub shows it; None where unknown.
        scores: data set -> measure -> value, as published by `scores_source`.
        licence_note: what to know beside the licence.
        aliases: other names for the same weights.
    """

    name: str
    repo: str
    summary: str
    backbone: str = "swin_v1_l"
    input_spec: InputSpec = field(default_factory=InputSpec)
    tasks: tuple[str, ...] = ("general",)
    licence: str = "MIT"
    commercial: bool = True
    gated: bool = False
    dynamic: tuple[int, int] | None = None
    revision: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    scores_source: str = ""
    licence_note: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Page of the weights on the hub."""
        return f"{HUB}/{self.repo}"

    @property
    def memory_gb(self) -> float:
        """Memory that one photo takes in float32, roughly: weights, and activations that grow with the input's area."""
        height, width = self.input_spec.size
        return _WEIGHTS_GB[self.backbone] + _ACTIVATIONS_GB[self.backbone] * height * width / 1024**2

    @property
    def light(self) -> bool:
        """Whether the network is the small one, which a CPU runs in seconds."""
        return self.backbone == "swin_v1_t"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "name": self.name,
            "repo": self.repo,
            "summary": self.summary,
            "backbone": self.backbone,
            "input_spec": self.input_spec.to_dict(),
            "dynamic": self.dynamic and list(self.dynamic),
            "tasks": list(self.tasks),
            "licence": self.licence,
            "commercial": self.commercial,
            "gated": self.gated,
            "licence_note": self.licence_note,
            "revision": self.revision,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "scores": {data: dict(values) for data, values in self.scores.items()},
            "scores_source": self.scores_source,
            "aliases": list(self.aliases),
        }


# Parameters in float32: 220.2 and 44.3 millions.
_WEIGHTS_GB = {"swin_v1_l": 0.88, "swin_v1_t": 0.18}
# At 1024 x 1024. The authors publish 4.8 GB in all for Swin-L in float32 on a GPU; Swin-T's share is in proportion to
# the peaks of runs on a CPU, 1.6 to 2.55 GB above what is there before the run.
_ACTIVATIONS_GB = {"swin_v1_l": 3.9, "swin_v1_t": 2.4}

README = "the README and evaluation logs of github.com/ZhengPeng7/BiRefNet"
CARD = "the model card"


def _official(name: str, repo: str, summary: str, **facts: Any) -> ZooModel:
    """Weights by the authors of BiRefNet, who state one licence for all of them."""
    facts = {"licence_note": RESTRICTED_DATA, **facts}
    return ZooModel(name, f"ZhengPeng7/{repo}", summary, **facts)


def _spec(height: int, width: int) -> InputSpec:
    return InputSpec(size=(height, width))


MODELS = (
    _official(
        "general",
        "BiRefNet",
        "the authors' default, for any photo",
        tasks=("general", "dis", "sod", "portrait"),
        scores={"DIS-VD": {"S": 0.911, "wF": 0.875, "HCE": 1069}},
        scores_source=README,
        aliases=("birefnet-general",),
    ),
    _official(
        "general-hr",
        "BiRefNet_HR",
        "any photo, trained at 2048 x 2048: finer detail in large photos",
        input_spec=_spec(2048, 2048),
        tasks=("general", "dis", "sod", "portrait"),
        size_bytes=444_000_000,
        scores={"DIS-VD": {"S": 0.927, "wF": 0.894, "maxF": 0.925, "MAE": 0.026, "HCE": 881}},
        scores_source=README,
        aliases=("birefnet-general-hr", "birefnet-hr"),
    ),
    _official(
        "general-dynamic",
        "BiRefNet_dynamic",
        "any photo; takes any input size from 256 to 2304",
        dynamic=(256, 2304),
        tasks=("general", "dis", "sod"),
        aliases=("birefnet-dynamic",),
    ),
    _official(
        "general-lite",
        "BiRefNet_lite",
        "any photo with the small network: a fifth of the parameters",
        backbone="swin_v1_t",
        tasks=("general", "dis", "sod", "portrait"),
        size_bytes=178_000_000,
        scores={"DIS-VD": {"S": 0.882, "wF": 0.830, "HCE": 1175}},
        scores_source=README,
        aliases=("birefnet-general-lite", "birefnet-lite", "BiRefNet_T", "ZhengPeng7/BiRefNet_T"),
    ),
    _official(
        "general-lite-2k",
        "BiRefNet_lite-2K",
        "any landscape photo with the small network, at 2560 x 1440",
        backbone="swin_v1_t",
        input_spec=_spec(1440, 2560),
        tasks=("general", "dis"),
        scores={"DIS-VD": {"maxF": 0.867, "wF": 0.831}},
        scores_source=README,
        aliases=("birefnet-lite-2k",),
    ),
    _official(
        "general-512",
        "BiRefNet_512x512",
        "small photos and quick previews, trained at 512 x 512",
        input_spec=_spec(512, 512),
        tasks=("general",),
        scores={"DIS-VD at 512": {"S": 0.888, "wF": 0.840, "maxF": 0.879, "MAE": 0.040, "HCE": 1526}},
        scores_source=README,
        aliases=("birefnet-512",),
    ),
    _official(
        "general-legacy",
        "BiRefNet-legacy",
        "any photo; an earlier training without portraits",
        tasks=("general", "dis", "sod"),
        size_bytes=885_000_000,
        aliases=("birefnet-legacy",),
    ),
    _official(
        "portrait",
        "BiRefNet-portrait",
        "people, with soft hair",
        tasks=("portrait", "matting"),
        size_bytes=885_000_000,
        scores={"TE-P3M-500-P": {"S": 0.983, "maxF": 0.996, "wF": 0.990, "MAE": 0.006}},
        scores_source=CARD,
        aliases=("birefnet-portrait",),
    ),
    _official(
        "matting",
        "BiRefNet-matting",
        "soft alpha of hair, fur and veils, without a trimap",
        tasks=("matting", "portrait"),
        size_bytes=885_000_000,
        scores={"TE-P3M-500-NP": {"S": 0.979, "wF": 0.989}, "TE-AM-2k": {"S": 0.973, "wF": 0.989}},
        scores_source=CARD,
        aliases=("birefnet-matting",),
    ),
    _official(
        "hr-matting",
        "BiRefNet_HR-matting",
        "soft alpha in large photos, trained at 2048 x 2048",
        input_spec=_spec(2048, 2048),
        tasks=("matting", "portrait"),
        scores={"TE-P3M-500-NP": {"S": 0.980, "wF": 0.989}, "TE-AM-2k": {"S": 0.974, "wF": 0.988}},
        scores_source=CARD,
        aliases=("birefnet-hr-matting", "matting-hr"),
    ),
    _official(
        "lite-matting",
        "BiRefNet_lite-matting",
        "soft alpha with the small network",
        backbone="swin_v1_t",
        tasks=("matting", "portrait"),
        aliases=("birefnet-lite-matting", "matting-lite"),
    ),
    _official(
        "dis",
        "BiRefNet-DIS5K",
        "thin, intricate objects: the paper's model, trained on DIS5K alone",
        tasks=("dis",),
        scores={"DIS-VD": {"S": 0.898, "wF": 0.854, "maxF": 0.891, "MAE": 0.038, "HCE": 989}},
        scores_source="the paper's tables, as LawDIS and CoordFormer repeat them",
        licence_note=f"{RESTRICTED_DATA}: DIS5K is for non-commercial use",
        aliases=("birefnet-dis",),
    ),
    _official(
        "dis-massive",
        "BiRefNet-DIS5K-TR_TEs",
        "thin, intricate objects, trained on more data; also any photo",
        tasks=("dis", "general", "sod"),
        scores={"DIS-VD": {"S": 0.907, "wF": 0.865, "HCE": 1059}},
        scores_source=README,
        aliases=("birefnet-massive",),
    ),
    _official(
        "hrsod",
        "BiRefNet-HRSOD",
        "what first catches the eye (salient objects)",
        tasks=("sod",),
        size_bytes=885_000_000,
        aliases=("birefnet-hrsod",),
    ),
    _official(
        "cod",
        "BiRefNet-COD",
        "camouflaged animals and objects",
        tasks=("cod",),
        scores={
            "CAMO": {"S": 0.904, "wF": 0.890, "MAE": 0.030},
            "COD10K": {"S": 0.913, "wF": 0.874, "MAE": 0.014},
            "NC4K": {"S": 0.914, "wF": 0.894, "MAE": 0.023},
        },
        scores_source="the paper's tables",
        aliases=("birefnet-cod",),
    ),
    ZooModel(
        "lucida",
        "egeorcun/lucida",
        "any photo with soft alpha, text, logos and glass; fine-tuned by others",
        tasks=("general", "matting", "cod"),
        scores={"its own 191 images": {"MAE": 0.0304}},
        scores_source=CARD,
    ),
    ZooModel(
        "rmbg-2.0",
        "briaai/RMBG-2.0",
        "any photo, products above all; trained on licensed photos by BRIA",
        licence="CC BY-NC 4.0",
        commercial=False,
        gated=True,
        size_bytes=885_000_000,
        licence_note="for commercial use BRIA sells a licence",
        aliases=("bria-rmbg", "rmbg", "rmbg2"),
    ),
    ZooModel(
        "toonout",
        "joelseytre/toonout",
        "drawings: anime and cartoon figures",
        licence_note="its training data is CC BY 4.0",
    ),
)

ZOO: dict[str, ZooModel] = {model.name: model for model in MODELS}
"""Name -> published weights, the ones to try first at the top."""

_BY_NAME = {
    name.lower(): model
    for model in MODELS
    for name in (model.repo.partition("/")[2], model.repo, *model.aliases, model.name)
}


def find(name: str) -> ZooModel | None:
    """Find published weights by name, alias, or repository (whole or its last part); capitals do not matter."""
    return _BY_NAME.get(name.lower())


@dataclass(frozen=True)
class Suggestion:
    """Weights for a task, and why.

    Attributes:
        model: the weights.
        reason: why they stand where they do, in one line.
    """

    model: ZooModel
    reason: str


def recommend(task: str, *, memory_gb: float, device: str = "cpu", commercial: bool = False) -> list[Suggestion]:
    """List weights for a task that this machine can run, the best choice first.

    Args:
        task: one of `TASKS`.
        memory_gb: memory of the device, in gigabytes.
        device: "cpu", "cuda", "mps" or the like: on a CPU the small network comes first.
        commercial: whether the use is commercial; weights whose licence forbids that are left out then.

    Raises:
        ConfigError: there is no such task.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    allowed = [model for model in MODELS if task in model.tasks and (model.commercial or not commercial)]
    # A fifth of the memory is left to everything else that runs.
    fitting = [model for model in allowed if model.memory_gb <= 0.8 * memory_gb]
    slow = device.startswith("cpu")
    # Sorting keeps the table's order among equals. Free use of any kind goes before terms that restrict it.
    ordered = sorted(fitting, key=lambda model: (slow and not model.light, not model.commercial, _rank(model, task)))
    if ordered:
        return [Suggestion(model, _reason(model, slow=slow)) for model in ordered]
    smallest = min(allowed, key=lambda model: model.memory_gb)
    reason = f"none fits into {memory_gb:.1f} GB; this one takes the least, about {smallest.memory_gb:.1f} GB"
    return [Suggestion(smallest, f"{smallest.summary}; {reason}")]


def _rank(model: ZooModel, task: str) -> int:
    """Weights made for a task go before those that also do it."""
    return min(model.tasks.index(task), 1)


def _reason(model: ZooModel, *, slow: bool) -> str:
    parts = [model.summary]
    if slow:
        parts.append("seconds a photo on a CPU" if model.light else "slow on a CPU")
    parts.append(f"about {model.memory_gb:.1f} GB of memory")
    if not model.commercial:
        parts.append(f"{model.licence}, not for commercial use")
    return "; ".join(parts)
