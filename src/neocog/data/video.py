"""Videos through PyAV: frames at given times, and the few that show each shot. The extra ``video``.

Of a video whose key packets (those that are decoded without others) come at least every two and a half seconds only
these are decoded; between key packets that are farther apart, the frames that others are made of, at most twelve a
second. All times are presentation times, in seconds from the first picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import Any

import numpy as np

from neocog.data.shots import HEIGHT, WIDTH, Frames, Shot, shots
from neocog.data.stores import clock
from neocog.errors import DecodeError, MissingExtra

_SPARSE = 2.5  # seconds between key packets from which what lies between them is looked at
_EVERY = 1 / 12  # seconds between two frames that are looked at, at least
_EVERY_KEY = 0.25  # the same, where only key packets are decoded
_NEAR = 2.0  # seconds up to which going on is quicker than going back to a key packet
_SIDE = 8  # pixels of a block of the small copy
_MOST = 600  # packets that wait for the next key packet
_EXACT = 1e-3  # seconds: times are kept in milliseconds
_PLACE = re.compile(r"([+-]\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)")  # ISO 6709, in degrees


@dataclass
class Video:
    """What one pass over a video found. `problem`: why it is not whole; what could be read is here nevertheless."""

    file: str
    shots: list[Shot] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # seconds of the frames that show the shots, ascending
    skip: str = "DEFAULT"  # what the decoder may leave out on the way to these
    facts: dict[str, Any] = field(default_factory=dict)  # taken (datetime), latitude, longitude: where it says so
    packets: int = 0
    damaged: int = 0  # of these
    end: float = 0.0  # seconds, of the last packet
    problem: str = ""


def have() -> bool:
    """Whether the extra is installed."""
    try:
        return find_spec("av") is not None
    except ValueError:  # something else of that name, or a test that hides it
        return False


def look(file: str) -> Video:
    """Find the shots of a video, in one pass over it.

    Raises: DecodeError: nothing of it can be read. OSError: there is no such file. MissingExtra: PyAV is not installed.
    """
    made, frames = Video(file), Frames()
    with _opened(file) as (container, stream):
        made.facts = _facts({**container.metadata, **stream.metadata})
        last = -1.0
        for frame, seconds in _looked(container, stream, made):
            if seconds - last < (_EVERY if last >= 0 else 0):
                continue  # also what stands before a key packet whose predecessors were left out
            small = frame.reformat(WIDTH * _SIDE, HEIGHT * _SIDE, "rgb24", interpolation="AREA")
            frames.add(seconds, small.to_ndarray(), bool(frame.key_frame))
            last = seconds
        length = _announced(container, stream)
    if not len(frames):
        raise DecodeError(f"no picture of it can be decoded{': ' + made.problem if made.problem else ''}")
    if made.damaged:
        made.problem = f"{made.damaged:,} of {made.packets:,} packets are damaged; the other pictures are there"
    elif length - made.end > max(2.0, 0.05 * length):  # sound may be a little longer
        made.problem = f"it ends at {clock(made.end)} of {clock(length)}; what is before is there"
    made.shots = shots(frames)
    shown = [i for shot in made.shots for i in shot.keys]
    made.times = [frames.seconds[i] for i in shown]
    made.skip = "NONKEY" if all(frames.key[i] for i in shown) else "NONREF"
    return made


def frames_at(
    file: str | bytes, times: Sequence[float], skip: str = "DEFAULT"
) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yield, for each of some ascending times, (time, the frame that is shown then); None where it cannot be decoded.

    Only what is needed is decoded: from the key packet before each time on, or from the time before if that is near.

    Args:
        times: seconds; one after the end gives the last frame.
        skip: what the decoder leaves out (``NONKEY``, ``NONREF``), where the times are of frames that it then meets.

    Returns: frames upright, uint8 (H, W, 3).
    Raises: as `look`.
    """
    with _opened(file) as (container, stream):
        stream.codec_context.skip_frame = skip
        flow: Iterator[tuple[Any, float]] = iter(())
        here, shown = -1.0, None  # the frame that is at hand, and its time
        ahead: tuple[Any, float] | None = None  # the one after it, where that is decoded already
        for t in times:
            if here < 0 or not (here - _EXACT <= t <= max(here, ahead[1] if ahead else here) + _NEAR):
                _seek(container, stream, t)
                flow, shown, ahead = _decoded(container, stream, skip), None, None
            while ahead is None or ahead[1] <= t + _EXACT:
                if ahead is not None:
                    shown, here = ahead[0], ahead[1]
                if shown is not None and abs(here - t) <= _EXACT:
                    ahead = None  # exactly this one: what follows need not be known
                    break
                ahead = next(flow, None)
                if ahead is None:
                    break
            if shown is None and ahead is not None:
                shown, here = ahead  # the first frame is later
            yield t, None if shown is None else _upright(shown, stream)


def frame_at(file: str, seconds: float) -> np.ndarray:
    """The frame that is shown at a time, upright, uint8 (H, W, 3). Raises: as `look`."""
    found = next(frames_at(file, [seconds]))[1]
    if found is None:
        raise DecodeError(f"the picture at {clock(seconds)} cannot be decoded")
    return found


def length(file: str | bytes) -> float:
    """Seconds of a video, as it says itself, else to its last packet. Raises: as `look`."""
    with _opened(file) as (container, stream):
        made = (_time(stream, p.pts) or 0.0 for p in _packets(container, stream, Video("")) if p.size)
        return _announced(container, stream) or max(made, default=0.0)


def _announced(container: Any, stream: Any) -> float:
    return max(0.0, float((stream.duration or 0) * stream.time_base) or (container.duration or 0) / 1e6)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra("videos are read by PyAV: pip install 'neocog[video]'") from None
    av.logging.set_level(None)
    return av


@contextmanager
def _opened(file: str | bytes) -> Iterator[tuple[Any, Any]]:
    """A container, and its stream of pictures."""
    av = _av()
    if not isinstance(file, bytes):
        open(file, "rb").close()  # so that what the system says is said as it is for other files
    try:
        container = av.open(io.BytesIO(file) if isinstance(file, bytes) else file, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(f"cannot be read as a video: {_said(error)}") from None
    try:
        covers = int(av.stream.Disposition.attached_pic)
        found = [one for one in container.streams.video if not int(one.disposition) & covers]
        if not found:
            raise DecodeError("has no moving pictures" + ", only sound" * bool(container.streams.audio))
        if found[0].codec_context is None:
            raise DecodeError("cannot be decoded: PyAV has no decoder for it")
        found[0].codec_context.thread_type = "AUTO"
        yield container, found[0]
    except (av.FFmpegError, EOFError) as error:
        raise DecodeError(f"cannot be read as a video: {_said(error)}") from None
    finally:
        container.close()


def _said(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]


def _packets(container: Any, stream: Any, made: Video) -> Iterator[Any]:
    """The packets of a stream, until the end or the first error that reading does not survive."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (_av().FFmpegError, EOFError) as error:
            made.problem = made.problem or _said(error)
            return
        if packet is None:
            return
        made.packets += packet.size > 0
        yield packet


def _frames(stream: Any, packet: Any, made: Video, since: float = 0.0) -> Iterator[tuple[Any, float]]:
    """The frames that a packet completes, with their times; damaged ones from `since` on are counted."""
    try:
        frames = stream.codec_context.decode(packet if packet is None or packet.size else None)
    except (_av().FFmpegError, EOFError, ValueError):
        made.damaged += packet is not None and packet.size > 0
        return
    for frame in frames:
        seconds = _time(stream, frame.pts)
        if frame.is_corrupt:  # one shown before its key packet may be made of frames that were left out
            made.damaged += seconds is not None and seconds >= since
        elif seconds is not None:
            yield frame, seconds


def _looked(container: Any, stream: Any, made: Video) -> Iterator[tuple[Any, float]]:
    """The frames that tell shots: of key packets alone where these are dense, else of the packets between, too."""
    waiting: list[Any] = []  # a key packet, and what follows it, while it is not known whether that is needed
    context, since, fed = stream.codec_context, 0.0, -1.0

    def decoded(packets: Sequence[Any], skip: str) -> Iterator[tuple[Any, float]]:
        context.skip_frame = skip
        for packet in packets:
            yield from _frames(stream, packet, made, since)

    sparse = False
    for packet in _packets(container, stream, made):
        at = _time(stream, packet.pts if packet.pts is not None else packet.dts)
        made.end = max(made.end, at or 0.0)
        if packet.is_keyframe or not packet.size:
            if waiting and fed < 0 and not packet.size:  # there is only this one
                yield from decoded(waiting, "NONREF")
            elif waiting and (since - fed >= _EVERY_KEY or fed < 0):
                yield from decoded(waiting[:1], "NONKEY")
                fed = since
            waiting, sparse, since = [packet], False, since if at is None else at
        elif sparse:
            yield from decoded([packet], "NONREF")
        else:
            waiting.append(packet)
            if len(waiting) > _MOST or (at is not None and at - since > _SPARSE):
                yield from decoded(waiting, "NONREF")
                waiting, sparse, fed = [], True, since
    yield from decoded([*waiting[:1], None], "NONREF")


def _decoded(container: Any, stream: Any, skip: str) -> Iterator[tuple[Any, float]]:
    """All frames from where the container stands, but what `skip` leaves out."""
    made = Video("")
    for packet in _packets(container, stream, made):
        if skip != "NONKEY" or packet.is_keyframe or not packet.size:
            yield from _frames(stream, packet, made)


def _seek(container: Any, stream: Any, seconds: float) -> None:
    """Go to the key packet before a time, or to the start where the file has no index."""
    ticks = round(seconds / stream.time_base) + (stream.start_time or 0)
    with suppress(_av().FFmpegError, EOFError):
        container.seek(ticks, stream=stream)
        return
    container.seek(0)


def _time(stream: Any, pts: int | None) -> float | None:
    return None if pts is None else float((pts - (stream.start_time or 0)) * stream.time_base)


def _upright(frame: Any, stream: Any) -> np.ndarray:
    """A frame as it is to be shown: square pixels, turned as the file says; uint8 (H, W, 3)."""
    shape = stream.sample_aspect_ratio
    width = round(frame.width * shape) if shape and 0.1 < shape < 10 else frame.width
    picture = frame.reformat(width, frame.height, "rgb24", interpolation="BILINEAR").to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _facts(said: dict[str, str]) -> dict[str, Any]:
    """When and where a video was taken, where its file says so."""
    known = {name.lower(): text for name, text in said.items()}
    made: dict[str, Any] = {}
    for name in ("com.apple.quicktime.creationdate", "creation_time", "date"):
        with suppress(ValueError, KeyError):
            taken = datetime.fromisoformat(known[name]).replace(tzinfo=None, microsecond=0)
            if taken.year > 1970:  # 1904 and 1970: a clock that was never set
                made["taken"] = taken
                break
    place = _PLACE.match(known.get("com.apple.quicktime.location.iso6709", known.get("location", "")))
    if place and abs(float(place[1])) <= 90 and abs(float(place[2])) <= 180:
        made |= {"latitude": float(place[1]), "longitude": float(place[2])}
    return made
