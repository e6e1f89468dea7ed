"""Both pictures of a run, from its folder alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from birefnet.training.plot import plot
from birefnet.training.samples import Sample, save_samples


def test_both_pictures_of_a_run_are_drawn_where_torch_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 10, "loss": 1.0, "images_per_second": 4.0}) + "\n")
    assert [path.name for path in plot(tmp_path)] == ["curves.png"]
    grey = np.full((6, 9), 128, np.uint8)
    save_samples(tmp_path, [Sample("a", np.dstack([grey] * 3), grey, grey, {"maxF": 0.5})], 10)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from birefnet.training.plot import plot\n"
        f"print(*(path.name for path in plot(Path({str(tmp_path)!r}))), 'matplotlib.pyplot' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "curves.png masks.png False\n"
