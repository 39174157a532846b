// Everything around a test: the page server, Chromium, and clients in pages of their own.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OpenVidu } from 'openvidu-node-client';
import { chromium } from 'playwright-core';

import { Weir } from './weir.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const BUNDLE = join(
  dirname(createRequire(import.meta.url).resolve('openvidu-browser/package.json')),
  'static/js/openvidu-browser-2.32.2.min.js',
);
const FILES = {
  '/': [join(HERE, '../page/index.html'), 'text/html'],
  '/client.js': [join(HERE, '../page/client.js'), 'text/javascript'],
  '/openvidu-browser.js': [BUNDLE, 'text/javascript'],
};
/** Frames per second of Chromium's fake camera, its default. */
export const CAMERA_FPS = 20;
/** How long a measurement lasts. */
export const SECONDS = Number(process.env.WEIR_SECONDS ?? 10);

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Polls until `check` gives something truthy, which it returns. */
export async function until(what, check, ms = 15_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(100);
  }
}

/** The page server, on a free port. */
export function servePage() {
  const server = createServer(async (request, response) => {
    const [file, type] = FILES[new URL(request.url, 'http://x').pathname] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': `${type}; charset=utf-8` }).end(await readFile(file));
  });
  return new Promise((done) => server.listen(0, '127.0.0.1', () => done(server)));
}

export function launchChromium(extra = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      // Nothing of a test asks anybody but this machine.
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--use-fake-ui-for-media-stream',
      '--use-fake-device-for-media-stream',
      '--autoplay-policy=no-user-gesture-required',
      '--allow-loopback-in-peer-connection',
      '--disable-background-timer-throttling',
      '--disable-backgrounding-occluded-windows',
      '--disable-renderer-backgrounding',
      ...extra,
    ],
  });
}

/** A server, a browser and the page server; `close` ends all three. */
export class Stage {
  static async open(env = {}, options = {}) {
    const stage = new Stage();
    try {
      stage.weir = await Weir.start(env, options);
      stage.pages = await servePage();
      stage.browser = await launchChromium();
      stage.openvidu = new OpenVidu(stage.weir.url, stage.weir.secret);
    } catch (error) {
      await stage.close();
      throw error;
    }
    return stage;
  }

  /** A new session, made by the unmodified node client. */
  async session(properties = {}) {
    return this.openvidu.createSession(properties);
  }

  /** A page with a client in it that has not joined yet. */
  async page() {
    const page = await this.browser.newPage();
    page.errors = [];
    page.on('pageerror', (error) => page.errors.push(String(error)));
    await page.goto(`http://localhost:${this.pages.address().port}/`);
    return page;
  }

  /**
   * A page that has joined `session`.
   * @param options `name`, `role`, `publish` (properties, or null for none), `subscribes`, `token` (rewrites it)
   */
  async join(session, { role = 'PUBLISHER', token: rewrite = (url) => url, ...options } = {}) {
    const connection = await session.createConnection({ role, data: options.name ?? 'client' });
    const page = await this.page();
    page.info = await page.evaluate(([token, options]) => client.join(token, options), [rewrite(connection.token), options]);
    page.connection = connection;
    return page;
  }

  async close() {
    await this.browser?.close();
    await new Promise((done) => (this.pages ? this.pages.close(done) : done()));
    this.ended = await this.weir?.stop();
  }
}

/** Waits until a page has seen `count` events of a type. */
export function seen(page, type, count = 1, ms = 15_000) {
  return until(`${count} x ${type}`, () => page.evaluate(([type, count]) => client.count(type) >= count, [type, count]), ms)
    .catch(async (error) => {
      const events = await page.evaluate(() => client.events.map((event) => JSON.stringify(event)).join('\n'));
      throw new Error(`${error.message}; there were:\n${events}\n${page.errors.join('\n')}`);
    });
}

/** Events of a type, oldest first. */
export const events = (page, type) =>
  page.evaluate((type) => client.events.filter((event) => event.type === type), type);

export const stats = (page) => page.evaluate(() => client.stats());
