// The server under test: one that runs already (WEIR_URL, WEIR_SECRET), or the `weir` binary started on a free port.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');
/** How long a server may take until it says it is ready. */
const READY_MS = 20_000;
/** How long it may take to end after SIGTERM. */
const STOP_MS = 10_000;

/** A TCP port that was free a moment ago. */
export function freePort() {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

function findBinary() {
  const target = process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target');
  const candidates = [process.env.WEIR_BIN, join(target, 'release/weir'), join(target, 'debug/weir')].filter(Boolean);
  const found = candidates.find((path) => existsSync(path));
  if (!found) throw new Error(`no weir binary; looked at ${candidates.join(', ')}. Build it with: cargo build --release`);
  return found;
}

export class Weir {
  /**
   * Starts a server, or takes the one of WEIR_URL.
   * @param {Record<string, string>} env settings, for instance WEIR_REACTOR
   * @param {{apart?: boolean}} options `apart`: the media node is a process that does not end with the controller
   */
  static async start(env = {}, { apart = false } = {}) {
    const weir = new Weir();
    if (process.env.WEIR_URL) {
      weir.url = process.env.WEIR_URL.replace(/\/$/, '');
      weir.secret = process.env.WEIR_SECRET ?? 'MY_SECRET';
      weir.external = true;
    } else {
      await weir.#prepare(env, apart);
      weir.#spawn();
    }
    await weir.#ready();
    return weir;
  }

  log = '';

  async #prepare(env, apart) {
    this.port = await freePort();
    this.secret = 'browser-tests';
    this.url = `http://127.0.0.1:${this.port}`;
    this.dataDir = await mkdtemp(join(tmpdir(), 'weir-test-'));
    this.arguments = ['--listen', `127.0.0.1:${this.port}`, '--data-dir', this.dataDir];
    this.env = {
      ...process.env,
      OPENVIDU_SECRET: this.secret,
      WEIR_MEDIA_ADDRESSES: '127.0.0.1',
      WEIR_MEDIA_PORT: String(await freePort()),
      ...env,
    };
    if (!apart) return;
    const control = `127.0.0.1:${await freePort()}`;
    Object.assign(this.env, { WEIR_CLUSTER_SECRET: 'browser-tests', KMS_URIS: `["ws://${control}/kurento"]` });
    this.arguments.unshift('controller');
    this.node = spawn(findBinary(), ['node', '--listen', control], { env: this.env, stdio: 'ignore' });
  }

  /** Kills the controller as a crash would, and starts it again with the same data. */
  async crash() {
    this.child.kill('SIGKILL');
    await this.exited;
    this.exit = undefined;
    this.#spawn();
    await this.#ready();
  }

  #spawn() {
    this.child = spawn(findBinary(), this.arguments, { env: this.env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const pipe of [this.child.stdout, this.child.stderr]) {
      pipe.setEncoding('utf8').on('data', (text) => {
        this.log = (this.log + text).slice(-200_000);
        if (process.env.WEIR_SHOW_LOG) process.stderr.write(text);
      });
    }
    this.exited = new Promise((done) => this.child.once('exit', (code, signal) => {
      this.exit = { code, signal };
      done();
    }));
  }

  async #ready() {
    const end = Date.now() + READY_MS;
    for (;;) {
      if (this.exit) throw new Error(`weir ended with ${JSON.stringify(this.exit)}:\n${this.log}`);
      try {
        const answer = await this.rest('GET', 'health');
        if (answer.status === 200) return;
      } catch {
        // Not listening yet.
      }
      if (Date.now() > end) throw new Error(`weir is not ready after ${READY_MS} ms:\n${this.log}`);
      await new Promise((done) => setTimeout(done, 100));
    }
  }

  /** One REST call; `path` is below /openvidu/api/. */
  async rest(method, path, body) {
    const answer = await fetch(`${this.url}/openvidu/api/${path}`, {
      method,
      headers: {
        authorization: `Basic ${Buffer.from(`OPENVIDUAPP:${this.secret}`).toString('base64')}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    return { status: answer.status, body: text ? JSON.parse(text) : null };
  }

  /** Ends a started server and waits for it; says how it ended. */
  async stop() {
    if (this.external || !this.child) return { code: 0, signal: null };
    if (!this.exit) {
      this.child.kill('SIGTERM');
      const late = setTimeout(() => this.child.kill('SIGKILL'), STOP_MS);
      await this.exited;
      clearTimeout(late);
    }
    this.node?.kill('SIGKILL');
    await rm(this.dataDir, { recursive: true, force: true });
    return this.exit;
  }
}

/** Combinations to test: WEIR_REACTORS and WEIR_FLOWS (kurento: the client offers, mediasoup: the server offers). */
export function variants() {
  if (process.env.WEIR_URL) return [{ name: 'running server', env: {} }];
  const list = (name, all) => (process.env[name] ?? all).split(',').filter(Boolean);
  return list('WEIR_REACTORS', 'io_uring,mmsg').flatMap((reactor) =>
    list('WEIR_FLOWS', 'kurento,mediasoup').map((flow) => ({
      name: `${reactor}, ${flow === 'mediasoup' ? 'server' : 'client'} offers`,
      reactor,
      flow,
      env: { WEIR_REACTOR: reactor, WEIR_MEDIA_SERVER_NAME: flow },
    })));
}
