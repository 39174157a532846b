// A TCP proxy in front of the server whose connections can be cut, and which can refuse new ones for a while.

import { connect, createServer } from 'node:net';

export class Proxy {
  /** Forwards 127.0.0.1:<port of its own> to 127.0.0.1:`port`. */
  static async to(port) {
    const proxy = new Proxy();
    proxy.server = createServer((near) => proxy.#carry(near, port));
    await new Promise((done) => proxy.server.listen(0, '127.0.0.1', done));
    proxy.port = proxy.server.address().port;
    return proxy;
  }

  #pairs = new Set();
  #down = false;

  #carry(near, port) {
    if (this.#down) return near.destroy();
    const far = connect(port, '127.0.0.1');
    const pair = [near, far];
    this.#pairs.add(pair);
    const end = () => {
      near.destroy();
      far.destroy();
      this.#pairs.delete(pair);
    };
    for (const socket of pair) socket.on('error', end).on('close', end);
    near.pipe(far);
    far.pipe(near);
  }

  /** Cuts what is open and refuses what comes for `ms`. */
  async cut(ms) {
    this.#down = true;
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    await new Promise((done) => setTimeout(done, ms));
    this.#down = false;
  }

  /** Sends a token's client through this proxy. */
  rewrite = (token) => {
    const url = new URL(token);
    url.protocol = 'ws:';
    url.host = `127.0.0.1:${this.port}`;
    return decodeURIComponent(url.href);
  };

  close() {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    return new Promise((done) => this.server.close(done));
  }
}
