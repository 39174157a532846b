// A client for Weir in one file: JSON-RPC over WebSocket, one RTCPeerConnection per stream, both ways to subscribe, and
// coming back after a lost connection.
//
//   const client = new WeirClient();
//   client.addEventListener('streamadded', ({ detail }) => show(detail.connection, detail.stream));
//   await client.join(token, { name: 'Ann', server: location.origin });
//   await client.publish(await navigator.mediaDevices.getUserMedia({ audio: true, video: true }));
//
// Events, each with `detail`: participantjoined, participantleft {reason}, streamadded {connection, stream, media},
// streamremoved, streamchanged {property, value}, unpublished {reason, again}, signal {type, data, from}, reconnecting,
// reconnected, disconnected {reason}, problem {message}.

const REQUEST_MS = 10_000;
const PING_MS = 5_000;
const RETRY_MS = 3_000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
/** How long ICE may be `disconnected` before the peer connection is made anew. */
const ICE_PATIENCE_MS = 4_000;
const VERSION = '2.32.2';

/** An error answer of the server. */
export class WeirError extends Error {
  constructor(code, message) {
    super(message.replace(/\. Code: -?\d+$/, ''));
    this.code = code;
  }
}

/** One WebSocket with requests, answers and pings on it. */
class Rpc {
  #socket;
  #next;
  #pending = new Map();
  #pinger;
  onnotification = () => {};
  onclose = () => {};

  constructor(firstId) {
    this.#next = firstId;
  }

  /** First id that was not used; ids go on counting over sockets. */
  get nextId() {
    return this.#next;
  }

  open(url) {
    return new Promise((done, fail) => {
      const socket = new WebSocket(url);
      this.#socket = socket;
      socket.onopen = () => {
        this.#startPings();
        done();
      };
      socket.onerror = () => fail(new Error('The server cannot be reached.'));
      socket.onclose = (event) => {
        fail(new Error('The server closed the connection.'));
        this.#end();
        this.onclose(event);
      };
      socket.onmessage = (event) => this.#receive(event.data);
    });
  }

  request(method, params, timeout = REQUEST_MS) {
    return new Promise((done, fail) => {
      if (this.#socket?.readyState !== WebSocket.OPEN) return fail(new Error('There is no connection to the server.'));
      const id = this.#next++;
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        fail(new Error(`The server did not answer in time (${method}).`));
      }, timeout);
      this.#pending.set(id, { done, fail, timer });
      this.#socket.send(JSON.stringify({ jsonrpc: '2.0', method, params, id }));
    });
  }

  close(code = 4102, reason = 'Connection closed by client') {
    this.#end();
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.close(code, reason);
    }
  }

  #startPings() {
    let params = { interval: PING_MS };
    const ping = () => {
      this.request('ping', params, PING_MS).catch(() => {
        if (this.#socket.readyState > WebSocket.OPEN) return;
        this.close(4104, 'Connection closed for reconnection');
        this.onclose({ code: 4104 });
      });
      params = undefined;
    };
    ping();
    this.#pinger = setInterval(ping, PING_MS);
  }

  #receive(text) {
    const message = JSON.parse(text);
    if (message.method) return this.onnotification(message.method, message.params ?? {});
    const waiting = this.#pending.get(message.id);
    if (!waiting) return;
    this.#pending.delete(message.id);
    clearTimeout(waiting.timer);
    if (message.error) waiting.fail(new WeirError(message.error.code, message.error.message));
    else waiting.done(message.result);
  }

  #end() {
    clearInterval(this.#pinger);
    for (const { fail, timer } of this.#pending.values()) {
      clearTimeout(timer);
      fail(new Error('The connection to the server was lost.'));
    }
    this.#pending.clear();
  }
}

/** What the server tells about a participant, in our words. */
function participantOf({ id, createdAt, metadata, streams }) {
  const [own] = (metadata ?? '').split('%/%');
  let name = own;
  try {
    name = JSON.parse(own).clientData ?? own;
  } catch {
    // Not JSON: the text itself is the name.
  }
  return { id, createdAt, name: String(name || id), stream: streams?.[0] ? streamOf(streams[0]) : null };
}

function streamOf({ id, hasAudio, hasVideo, audioActive, videoActive, typeOfVideo }) {
  return {
    id, hasAudio: Boolean(hasAudio), hasVideo: Boolean(hasVideo),
    audioActive: Boolean(hasAudio && audioActive), videoActive: Boolean(hasVideo && videoActive), typeOfVideo,
  };
}

export class WeirClient extends EventTarget {
  /** Own connection: `{id, name, role}`, once joined. */
  me = null;
  /** Others by connection id. */
  participants = new Map();

  #rpc;
  #socketUrl;
  #rpcSession;
  #serverOffers = false;
  #iceServers = [];
  #publisher = null; // {pc, media, id, told}, told: what the others were told by kind
  #subscribers = new Map(); // connection id -> {pc, stream, media}
  #closed = false;
  /** Between a lost connection and the next one. */
  #away = false;

  /**
   * Joins the session that a token is for.
   * @param {string} token as the REST API gave it
   * @param {{name?: string, server?: string}} options `server`: origin to connect to. A page that came from the server knows
   *   an address that works; the token may name one behind a NAT.
   */
  async join(token, { name = '', server = token } = {}) {
    const session = new URL(token).searchParams.get('sessionId');
    const { protocol, host } = new URL(server);
    this.#socketUrl = `${protocol.replace(/^http/, 'ws')}//${host}/openvidu?sessionId=${encodeURIComponent(session)}`;
    this.#rpc = this.#newRpc();
    await this.#rpc.open(this.#socketUrl);
    let result;
    try {
      result = await this.#rpc.request('joinRoom', {
        token, session, platform: navigator.userAgent, sdkVersion: VERSION,
        metadata: JSON.stringify({ clientData: name }), secret: '', recorder: false, stt: false,
      });
    } catch (error) {
      this.#closed = true;
      this.#rpc.close();
      throw error;
    }
    this.me = { id: result.id, name, role: result.role };
    this.#rpcSession = result.sessionId;
    this.#serverOffers = result.mediaServer === 'mediasoup';
    this.#iceServers = (result.customIceServers ?? []).map(({ url, urls, username, credential }) =>
      ({ urls: urls ?? url, username, credential }));
    for (const entry of result.value) this.#joined(entry);
    return this.me;
  }

  /** Sends the tracks of `media`; at most one of each kind. */
  async publish(media) {
    const [audio] = media.getAudioTracks();
    const [video] = media.getVideoTracks();
    const publisher = { media, pc: null, id: null, told: {} };
    this.#publisher = publisher;
    const { pc, offer } = await this.#offerMedia();
    for (const track of [audio, video]) if (track) publisher.told[track.kind] = track.enabled;
    const settings = video?.getSettings() ?? {};
    const result = await this.#rpc.request('publishVideo', {
      sdpOffer: offer, doLoopback: false, hasAudio: Boolean(audio), hasVideo: Boolean(video),
      ...(audio && { audioActive: publisher.told.audio }),
      ...(video && {
        videoActive: publisher.told.video, typeOfVideo: 'CAMERA',
        videoDimensions: JSON.stringify({ width: settings.width, height: settings.height }),
      }),
      frameRate: -1,
    });
    publisher.id = result.id;
    await pc.setRemoteDescription({ type: 'answer', sdp: result.sdpAnswer });
    this.#guard(this.#announce());
    return result.id;
  }

  /** Stops or goes on sending sound (`audio`) or picture (`video`), and tells the others. */
  async setActive(kind, active) {
    const track = this.#publisher?.media.getTracks().find((one) => one.kind === kind);
    if (!track) return;
    track.enabled = active;
    await this.#announce();
  }

  /** Tells the others what of our stream is on, where they were told something else. What cannot be told now is told later. */
  async #announce() {
    const publisher = this.#publisher;
    if (!publisher?.id || this.#away) return;
    for (const { kind, enabled } of publisher.media.getTracks()) {
      if (publisher.told[kind] === enabled) continue;
      publisher.told[kind] = enabled;
      try {
        await this.#rpc.request('streamPropertyChanged', {
          streamId: publisher.id, property: `${kind}Active`, newValue: enabled,
          reason: kind === 'audio' ? 'publishAudio' : 'publishVideo',
        });
      } catch (error) {
        if (publisher.told[kind] === enabled) publisher.told[kind] = undefined;
        if (!this.#away) throw error;
      }
    }
  }

  /** Sends a text to everybody, or to some connections. */
  signal(type, data, to = []) {
    return this.#rpc.request('sendMessage', { message: JSON.stringify({ to, data, type: `signal:${type}` }) });
  }

  /** Loudness right now by connection id, 0 to 1; the own one included. */
  async audioLevels() {
    const levels = new Map();
    const loudest = async (pc, type) => {
      let level = 0;
      for (const entry of (await pc.getStats()).values()) {
        if (entry.type === type && entry.kind === 'audio') level = Math.max(level, entry.audioLevel ?? 0);
      }
      return level;
    };
    const jobs = [...this.#subscribers].map(async ([id, { pc }]) => levels.set(id, await loudest(pc, 'inbound-rtp')));
    if (this.#publisher?.pc && this.me) {
      jobs.push(loudest(this.#publisher.pc, 'media-source').then((level) => levels.set(this.me.id, level)));
    }
    await Promise.allSettled(jobs);
    return levels;
  }

  /** Leaves the session and closes everything. The published tracks stay with the caller. */
  async leave() {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.#rpc.request('leaveRoom', {}, 2_000);
    } catch {
      // Gone already; leaving is all that was wanted.
    }
    this.#end('disconnect');
  }

  #emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #newRpc() {
    const rpc = new Rpc(this.#rpc?.nextId ?? 0);
    rpc.onnotification = (method, params) => this.#notified(method, params);
    rpc.onclose = () => this.#lost(rpc);
    return rpc;
  }

  #end(reason) {
    this.#closed = true;
    this.#rpc.close();
    this.#publisher?.pc?.close();
    for (const id of [...this.#subscribers.keys()]) this.#drop(id);
    this.#emit('disconnected', { reason });
  }

  // ---- Peer connections -------------------------------------------------------------------------------------------

  /** A peer connection whose trickled candidates go out as those of `owner`, the connection that publishes. */
  #peer(owner, remake) {
    const pc = new RTCPeerConnection({ iceServers: this.#iceServers });
    pc.onicecandidate = ({ candidate }) => {
      if (!candidate?.candidate) return;
      const { sdpMid, sdpMLineIndex } = candidate;
      const params = { endpointName: owner, candidate: candidate.candidate, sdpMid, sdpMLineIndex };
      this.#rpc.request('onIceCandidate', params).catch(() => {});
    };
    let patience;
    pc.oniceconnectionstatechange = () => {
      clearTimeout(patience);
      const again = () => {
        if (pc.signalingState !== 'closed' && broken(pc)) remake();
      };
      if (pc.iceConnectionState === 'failed') again();
      if (pc.iceConnectionState === 'disconnected') patience = setTimeout(again, ICE_PATIENCE_MS);
    };
    return pc;
  }

  async #offerMedia() {
    const publisher = this.#publisher;
    publisher.pc?.close();
    const pc = this.#peer(this.me.id, () => this.#guard(this.#republish()));
    publisher.pc = pc;
    for (const track of [...publisher.media.getAudioTracks(), ...publisher.media.getVideoTracks()]) {
      pc.addTransceiver(track, { direction: 'sendonly', streams: [publisher.media] });
    }
    await pc.setLocalDescription(await pc.createOffer());
    return { pc, offer: pc.localDescription.sdp };
  }

  async #republish() {
    const { pc, offer } = await this.#offerMedia();
    const result = await this.#rpc.request('reconnectStream', { stream: this.#publisher.id, sdpString: offer });
    await pc.setRemoteDescription({ type: 'answer', sdp: result.sdpAnswer });
  }

  /** Subscribes to what a participant publishes, anew when `again`. */
  async #subscribe(connection, stream, again = false) {
    const known = this.#subscribers.get(connection);
    known?.pc.close();
    const pc = this.#peer(connection, () => this.#guard(this.#subscribe(connection, stream, true)));
    const media = new MediaStream();
    this.#subscribers.set(connection, { pc, stream, media });
    if (this.#serverOffers) {
      const prepared = await this.#rpc.request('prepareReceiveVideoFrom', { sender: stream.id, reconnect: again });
      await this.#answer(pc, stream, prepared.sdpOffer, again);
    } else {
      if (stream.hasAudio) pc.addTransceiver('audio', { direction: 'recvonly' });
      if (stream.hasVideo) pc.addTransceiver('video', { direction: 'recvonly' });
      await pc.setLocalDescription(await pc.createOffer());
      const sdpOffer = pc.localDescription.sdp;
      const result = again
        ? await this.#rpc.request('reconnectStream', { stream: stream.id, sdpOffer, forciblyReconnect: false })
        : await this.#rpc.request('receiveVideoFrom', { sender: stream.id, sdpOffer });
      await pc.setRemoteDescription({ type: 'answer', sdp: result.sdpAnswer });
    }
    for (const receiver of pc.getReceivers()) media.addTrack(receiver.track);
    if (this.#subscribers.get(connection)?.pc === pc) this.#emit('streamadded', { connection, stream, media });
  }

  async #answer(pc, stream, sdpOffer, again, forciblyReconnect = false) {
    await pc.setRemoteDescription({ type: 'offer', sdp: sdpOffer });
    for (const transceiver of pc.getTransceivers()) transceiver.direction = 'recvonly';
    await pc.setLocalDescription(await pc.createAnswer());
    const answer = pc.localDescription.sdp;
    if (again) await this.#rpc.request('reconnectStream', { stream: stream.id, sdpString: answer, forciblyReconnect });
    else await this.#rpc.request('receiveVideoFrom', { sender: stream.id, sdpAnswer: answer });
  }

  /** The server makes a subscription anew. */
  async #forced({ connectionId, streamId, sdpOffer }) {
    const known = this.#subscribers.get(connectionId);
    if (known?.stream.id !== streamId) return;
    known.pc.close();
    const pc = this.#peer(connectionId, () => this.#guard(this.#subscribe(connectionId, known.stream, true)));
    const media = new MediaStream();
    this.#subscribers.set(connectionId, { ...known, pc, media });
    await this.#answer(pc, known.stream, sdpOffer, true, true);
    for (const receiver of pc.getReceivers()) media.addTrack(receiver.track);
    this.#emit('streamadded', { connection: connectionId, stream: known.stream, media });
  }

  #drop(connection) {
    const subscriber = this.#subscribers.get(connection);
    if (!subscriber) return;
    subscriber.pc.close();
    this.#subscribers.delete(connection);
    this.#emit('streamremoved', { connection, stream: subscriber.stream });
  }

  /** Reports a failure that nobody waits for. */
  #guard(promise) {
    promise.catch((error) => {
      if (!this.#closed) this.#emit('problem', { message: error.message });
    });
  }

  // ---- Notifications ----------------------------------------------------------------------------------------------

  #joined(entry) {
    const participant = participantOf(entry);
    this.participants.set(participant.id, participant);
    this.#emit('participantjoined', { participant });
    if (participant.stream) this.#guard(this.#subscribe(participant.id, participant.stream));
  }

  #published(entry) {
    const participant = this.participants.get(entry.id);
    if (!participant) return this.#joined(entry);
    const stream = streamOf(entry.streams[0]);
    if (participant.stream?.id === stream.id) return;
    participant.stream = stream;
    this.#guard(this.#subscribe(participant.id, stream));
  }

  #unpublished({ connectionId, reason }) {
    if (connectionId === this.me?.id) {
      const media = this.#publisher?.media;
      this.#publisher?.pc?.close();
      this.#publisher = null;
      // After a restart of the media server nobody wanted the stream to end: it goes on as a new one.
      const again = reason === 'mediaServerReconnect' && Boolean(media);
      if (again) this.#guard(this.publish(media));
      return this.#emit('unpublished', { reason, again });
    }
    const participant = this.participants.get(connectionId);
    if (participant) participant.stream = null;
    this.#drop(connectionId);
  }

  #changed({ connectionId, streamId, property, newValue }) {
    const stream = this.participants.get(connectionId)?.stream;
    if (stream?.id !== streamId || !property.endsWith('Active')) return;
    stream[property] = newValue === 'true';
    this.#emit('streamchanged', { connection: connectionId, property, value: stream[property] });
  }

  #notified(method, params) {
    switch (method) {
      case 'participantJoined': return this.#joined(params);
      case 'participantPublished': return this.#published(params);
      case 'participantUnpublished': return this.#unpublished(params);
      case 'streamPropertyChanged': return this.#changed(params);
      case 'forciblyReconnectSubscriber': return this.#guard(this.#forced(params));
      case 'sendMessage':
        return this.#emit('signal', { type: params.type?.replace(/^signal:/, ''), data: params.data, from: params.from });
      case 'participantLeft': {
        this.#drop(params.connectionId);
        this.participants.delete(params.connectionId);
        return this.#emit('participantleft', { connection: params.connectionId, reason: params.reason });
      }
      case 'participantEvicted':
        return params.connectionId === this.me?.id ? this.#end(params.reason) : undefined;
      default: return undefined;
    }
  }

  // ---- Coming back ------------------------------------------------------------------------------------------------

  async #lost(rpc) {
    if (this.#closed || !this.me || rpc !== this.#rpc) return;
    this.#away = true;
    this.#emit('reconnecting');
    while (!this.#closed) {
      const next = this.#newRpc();
      next.onclose = () => {};
      this.#rpc = next;
      try {
        await next.open(`${this.#socketUrl}&reconnect=true`);
      } catch {
        await pause(RETRY_MS);
        continue;
      }
      try {
        await next.request('connect', { sessionId: this.#rpcSession, reconnect: true });
      } catch (error) {
        if (error instanceof WeirError) return this.#end('networkDisconnect');
        next.close();
        await pause(RETRY_MS);
        continue;
      }
      next.onclose = () => this.#lost(next);
      this.#away = false;
      this.#emit('reconnected');
      this.#guard(this.#announce());
      return this.#repair();
    }
  }

  /** Makes every peer connection anew that did not survive. */
  #repair() {
    if (this.#publisher?.id && broken(this.#publisher.pc)) this.#guard(this.#republish());
    for (const [connection, { pc, stream }] of this.#subscribers) {
      if (broken(pc)) this.#guard(this.#subscribe(connection, stream, true));
    }
  }
}

function broken(pc) {
  return !['connected', 'completed'].includes(pc.iceConnectionState);
}
