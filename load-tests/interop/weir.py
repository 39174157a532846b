"""A weir to test against, and a client that speaks its JSON-RPC and REST with nothing of ours underneath."""

import asyncio
import base64
import itertools
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription

ROOT = pathlib.Path(__file__).resolve().parents[2]
READY_S = 20
ANSWER_S = 10


def free_port(kind=socket.SOCK_STREAM):
    """A port on loopback that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    candidates = [os.environ.get("WEIR_BIN"), target / "release/weir", target / "debug/weir"]
    for path in filter(None, candidates):
        if os.path.exists(path):
            return str(path)
    raise FileNotFoundError(f"no weir binary in {candidates}; build it with: cargo build --release")


class Weir:
    """The server of WEIR_URL, or a started binary. A context manager."""

    def __init__(self, **settings):
        self.settings = settings
        self.process = None

    def __enter__(self):
        if os.environ.get("WEIR_URL"):
            self.url = os.environ["WEIR_URL"].rstrip("/")
            self.secret = os.environ.get("WEIR_SECRET", "MY_SECRET")
            return self
        port = free_port()
        self.url, self.secret = f"http://127.0.0.1:{port}", "interop-tests"
        self.data = tempfile.TemporaryDirectory(prefix="weir-test-")
        self.log = open(os.path.join(self.data.name, "log"), "w+b")
        self.process = subprocess.Popen(
            [find_binary(), "--listen", f"127.0.0.1:{port}", "--data-dir", self.data.name],
            env={
                **os.environ,
                "OPENVIDU_SECRET": self.secret,
                "WEIR_MEDIA_ADDRESSES": "127.0.0.1",
                "WEIR_MEDIA_PORT": str(free_port(socket.SOCK_DGRAM)),
                **self.settings,
            },
            stdout=self.log,
            stderr=self.log,
        )
        self._wait_ready()
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
            finally:
                self.log.close()
                self.data.cleanup()

    def _wait_ready(self):
        end = time.monotonic() + READY_S
        while True:
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise RuntimeError("weir does not get ready:\n" + self.log.read().decode(errors="replace"))
            try:
                self.rest("GET", "health")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)

    def rest(self, method, path, body=None):
        """One REST call; the parsed body. Other statuses than 200 and 204 raise."""
        credentials = base64.b64encode(f"OPENVIDUAPP:{self.secret}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url}/openvidu/api/{path}",
            method=method,
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def session(self, **properties):
        """Makes a session; its id."""
        return self.rest("POST", "sessions", properties)["id"]

    def token(self, session, role="PUBLISHER"):
        return self.rest("POST", f"sessions/{session}/connection", {"role": role})["token"]


class RpcError(Exception):
    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]


class Client:
    """One participant: a socket, and a peer connection per stream."""

    def __init__(self):
        self.ids = itertools.count()
        self.waiting = {}
        self.notifications = asyncio.Queue()
        self.peers = []

    async def join(self, token, name="aiortc"):
        url = urllib.parse.urlsplit(token)
        query = urllib.parse.parse_qs(url.query)
        session = query["sessionId"][0]
        self.http = aiohttp.ClientSession()
        self.socket = await self.http.ws_connect(f"{url.scheme}://{url.netloc}/openvidu?sessionId={session}", ssl=False)
        self.reader = asyncio.create_task(self._read())
        assert (await self.request("ping", {"interval": 5000}))["value"] == "pong"
        self.info = await self.request(
            "joinRoom",
            {
                "token": token,
                "session": session,
                "platform": "aiortc",
                "sdkVersion": "2.32.2",
                "metadata": json.dumps({"clientData": name}),
                "secret": "",
                "recorder": False,
                "stt": False,
            },
        )
        return self.info

    async def _read(self):
        async for frame in self.socket:
            message = json.loads(frame.data)
            if "method" in message:
                self.notifications.put_nowait((message["method"], message.get("params", {})))
            elif message["id"] in self.waiting:
                self.waiting.pop(message["id"]).set_result(message)

    async def request(self, method, params=None):
        number = next(self.ids)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        message = {"jsonrpc": "2.0", "method": method, "id": number}
        if params is not None:
            message["params"] = params
        answer = self.waiting[number]
        await self.socket.send_json(message)
        message = await asyncio.wait_for(answer, ANSWER_S)
        if "error" in message:
            raise RpcError(message["error"])
        return message["result"]

    async def notified(self, method):
        """Waits for the next notification of this name and drops those before it."""
        while True:
            name, params = await asyncio.wait_for(self.notifications.get(), ANSWER_S)
            if name == method:
                return params

    async def publish(self, audio=None, video=None):
        """Publishes; the stream id and the peer connection."""
        pc = self._peer()
        for track in filter(None, [audio, video]):
            pc.addTransceiver(track, direction="sendonly")
        await pc.setLocalDescription(await pc.createOffer())
        result = await self.request(
            "publishVideo",
            {
                "sdpOffer": pc.localDescription.sdp,
                "doLoopback": False,
                "hasAudio": audio is not None,
                "hasVideo": video is not None,
                "audioActive": audio is not None,
                "videoActive": video is not None,
                "typeOfVideo": "CAMERA",
                "frameRate": -1,
                "videoDimensions": json.dumps({"width": 640, "height": 480}),
            },
        )
        await pc.setRemoteDescription(RTCSessionDescription(result["sdpAnswer"], "answer"))
        return result["id"], pc

    async def subscribe(self, stream, server_offers=False, kinds=("audio", "video")):
        """Subscribes to a stream; its tracks by kind, and the peer connection."""
        pc = self._peer()
        if server_offers:
            prepared = await self.request("prepareReceiveVideoFrom", {"sender": stream, "reconnect": False})
            await pc.setRemoteDescription(RTCSessionDescription(prepared["sdpOffer"], "offer"))
            await pc.setLocalDescription(await pc.createAnswer())
            await self.request("receiveVideoFrom", {"sender": stream, "sdpAnswer": pc.localDescription.sdp})
        else:
            for kind in kinds:
                pc.addTransceiver(kind, direction="recvonly")
            await pc.setLocalDescription(await pc.createOffer())
            result = await self.request("receiveVideoFrom", {"sender": stream, "sdpOffer": pc.localDescription.sdp})
            await pc.setRemoteDescription(RTCSessionDescription(result["sdpAnswer"], "answer"))
        return {receiver.track.kind: receiver.track for receiver in pc.getReceivers()}, pc

    def _peer(self):
        pc = RTCPeerConnection()
        self.peers.append(pc)
        return pc

    async def leave(self):
        for pc in self.peers:
            await pc.close()
        if hasattr(self, "socket") and not self.socket.closed:
            await self.request("leaveRoom", {})
            await self.socket.close()
        if hasattr(self, "http"):
            await self.http.close()
