"""Choosing the device: what the processor says decides, the rest is measured once, and data are looked at first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from neocog import fit
from neocog.engine import speed
from neocog.errors import DataError, UsageError
from neocog.fit import device as module
from neocog.fit.device import Device, choose, convolution_rate, place
from neocog.fit.transferability import transferability


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / speed.FILE


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ways that are measured, a list for each question; the last of each is found to be the fastest by far."""
    asked: list[list[str]] = []

    def measure(ways, seconds):  # type: ignore[no-untyped-def]
        asked.append(list(ways))
        return {way: 1.0 / (1 + number) ** 2 for number, way in enumerate(ways)}

    monkeypatch.setattr(speed, "best_times", measure)
    return asked


def processor(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(module, "_flags", lambda: set(flags))


def test_a_processor_without_bfloat16_is_never_asked_to_compute_in_it(
    cache: Path, timed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, "avx2", "avx512_f")
    chosen = choose("cpu", training=True)
    assert not chosen.bf16 and chosen.channels_last and chosen.side_by_side
    assert timed == [["float32", "float32 channels-last"], ["plain", "side by side"]]


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_processor_made_for_bfloat16_is_not_measured(
    flag: str, cache: Path, timed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, "avx2", flag)
    chosen = choose("cpu")
    assert chosen.bf16 and chosen.channels_last and not chosen.rates and not timed


def test_what_the_processor_leaves_open_is_measured_once(
    cache: Path, timed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, "bf16")
    first = choose("cpu", training=True)
    assert first.bf16 and len(timed) == 3 and "bfloat16 channels-last" in timed[0]
    monkeypatch.setattr(speed, "best_times", lambda ways, seconds: pytest.fail("measured again"))
    assert choose("cpu", training=True) == first  # other work on the machine cannot turn the choice over
    monkeypatch.setattr(module, "_processor", lambda: "another one")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        choose("cpu")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"k": 1}'])
def test_a_cache_that_cannot_be_read_is_ignored_and_replaced(
    content: bytes, cache: Path, timed: list[list[str]]
) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    ways = {"a": lambda: None, "b": lambda: None}
    found = speed.seconds_of("which", "here", ways)
    assert found == {"a": 1.0, "b": 0.25} == speed.seconds_of("which", "here", ways)
    assert len(timed) == 1
    for wrong in ({"a": 1.0}, {"a": 1.0, "b": -1}, {"a": 1.0, "b": "fast"}, 3):
        cache.write_text(json.dumps({"which on here": wrong}))
        speed._here.clear()  # as in another process
        assert speed.seconds_of("which", "here", ways) == found


def test_a_process_decides_once(cache: Path, timed: list[list[str]]) -> None:
    """Also where another process writes other times meanwhile; and of two processes the first decides."""
    ways = {"a": lambda: None, "b": lambda: None}
    found = speed.seconds_of("which", "here", ways)
    other = {"which on here": {"a": 0.1, "b": 9.0}}
    cache.write_text(json.dumps(other))
    assert speed.seconds_of("which", "here", ways) == found and len(timed) == 1
    speed._here.clear()
    assert speed.seconds_of("which", "here", ways) == other["which on here"] and len(timed) == 1


def test_without_a_place_for_the_cache_it_is_measured_once_a_process(
    tmp_path: Path, timed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert speed.seconds_of("which", "here", {"a": lambda: None}) == {"a": 1.0}
    assert len(timed) == 1


def test_a_measurement_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    calls = []

    def way(name: str, takes: float):  # type: ignore[no-untyped-def]
        def call() -> None:
            calls.append(name)
            clock[0] += takes

        return call

    assert speed.best_times({"a": way("a", 0.01), "b": way("b", 0.03)}, 0.2) == pytest.approx({"a": 0.01, "b": 0.03})
    assert clock[0] <= 0.2 and calls[:4] == ["a", "b", "a", "b"]
    begin = clock[0]
    speed.best_times({"a": way("a", 0.01), "b": way("b", 1.5)}, 0.2)  # a way that alone takes longer is called once
    assert clock[0] - begin < 1.6


def test_data_are_looked_at_before_the_device_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def early(*given: object, **options: object) -> None:
        pytest.fail("the device was measured before the data were known to be usable")

    for where in ("opening", "transferability"):
        monkeypatch.setattr(f"neocog.fit.{where}.choose", early)
    one = tmp_path / "one"
    (one / "cat").mkdir(parents=True)
    (one / "cat" / "a.png").write_bytes(b"no picture")
    none = tmp_path / "none"
    for name in ("cat", "dog"):
        (none / name).mkdir(parents=True)
        (none / name / "a.png").write_bytes(b"no picture")
    for folder, message in ((one, "has one class"), (none, "no picture of none can be read"), (tmp_path / "x", "x")):
        with pytest.raises(DataError, match=message):
            fit.train(folder, progress=False)
        with pytest.raises(DataError, match=message):
            fit.find_lr(folder, progress=False)
    with pytest.raises(UsageError, match="need at least 4"):
        transferability(one, progress=False)
    # what was typed is judged before anything is read
    with pytest.raises(UsageError, match="no device 'tpu'"):
        fit.train(tmp_path / "x", device="tpu", progress=False)
    with pytest.raises(UsageError, match="unknown precision 'int8'"):
        fit.train(tmp_path / "x", precision="int8", progress=False)


@pytest.mark.parametrize("wanted", ["cpu:1", "cuda:99", "cuda:first", "gpu"])
def test_a_device_that_is_not_there(wanted: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{wanted}' on this machine; expected one of cpu"):
        place(wanted)


def test_devices_round_trip_and_rates_are_positive() -> None:
    device = choose("cpu", precision="float32")
    assert Device.from_dict(json.loads(json.dumps(device.as_dict()))) == device
    assert not device.bf16 and str(device).startswith("cpu (") and dict(device.rates)["float32"] > 0
    assert choose("cpu", precision="bfloat16").bf16
    rate = convolution_rate(torch.device("cpu"), torch.float32, True, batch=2, channels=(4, 4), seconds=0.01)
    assert rate > 0
    with pytest.raises(UsageError, match="unknown precision 'int8'"):
        choose("cpu", precision="int8")


def test_one_thread_is_one_thread(monkeypatch):
    for count, said in ((1, ", 1 thread)"), (2, ", 2 threads)")):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert said in str(Device("cpu"))
