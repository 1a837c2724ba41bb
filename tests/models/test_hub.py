"""The hub's files: whole, right, once, and quick to be done without. All of it against a real server."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lvexport.models import hub
from lvexport.models.build import build
from lvexport.models.errors import Absent, HubError, Unreachable, WeightsError
from lvexport.models.provenance import Provenance, choose_weights, describe
from lvexport.models.registry import ENTRIES, demo
from tests.hubs import COMMIT, Hub, serving

CONTENT = bytes(range(256)) * 4000
LIMIT = 3.0  # seconds in which a command has to notice that there is no network


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving({"us/net/model.safetensors": CONTENT, "us/net/config.json": b"{}"}) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("LVEXPORT_CACHE", str(tmp_path / "cache"))
        yield found


def test_a_file_is_downloaded_once_and_then_comes_from_the_cache(server: Hub) -> None:
    for _ in range(2):
        found = hub.fetch("us/net", "model.safetensors")
        assert found.path.read_bytes() == CONTENT
        assert (found.repo, found.revision) == ("us/net", COMMIT)
    assert len(server.transfers("model.safetensors")) == 1
    assert len(server.asked) == 2
    left = {p.name for p in found.path.parent.iterdir() if not p.name.endswith(".lock")}
    assert left == {"model.safetensors", "model.safetensors.sha256"}


def test_small_files_are_compared_with_the_digest_of_git(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.fetch("us/net", "config.json").path.read_bytes() == b"{}"
    monkeypatch.setattr(hub, "_git_sha1", lambda path: "0" * 40)
    server.files["us/net/other.json"] = b"{ }"
    with pytest.raises(HubError, match="arrived damaged"):
        hub.fetch("us/net", "other.json")


def test_an_interrupted_transfer_goes_on_where_it_was(server: Hub) -> None:
    server.cut = [300_000, 200_000]
    assert hub.fetch("us/net", "model.safetensors").path.read_bytes() == CONTENT
    assert [line.split()[3] for line in server.transfers("model.safetensors")][1:] == ["bytes=300000-", "bytes=500000-"]


def test_a_later_run_goes_on_with_what_a_broken_one_left(server: Hub) -> None:
    server.cut = [300_000, 0]
    with pytest.raises(Unreachable, match="goes on from where it was"):
        hub.fetch("us/net", "model.safetensors")
    assert hub.stored("us/net", "model.safetensors") is None
    assert hub.fetch("us/net", "model.safetensors").path.read_bytes() == CONTENT
    assert "bytes=300000-" in server.transfers("model.safetensors")[-1]


def test_what_is_no_beginning_of_the_file_is_thrown_away(server: Hub) -> None:
    part = hub.folder("us/net", COMMIT) / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    assert hub.fetch("us/net", "model.safetensors").path.read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_nothing_is_kept(server: Hub) -> None:
    server.wrong_digest = True
    with pytest.raises(HubError, match="arrived damaged"):
        hub.fetch("us/net", "model.safetensors")
    kept = {p.name for p in hub.folder("us/net", COMMIT).iterdir()}
    assert kept <= {"model.safetensors.lock"}


def test_a_file_that_was_changed_in_the_cache_is_fetched_anew(server: Hub) -> None:
    path = hub.fetch("us/net", "model.safetensors").path
    path.write_bytes(b"rotten")
    assert hub.stored("us/net", "model.safetensors") is None
    assert hub.fetch("us/net", "model.safetensors").path.read_bytes() == CONTENT


def test_two_processes_at_once_download_once(server: Hub) -> None:
    script = "from lvexport.models import hub; print(hub.fetch('us/net', 'model.safetensors').path)"
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(paths) == 1
    assert hashlib.sha256(Path(paths.pop().strip()).read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    assert len(server.transfers("model.safetensors")) == 1


def test_the_token_is_shown_to_the_hub_alone(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.fetch("us/net", "model.safetensors")
    told = {line.split()[1].split(":")[0]: line for line in server.asked}
    assert not told["127.0.0.1"].endswith("no token")
    assert told["localhost"].endswith("no token")


def test_what_is_not_there_is_told_apart_and_remembered(server: Hub) -> None:
    with pytest.raises(Absent, match=r"no other\.bin"):
        hub.fetch("us/net", "other.bin")
    with pytest.raises(Absent, match="HF_TOKEN"):
        hub.fetch("us/nothing", "config.json")
    assert hub.fetch_if_any("us/net", "other.bin", COMMIT) is None
    before = len(server.asked)
    assert hub.fetch_if_any("us/net", "other.bin", COMMIT) is None
    assert len(server.asked) == before


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address to which no connection is made: the kernel drops what comes, since the queue behind it is full."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_an_address_that_swallows_everything_costs_less_than_three_seconds(
    server: Hub, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    start = time.monotonic()
    with pytest.raises(Unreachable, match="cannot be reached"):
        hub.fetch("us/net", "model.safetensors")
    assert time.monotonic() - start < LIMIT
    start = time.monotonic()
    with pytest.raises(Unreachable, match="a short while ago"):
        hub.fetch("us/net", "model.safetensors", insist=False)
    assert time.monotonic() - start < 0.5


def test_a_name_server_that_is_silent_costs_less_than_three_seconds(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: time.sleep(30))
    start = time.monotonic()
    with pytest.raises(Unreachable, match="no answer within"):
        hub.fetch("us/net", "model.safetensors")
    assert time.monotonic() - start < LIMIT


def test_without_a_network_the_cache_is_enough(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.fetch("us/net", "model.safetensors").path
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch("us/net", "model.safetensors").path == path
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        hub.fetch("us/net", "config.json")


def test_what_answers_but_is_no_hub_is_told_apart(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that refuses, a captive portal that answers everything, and an address that is none."""
    for status in (200, 403, 404):
        server.status = status
        with pytest.raises(Unreachable):
            hub.fetch_if_any("us/net", "config.json", COMMIT)
    server.status = 0
    assert hub.fetch_if_any("us/net", "config.json", COMMIT) is not None
    monkeypatch.setenv("HF_ENDPOINT", "hub")
    with pytest.raises(HubError, match="no address"):
        hub.fetch("us/net", "other.json")


def test_official_weights_come_first_then_the_demo(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's checkpoint, here one of random numbers, is taken where there is a network, and from then on."""
    assert choose_weights("mobilevit_xxs", "auto").kind == "demo"
    original = build("mobilevit_xxs", weights="random")
    state = {k: v.contiguous() for k, v in original.state_dict().items()}
    server.files["timm/mobilevit_xxs.cvnets_in1k/model.safetensors"] = save(state)
    loaded = build("mobilevit_xxs")
    found = loaded.provenance
    assert isinstance(found, Provenance)
    assert (found.weights.kind, found.num_classes, found.imgsz) == ("hub", 1000, 256)
    assert (found.weights.repo, found.weights.revision) == ("timm/mobilevit_xxs.cvnets_in1k", COMMIT)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(x), original(x))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert choose_weights("mobilevit_xxs", "auto") == found.weights
    with pytest.raises(WeightsError, match="knows 1000 classes"):
        describe(ENTRIES["mobilevit_xxs"], found.weights, num_classes=7)


def test_a_network_without_a_demo_says_what_was_tried(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"timm/mobilevit_s\.cvnets_in1k is not in the cache.*--weights random"):
        choose_weights("mobilevit_s", "auto")
    assert demo("mobilevit_s") is None
    with pytest.raises(WeightsError, match=r"No trained weights for mobile_former_52m are here\. Give"):
        choose_weights("mobile_former_52m", "auto")
