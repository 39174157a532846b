// One OpenVidu client that a test drives from outside: `client` keeps the session, a log of its events, and statistics.

const client = {
  events: [],
  subscribers: new Map(), // stream id -> subscriber

  note(type, detail = {}) {
    this.events.push({ type, at: performance.now(), ...detail });
  },

  /** How many events of a type there were so far. */
  count(type) {
    return this.events.filter((event) => event.type === type).length;
  },

  watch(session) {
    session.on('streamCreated', (event) => {
      this.note('streamCreated', { stream: event.stream.streamId });
      if (this.wanted > 0) {
        this.wanted -= 1;
        this.subscribe(event.stream);
      }
    });
    session.on('streamDestroyed', (event) => {
      this.subscribers.delete(event.stream.streamId);
      this.note('streamDestroyed', { stream: event.stream.streamId, reason: event.reason });
    });
    session.on('connectionCreated', (event) =>
      this.note('connectionCreated', { connection: event.connection.connectionId, data: event.connection.data }));
    session.on('connectionDestroyed', (event) =>
      this.note('connectionDestroyed', { connection: event.connection.connectionId, reason: event.reason }));
    session.on('sessionDisconnected', (event) => this.note('sessionDisconnected', { reason: event.reason }));
    session.on('signal', (event) =>
      this.note('signal', { signal: event.type, data: event.data, from: event.from?.connectionId ?? null }));
    session.on('streamPropertyChanged', (event) =>
      this.note('streamPropertyChanged', {
        stream: event.stream.streamId, property: event.changedProperty, value: event.newValue, reason: event.reason,
      }));
    session.on('reconnecting', () => this.note('reconnecting'));
    session.on('reconnected', () => this.note('reconnected'));
    session.on('exception', (event) => this.note('exception', { name: event.name, message: event.message }));
  },

  async subscribe(stream) {
    let subscriber;
    try {
      subscriber = await this.session.subscribeAsync(stream, 'videos');
    } catch (error) {
      return this.note('subscribeFailed', { stream: stream.streamId, message: String(error.message ?? error) });
    }
    subscriber.on('streamPlaying', () => this.note('streamPlaying', { stream: stream.streamId }));
    this.subscribers.set(stream.streamId, subscriber);
  },

  async join(token, { name = 'client', subscribes = Infinity, publish = {} } = {}) {
    this.wanted = Number(subscribes); // streams: all, none (false), or so many
    this.openvidu = new OpenVidu();
    this.openvidu.enableProdMode();
    this.session = this.openvidu.initSession();
    this.watch(this.session);
    await this.session.connect(token, { clientData: name });
    if (publish) await this.publish(publish);
    return { connection: this.session.connection.connectionId, role: this.session.connection.role };
  },

  async publish(properties = {}) {
    this.publisher = await this.openvidu.initPublisherAsync(undefined, { resolution: '640x480', ...properties });
    await this.session.publish(this.publisher);
    return this.publisher.stream.streamId;
  },

  /** From now on this page's offers name `mimeType` first, as a page does that chooses its codec by itself. */
  preferVideoCodec(mimeType) {
    const createOffer = RTCPeerConnection.prototype.createOffer;
    RTCPeerConnection.prototype.createOffer = function offer(...options) {
      const { codecs } = RTCRtpSender.getCapabilities('video');
      const first = (codec) => (codec.mimeType === mimeType ? 0 : 1);
      for (const transceiver of this.getTransceivers()) {
        if (transceiver.sender.track?.kind !== 'video') continue;
        transceiver.setCodecPreferences([...codecs].sort((a, b) => first(a) - first(b)));
      }
      return createOffer.apply(this, options);
    };
  },

  /** A picture that no encoder can make small: coloured noise over a moving bar. */
  noise(width, height, fps) {
    const canvas = Object.assign(document.createElement('canvas'), { width, height });
    const context = canvas.getContext('2d');
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    let seed = 1;
    setInterval(() => {
      for (let at = 0; at < pixels.length; at += 1) {
        if (at % 8 === 0) seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
        pixels[at] = 0xff000000 | seed;
      }
      context.putImageData(image, 0, 0);
    }, 1000 / fps);
    return canvas.captureStream(fps).getVideoTracks()[0];
  },

  /** Every peer connection: the publisher's as `out`, each subscriber's by its stream id. */
  async stats() {
    const read = async (stream) => pick(await stream.getRTCPeerConnection().getStats());
    const out = this.publisher?.stream?.getRTCPeerConnection?.() ? await read(this.publisher.stream) : null;
    if (out) out.stream = this.publisher.stream.streamId;
    const inbound = {};
    for (const [id, subscriber] of this.subscribers) inbound[id] = await read(subscriber.stream);
    return { out, in: inbound };
  },
};

/** The figures a test looks at, summed over the RTP streams of a kind. */
function pick(report) {
  const result = { at: performance.now(), audio: {}, video: {}, transport: {} };
  const keep = {
    'inbound-rtp': ['packetsReceived', 'packetsLost', 'framesDecoded', 'framesReceived', 'framesDropped', 'freezeCount',
      'totalFreezesDuration', 'totalAudioEnergy', 'concealedSamples', 'totalSamplesReceived', 'nackCount', 'pliCount',
      'keyFramesDecoded', 'bytesReceived', 'retransmittedPacketsReceived', 'jitterBufferDelay', 'jitterBufferEmittedCount'],
    'outbound-rtp': ['packetsSent', 'framesSent', 'framesEncoded', 'keyFramesEncoded', 'nackCount', 'pliCount', 'firCount',
      'bytesSent', 'retransmittedPacketsSent', 'targetBitrate'],
  };
  for (const entry of report.values()) {
    if (entry.type === 'transport') {
      const { dtlsState, srtpCipher, tlsVersion, dtlsRole, iceState } = entry;
      result.transport = { dtlsState, srtpCipher, tlsVersion, dtlsRole, iceState };
    }
    if (entry.type === 'codec') result.codecs = [...(result.codecs ?? []), entry.mimeType];
    if (entry.type === 'candidate-pair' && entry.nominated) {
      result.pair = { availableOutgoingBitrate: entry.availableOutgoingBitrate, rtt: entry.currentRoundTripTime };
    }
    if (entry.type === 'remote-candidate') result.remote = entry.address;
    if (!keep[entry.type]) continue;
    const target = result[entry.kind];
    for (const name of keep[entry.type]) {
      if (typeof entry[name] === 'number') target[name] = (target[name] ?? 0) + entry[name];
    }
    if (entry.frameWidth) target.width = Math.max(target.width ?? 0, entry.frameWidth);
    if (entry.frameHeight) target.height = Math.max(target.height ?? 0, entry.frameHeight);
    if (entry.rid) target.layers = [...(target.layers ?? []), { rid: entry.rid, frames: entry.framesSent, width: entry.frameWidth }];
  }
  return result;
}

window.client = client;
