"""Downloads and uploads against a hub on the loopback: real HTTP, real cache, real interruptions."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from birefnet.errors import BiRefNetError, ConfigError, WeightsError
from birefnet.hub import (
    HubUnreachableError,
    card_licence,
    fetch_file,
    fetch_model,
    is_cached,
    push_folder,
    require_licence,
    transfer,
)
from birefnet.zoo import ZOO
from hub_server import FakeHub, hub_environment, hub_server, using_hub

REPO = "somebody/some-model"
DATA = np.random.RandomState(0).bytes(3 << 20)
SHA = hashlib.sha256(DATA).hexdigest()
CARD = b"---\nlicense: mit\ntags:\n- segmentation\n---\n# A model\n"
CODE = b"raise SystemExit('code from the hub was run')\n"
FILES = {
    "model.safetensors": DATA,
    "config.json": json.dumps({"auto_map": {"AutoModel": "remote.Model"}, "bb_pretrained": False}).encode(),
    "README.md": CARD,
    "remote.py": CODE,
    "onnx/model.onnx": b"onnx",
}


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with hub_server() as running:
        running.add(REPO, FILES)
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own; this process uses the server."""
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.001)
    with using_hub(server.url, tmp_path / "home"):
        yield tmp_path / "home"


def message(error: pytest.ExceptionInfo[BiRefNetError]) -> str:
    """The error's message, which is one line."""
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def in_another_process(url: str, home: Path, code: str, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment, **hub_environment(url, home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_below(home: Path) -> set[str]:
    return {path.name for path in home.rglob("*") if path.is_file()}


def test_a_model_is_fetched_once(server: FakeHub) -> None:
    assert not is_cached(REPO)
    model = fetch_model(REPO)
    assert model.weights.read_bytes() == DATA
    assert model.config == {"auto_map": {"AutoModel": "remote.Model"}, "bb_pretrained": False}
    assert (model.preprocessor, model.licence, model.repo) == (None, "mit", REPO)
    assert model.commit == server.repos[REPO].refs["main"]
    assert is_cached(REPO)
    server.log.clear()
    assert fetch_model(REPO) == model
    assert fetch_model(REPO, revision=model.commit) == model
    assert fetch_file(REPO, "config.json").parent == model.weights.parent
    assert server.log == []


def test_code_and_other_files_stay_on_the_hub(server: FakeHub, home: Path) -> None:
    fetch_model(REPO)
    assert not server.asked(".py")
    assert not server.asked("onnx")
    assert not any(name.endswith((".py", ".onnx")) for name in files_below(home))


def test_the_token_stays_with_the_hub(server: FakeHub) -> None:
    fetch_model(REPO, token="secret")
    assert all(r.headers.get("authorization") == "Bearer secret" for r in server.asked("/resolve/"))
    stored = server.asked("/cdn/")
    assert stored
    assert all("authorization" not in r.headers for r in stored)


def test_a_newer_version_is_fetched_when_asked_for(server: FakeHub) -> None:
    old = fetch_model(REPO)
    server.add(REPO, {**FILES, "model.safetensors": DATA[::-1]})
    assert fetch_model(REPO) == old
    new = fetch_model(REPO, refresh=True)
    assert new.weights.read_bytes() == DATA[::-1]
    assert fetch_model(REPO) == new
    assert fetch_model(REPO, revision=old.commit) == old
    server.log.clear()
    assert fetch_model(REPO, refresh=True) == new
    assert [r.path for r in server.log] == [f"/api/models/{REPO}/revision/main"]


def test_an_interrupted_update_leaves_the_older_version(server: FakeHub) -> None:
    old = fetch_model(REPO)
    server.add(REPO, {**FILES, "model.safetensors": DATA[::-1]})
    server.cut_after = 0
    assert fetch_model(REPO, refresh=True) == old
    server.cut_after = None
    assert fetch_model(REPO) == old
    assert fetch_model(REPO, refresh=True) != old


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed(server: FakeHub, ranges: bool) -> None:
    server.cut_after, server.cuts, server.ranges = 1 << 20, 2, ranges
    assert fetch_file(REPO, "model.safetensors").read_bytes() == DATA
    starts = [r.start for r in server.asked("/cdn/", "GET")]
    assert len(starts) == 3
    assert starts[0] == 0
    assert 0 < starts[1] <= 1 << 20


def test_a_line_that_is_cut_again_and_again(server: FakeHub) -> None:
    server.cut_after = 0
    with pytest.raises(HubUnreachableError, match=r"cannot be reached .*HF_ENDPOINT") as error:
        fetch_file(REPO, "model.safetensors")
    message(error)
    assert len(server.asked("/cdn/", "GET")) == transfer.RETRIES
    server.cut_after, server.cuts = 1 << 20, 1
    assert fetch_file(REPO, "model.safetensors").read_bytes() == DATA


def test_a_busy_hub_is_asked_again(server: FakeHub) -> None:
    server.fail = [503, 429]
    assert fetch_model(REPO).weights.read_bytes() == DATA
    server.fail = [500] * 20
    with pytest.raises(HubUnreachableError, match=r"HTTP 500\): try again"):
        fetch_model(REPO, refresh=True, revision="other")


def test_a_wrong_checksum_is_not_kept(server: FakeHub, home: Path) -> None:
    server.corrupt = True
    with pytest.raises(WeightsError, match=r"model\.safetensors has the checksum .* and was not kept") as error:
        fetch_model(REPO)
    message(error)
    assert not is_cached(REPO)
    assert not any(path.stat().st_size >= len(DATA) for path in home.rglob("*") if path.is_file())
    server.corrupt = False
    assert fetch_model(REPO).weights.read_bytes() == DATA


def test_a_given_checksum_counts(server: FakeHub) -> None:
    with pytest.raises(WeightsError, match=f"checksum {SHA[:12]}... instead of 0000") as error:
        fetch_model(REPO, sha256="0" * 64)
    message(error)
    assert not server.asked("/cdn/")
    assert fetch_model(REPO, sha256=SHA.upper()).weights.read_bytes() == DATA
    # A hub that states no checksum, as some mirrors do.
    server.add("mirror/model", {"model.safetensors": DATA + b"x"})
    server.wrong_etag = "no-checksum"
    with pytest.raises(WeightsError, match="was not kept"):
        fetch_model("mirror/model", sha256=SHA)
    assert fetch_model("mirror/model").weights.read_bytes() == DATA + b"x"


def test_what_does_not_exist() -> None:
    with pytest.raises(WeightsError, match=r"has no file no\.txt: see http.*/tree/main") as error:
        fetch_file(REPO, "no.txt")
    message(error)
    with pytest.raises(WeightsError, match="has no revision 'v9'") as error:
        fetch_model(REPO, revision="v9")
    message(error)
    with pytest.raises(WeightsError, match="has no revision 'v9'"):
        fetch_file(REPO, "config.json", revision="v9")
    for token in (None, "secret"):
        with pytest.raises(WeightsError, match=r"no such repository.*did you mean ZhengPeng7/BiRefNet_lite\?") as error:
            fetch_model("ZhengPeng7/BiRefNet_lit", token=token)
        message(error)


@pytest.mark.parametrize("repo", ["model", "a/b/c", "../secret", "a/..", "a b/c", "/a/b", "a--b/c", ""])
def test_names_that_are_no_repository(repo: str) -> None:
    with pytest.raises(ConfigError, match="must look like OWNER/NAME") as error:
        fetch_model(repo)
    message(error)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "C:\\x"])
def test_names_that_are_no_file(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a file"):
        fetch_file(REPO, name)
    with pytest.raises(ConfigError, match="is no name of a revision"):
        fetch_model(REPO, revision=name or "..")


def test_offline(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for repo, name in ((REPO, REPO), ("ZhengPeng7/BiRefNet", "general")):
        with pytest.raises(HubUnreachableError, match=f"unset it, or run `birefnet models download {name}`") as error:
            fetch_model(repo)
        assert "HF_HUB_OFFLINE" in message(error)
    with pytest.raises(HubUnreachableError, match="not in the cache"):
        fetch_file(REPO, "config.json")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    model = fetch_model(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.log.clear()
    assert fetch_model(REPO) == fetch_model(REPO, refresh=True) == model
    assert server.log == []


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fetch_model(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert fetch_model(REPO) == fetch_model(REPO, refresh=True) == model
    started = time.monotonic()
    with pytest.raises(HubUnreachableError, match=r"127\.0\.0\.1:9 cannot be reached") as error:
        fetch_model("somebody/else")
    assert "copy its HF_HOME" in message(error)
    assert time.monotonic() - started < 5


def test_an_address_that_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    with pytest.raises(WeightsError, match="nonsense cannot be reached") as error:
        fetch_model("somebody/else")
    message(error)


def test_a_mirror_is_the_only_one_asked(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server() as mirror:
        mirror.add(REPO, FILES)
        monkeypatch.setenv("HF_ENDPOINT", mirror.url + "/")
        assert fetch_model(REPO).weights.read_bytes() == DATA
        assert mirror.log
        assert server.log == []


def test_a_proxy_is_used(server: FakeHub, tmp_path: Path) -> None:
    code = f"from birefnet.hub import fetch_model; print(fetch_model({REPO!r}).weights)"
    variables = {"HTTP_PROXY": server.url, "http_proxy": server.url, "NO_PROXY": "", "no_proxy": ""}
    process = in_another_process("http://hub.invalid", tmp_path, code, **variables)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert Path(out.strip()).read_bytes() == DATA
    assert "hub.invalid" in {r.host for r in server.log}


def test_gated_weights_need_a_token(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("briaai/RMBG-2.0", FILES, gated=True)
    server.readers.add("good")
    remedy = "accept its terms on https://huggingface.co/briaai/RMBG-2.0, then set HF_TOKEN or log in"
    for token in (None, "bad"):
        with pytest.raises(WeightsError, match=remedy) as error:
            fetch_model("briaai/RMBG-2.0", token=token)
        message(error)
    monkeypatch.setenv("HF_TOKEN", "good")
    assert fetch_model("briaai/RMBG-2.0").weights.read_bytes() == DATA


def test_a_renamed_repository_is_followed(server: FakeHub) -> None:
    server.moved["somebody/old"] = REPO
    assert fetch_model("somebody/old").weights.read_bytes() == DATA


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "other.safetensors"], "model.safetensors"),
        (["birefnet.safetensors", "pytorch_model.bin"], "birefnet.safetensors"),
        (["pytorch_model.bin", "a.pth"], "pytorch_model.bin"),
        (["toonout.pth", "README.md", "sub/b.pth"], "toonout.pth"),
    ],
)
def test_which_file_holds_the_weights(server: FakeHub, names: list[str], chosen: str) -> None:
    server.add("a/b", {name: name.encode() for name in names})
    assert fetch_model("a/b").weights.name == chosen
    assert fetch_model("a/b").weights.read_bytes() == chosen.encode()
    assert {r.path.rpartition("/")[2] for r in server.asked("/resolve/")} <= {chosen, "README.md"}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "cut into several files"),
        (["model.safetensors.index.json"], "cut into several files"),
        (["a.safetensors", "b.safetensors"], r"several weights files \(a.safetensors, b.safetensors\)"),
        (["README.md", "onnx/model.onnx", "code.py"], "has no weights"),
    ],
)
def test_repositories_without_usable_weights(server: FakeHub, names: list[str], reason: str) -> None:
    server.add("a/b", dict.fromkeys(names, b"x"))
    with pytest.raises(WeightsError, match=reason) as error:
        fetch_model("a/b")
    message(error)
    assert not server.asked("/resolve/")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ('---\nlicense: other\nlicense_name: "bria-rmbg-2.0"\n---\n', "bria-rmbg-2.0"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [a]\n---\nlicense: no\n", None),
        ("license: no\n", None),
        ("", None),
    ],
)
def test_the_licence_of_a_card(card: str, licence: str | None) -> None:
    assert card_licence(card) == licence


def test_a_damaged_config_is_named(server: FakeHub) -> None:
    server.add(REPO, {**FILES, "config.json": b"{"})
    with pytest.raises(WeightsError, match=r"config\.json: is no JSON") as error:
        fetch_model(REPO)
    message(error)


def test_non_commercial_terms_have_to_be_accepted() -> None:
    require_licence(ZOO["general"], accepted=False)
    require_licence(ZOO["rmbg-2.0"], accepted=True)
    with pytest.raises(WeightsError, match=r"non-commercial use only \(CC BY-NC 4.0.*--accept-licence") as error:
        require_licence(ZOO["rmbg-2.0"], accepted=False)
    message(error)


def test_a_folder_is_pushed_and_comes_back(server: FakeHub, tmp_path: Path) -> None:
    server.writers.add("writer")
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "README.md"):
        (folder / name).write_bytes(FILES[name])
    url = push_folder(folder, "me/mine", token="writer", private=True)
    assert url == f"{server.url}/me/mine"
    assert server.repos["me/mine"].private
    server.readers.add("writer")
    model = fetch_model("me/mine", token="writer")
    assert model.weights.read_bytes() == DATA
    assert (folder / "config.json").read_bytes() == (model.weights.parent / "config.json").read_bytes()
    # Once more, into the repository that now exists.
    (folder / "model.safetensors").write_bytes(DATA[::-1])
    push_folder(folder, "me/mine", token="writer")
    assert fetch_model("me/mine", token="writer", refresh=True).weights.read_bytes() == DATA[::-1]


def test_pushing_without_the_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in (None, "reader"):
        with pytest.raises(WeightsError, match=r"refused access \(HTTP 401\): set HF_TOKEN .*may write") as error:
            push_folder(tmp_path, "me/mine", token=token)
        message(error)
    with pytest.raises(WeightsError, match="no such folder"):
        push_folder(tmp_path / "none", "me/mine")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachableError, match="connect to the network") as error:
        push_folder(tmp_path, "me/mine", token="writer")
    message(error)


def test_more_than_the_disk_holds(server: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 60

    server.add(REPO, {"model.safetensors": Huge(b"x")})
    with pytest.raises(WeightsError, match=r"no room for it in .* MB are free.*HF_HOME") as error:
        fetch_model(REPO)
    message(error)
    # A cache where a file is in the way.
    (home / "file").write_text("x")
    monkeypatch.setenv("HF_HOME", str(home / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written .*set HF_HOME") as error:
        fetch_model(REPO)
    message(error)


def test_a_full_disk_on_the_way(server: FakeHub, tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: the system refuses to write more.
    code = (
        "import resource, signal\n"
        "from birefnet.errors import WeightsError\n"
        "from birefnet.hub import fetch_model\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))\n"
        "try:\n"
        f"    fetch_model({REPO!r})\n"
        "except WeightsError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        f"assert fetch_model({REPO!r}).weights.stat().st_size == {len(DATA)}\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    process = in_another_process(server.url, tmp_path, code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "no room for it in" in out
    assert out.count("\n") == 1
    assert server.asked("/cdn/", "GET")[-1].start == 1 << 20


def test_ctrl_c_leaves_a_download_that_goes_on(server: FakeHub, tmp_path: Path) -> None:
    server.chunk_seconds = 0.05
    code = f"from birefnet.hub import fetch_model; print(fetch_model({REPO!r}).weights)"
    process = in_another_process(server.url, tmp_path, code)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size >= 1 << 20 for path in tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    server.chunk_seconds = 0
    process = in_another_process(server.url, tmp_path, code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert Path(out.strip()).read_bytes() == DATA
    first, last = server.asked("/cdn/", "GET")
    assert first.start == 0
    assert last.start >= 1 << 20


def test_two_processes_fetch_the_same_file(server: FakeHub, tmp_path: Path) -> None:
    server.chunk_seconds = 0.01
    code = f"from birefnet.hub import fetch_model; print(fetch_model({REPO!r}).weights)"
    processes = [in_another_process(server.url, tmp_path, code) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert Path(out.strip()).read_bytes() == DATA
    assert sum(len(DATA) - r.start for r in server.asked("/cdn/", "GET")) < 1.5 * len(DATA)


def test_importing_does_not_import_the_library() -> None:
    code = "import sys, birefnet.hub, birefnet.cli.models; print([m for m in sys.modules if 'huggingface' in m])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.usefixtures("home")
def test_a_cache_that_was_tidied_up_is_filled_again() -> None:
    model = fetch_model(REPO)
    model.weights.resolve().unlink()
    assert not is_cached(REPO)
    assert fetch_model(REPO).weights.read_bytes() == DATA
