"""aiortc, an independent WebRTC stack, publishes through Weir and subscribes to it; what comes out is what went in."""

import asyncio
import fractions
import math
import struct
import time

import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, VideoFrame

from weir import Client, RpcError, Weir

FRAMES = 40
PIECES = 50
WITHIN_S = 30
RATE = 48_000
PERIOD_S = 0.02
TONE_HZ = 440


class Picture(MediaStreamTrack):
    """Grey frames at 20 per second, one half of the picture twice as bright as the other, changing sides each second."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.count = 0

    async def recv(self):
        if self.count == 0:
            self.start = time.monotonic()
        await asyncio.sleep(max(0, self.start + self.count / 20 - time.monotonic()))
        frame = VideoFrame(640, 480, "yuv420p")
        bright_left = self.count // 20 % 2 == 0
        row = (bytes([160]) * 320 + bytes([60]) * 320) if bright_left else (bytes([60]) * 320 + bytes([160]) * 320)
        for plane, line, height in zip(frame.planes, [row, bytes([128]) * 320, bytes([128]) * 320], [480, 240, 240]):
            plane.update(line.ljust(plane.line_size, b"\0") * height)
        frame.pts, frame.time_base = self.count * 4500, fractions.Fraction(1, 90_000)
        self.count += 1
        return frame


class Tone(MediaStreamTrack):
    """A sine of 440 Hz at half of full scale."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.count = 0

    async def recv(self):
        if self.count == 0:
            self.start = time.monotonic()
        await asyncio.sleep(max(0, self.start + self.count * PERIOD_S - time.monotonic()))
        samples = int(RATE * PERIOD_S)
        first = self.count * samples
        values = [int(16_000 * math.sin(2 * math.pi * TONE_HZ * (first + n) / RATE)) for n in range(samples)]
        frame = AudioFrame("s16", "mono", samples)
        frame.planes[0].update(struct.pack(f"<{samples}h", *values))
        frame.sample_rate, frame.pts, frame.time_base = RATE, first, fractions.Fraction(1, RATE)
        self.count += 1
        return frame


async def collect(track, count):
    frames = []
    while len(frames) < count:
        frames.append(await asyncio.wait_for(track.recv(), WITHIN_S))
    return frames


def brightness(frame):
    """Mean luma of the left and of the right half, 16 pixels away from every edge."""
    plane = frame.reformat(format="yuv420p").planes[0]
    data = bytes(plane)

    def mean(from_x, to_x):
        rows = [data[y * plane.line_size + from_x : y * plane.line_size + to_x] for y in range(16, frame.height - 16, 8)]
        return sum(map(sum, rows)) / sum(map(len, rows))

    half = frame.width // 2
    return mean(16, half - 16), mean(half + 16, frame.width - 16)


def crossings_per_second(frames):
    """Rising zero crossings of the first channel: the frequency of a sine."""
    values = []
    for frame in frames:
        channels = len(frame.layout.channels)
        data = struct.unpack(f"<{frame.samples * channels}h", bytes(frame.planes[0])[: frame.samples * channels * 2])
        values.extend(data[::channels])
    rises = sum(1 for before, after in zip(values, values[1:]) if before < 0 <= after)
    return rises * RATE / len(values), max(values)


@pytest.fixture(scope="module", params=["io_uring", "mmsg"])
def weir(request):
    with Weir(WEIR_REACTOR=request.param) as server:
        yield server


async def call(weir, session, server_offers):
    publisher, subscriber = Client(), Client()
    try:
        await publisher.join(weir.token(session), "publisher")
        await subscriber.join(weir.token(session, "SUBSCRIBER"), "subscriber")
        stream, sending = await publisher.publish(Tone(), Picture())
        published = await subscriber.notified("participantPublished")
        assert published["streams"][0]["id"] == stream
        tracks, receiving = await subscriber.subscribe(stream, server_offers)
        pictures, sounds = await asyncio.gather(collect(tracks["video"], FRAMES), collect(tracks["audio"], PIECES))
        codecs = [line for line in receiving.remoteDescription.sdp.splitlines() if line.startswith("a=rtpmap:")]
        assert sending.connectionState == receiving.connectionState == "connected"
        return pictures, sounds, codecs
    finally:
        await subscriber.leave()
        await publisher.leave()


def check_media(pictures, sounds):
    assert {(frame.width, frame.height) for frame in pictures} == {(640, 480)}
    for frame in pictures:
        left, right = brightness(frame)
        assert abs(max(left, right) - 160) < 12 and abs(min(left, right) - 60) < 12, (left, right)
    sides = {left > right for left, right in map(brightness, pictures)}
    assert sides == {True, False}, "the picture moves"
    frequency, peak = crossings_per_second(sounds[len(sounds) // 2 :])
    assert abs(frequency - TONE_HZ) < 12, frequency
    assert 8_000 < peak < 24_000, peak


@pytest.mark.parametrize("server_offers", [False, True], ids=["client-offers", "server-offers"])
def test_what_goes_in_comes_out(weir, server_offers):
    pictures, sounds, codecs = asyncio.run(call(weir, weir.session(), server_offers))
    check_media(pictures, sounds)
    assert any("VP8/90000" in line for line in codecs), codecs


def test_h264_when_the_session_forces_it(weir):
    session = weir.session(forcedVideoCodec="H264", allowTranscoding=False)
    pictures, sounds, codecs = asyncio.run(call(weir, session, False))
    check_media(pictures, sounds)
    assert any("H264/90000" in line for line in codecs) and not any("VP8" in line for line in codecs), codecs


def test_a_forced_codec_that_aiortc_does_not_have_is_error_800(weir):
    async def publish():
        client = Client()
        try:
            await client.join(weir.token(weir.session(forcedVideoCodec="VP9", allowTranscoding=False)))
            await client.publish(Tone(), Picture())
        finally:
            await client.leave()

    with pytest.raises(RpcError) as error:
        asyncio.run(publish())
    assert error.value.code == 800


def test_a_publisher_that_leaves_ends_what_its_subscriber_hears(weir):
    async def leave():
        session = weir.session()
        publisher, subscriber = Client(), Client()
        try:
            await publisher.join(weir.token(session))
            await subscriber.join(weir.token(session, "SUBSCRIBER"))
            stream, _ = await publisher.publish(Tone())
            tracks, _ = await subscriber.subscribe(stream, kinds=("audio",))
            await collect(tracks["audio"], 10)
            await publisher.leave()
            left = await subscriber.notified("participantLeft")
            assert (left["connectionId"], left["reason"]) == (publisher.info["id"], "disconnect")
            # The node closes DTLS or falls silent: either way no sound comes any more after what was on its way.
            try:
                for _ in range(200):
                    await asyncio.wait_for(tracks["audio"].recv(), 2)
            except (asyncio.TimeoutError, MediaStreamError):
                return True
            return False
        finally:
            await subscriber.leave()
            await publisher.leave()

    assert asyncio.run(leave())
