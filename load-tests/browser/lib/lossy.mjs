// A UDP path that loses datagrams, by a seed, each way: browsers are told its address, the media node listens behind it.
//
//   Chromium ── 127.0.0.1:PORT ── LossyPath ── 127.0.0.2:PORT ── media node (announced as 127.0.0.1)

import { createSocket } from 'node:dgram';

/** mulberry32: the same seed loses the same datagrams of the same order. */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const bind = (socket, port, address) => new Promise((done, fail) => {
  socket.once('error', fail);
  socket.bind(port, address, () => {
    socket.setRecvBufferSize(4 << 20);
    done();
  });
});

export class LossyPath {
  /** Settings of the media node behind the path. */
  static env(port) {
    return { WEIR_CORES: '1', WEIR_MEDIA_PORT: String(port), WEIR_MEDIA_ADDRESSES: '127.0.0.2=127.0.0.1' };
  }

  passed = 0;
  lost = 0;

  /** @param share of datagrams lost each way, from the moment `lossy` is set */
  static async open(port, { share, seed }) {
    const path = new LossyPath();
    path.port = port;
    path.lossy = false;
    path.clients = new Map();
    path.drops = () => path.lossy && path.random() < share;
    path.random = random(seed);
    path.front = createSocket('udp4');
    await bind(path.front, port, '127.0.0.1');
    path.front.on('message', (datagram, from) => path.#toNode(datagram, from));
    return path;
  }

  #toNode(datagram, from) {
    const key = `${from.address}:${from.port}`;
    let back = this.clients.get(key);
    if (!back) {
      back = createSocket('udp4');
      this.clients.set(key, back);
      back.on('message', (answer) => this.#pass(() => this.front.send(answer, from.port, from.address)));
      back.bind(0, '127.0.0.1');
    }
    this.#pass(() => back.send(datagram, this.port, '127.0.0.2'));
  }

  #pass(send) {
    if (this.drops()) {
      this.lost += 1;
      return;
    }
    this.passed += 1;
    send();
  }

  close() {
    this.front.close();
    for (const back of this.clients.values()) back.close();
  }
}
