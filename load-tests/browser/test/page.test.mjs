// The page for people: two of them meet, see and hear each other, mute, and leave; errors are told.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, it } from 'node:test';

import { Proxy } from '../lib/proxy.mjs';
import { launchChromium, until } from '../lib/stage.mjs';
import { variants, Weir } from '../lib/weir.mjs';

const shots = process.env.WEIR_SHOTS; // a folder for screenshots

const flows = variants().filter((variant, index, all) => variant.reactor === all[0].reactor);

/** In the page: a person who takes `ms` to allow camera and microphone. */
function answerLate(ms) {
  const devices = navigator.mediaDevices;
  const ask = devices.getUserMedia.bind(devices);
  devices.getUserMedia = (wanted) => new Promise((done) => setTimeout(done, ms)).then(() => ask(wanted));
}

/** In the page: a person who does not allow devices of this kind. */
function refuse(kind) {
  const devices = navigator.mediaDevices;
  const ask = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    if (wanted[kind]) throw new DOMException('not today', 'NotAllowedError');
    return ask(wanted);
  };
}

/** In the page: the request to publish takes this long on its way. */
function publishSlowly(ms) {
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (text) {
    if (String(text).includes('"publishVideo"')) setTimeout(() => send.call(this, text), ms);
    else send.call(this, text);
  };
}

for (const variant of flows) {
  describe(`page (${variant.name})`, () => {
    let weir;
    let browser;

    before(async () => {
      weir = await Weir.start(variant.env);
      browser = await launchChromium();
    });
    after(async () => {
      await browser?.close();
      await weir?.stop();
    });

    async function enter(name, session, options = {}) {
      const { width = 1280, height = 800, colorScheme = 'light', cameraAfter = 0, script = [], url = weir.url } = options;
      const context = await browser.newContext({ viewport: { width, height }, colorScheme });
      const page = await context.newPage();
      if (cameraAfter) await page.addInitScript(answerLate, cameraAfter);
      if (script.length) await page.addInitScript(...script);
      page.problems = [];
      page.on('pageerror', (error) => page.problems.push(String(error)));
      page.on('console', (message) => message.type() === 'error' && page.problems.push(message.text()));
      await page.goto(`${url}/`);
      await page.fill('[name=name]', name);
      await page.fill('[name=session]', session);
      await page.click('#join');
      return page;
    }

    const frames = (page) => page.$$eval('.tile:not(.own) video', (videos) =>
      videos.map((video) => (video.srcObject ? video.getVideoPlaybackQuality().totalVideoFrames : 0)));
    const shot = (page, name) => (shots ? page.screenshot({ path: `${shots}/${variant.flow}-${name}.png` }) : undefined);

    it('two people meet, one on a phone', async () => {
      const ann = await enter('Ann Lee', 'page-test');
      const bob = await enter('Bob', 'page-test', { width: 390, height: 844, colorScheme: 'dark' });
      for (const page of [ann, bob]) {
        await until('the other one plays', async () => (await frames(page)).some((count) => count > 20), 40_000);
        await until('somebody speaks', () => page.$('.tile.speaking'));
      }
      assert.deepEqual(await bob.$$eval('.tile .name', (names) => names.map((name) => name.textContent).sort()), ['Ann Lee', 'Bob (you)']);
      const overflow = await bob.evaluate(() => [document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight, innerHeight]);
      assert.ok(overflow[0] <= overflow[1] && overflow[2] <= overflow[3], `the page is larger than the phone: ${overflow}`);
      await shot(ann, 'wide');
      await shot(bob, 'phone');

      await ann.click('.controls [data-toggle=video]');
      await ann.click('.controls [data-toggle=audio]');
      await until('Bob sees that Ann is muted', () => bob.$('.tile.no-video.no-audio:not(.own)'));
      await shot(bob, 'phone-muted');
      await ann.click('.controls [data-toggle=video]');
      await until('Bob sees Ann again', () => bob.$('.tile:not(.own):not(.no-video)'));

      await ann.click('#leave');
      await until('Bob is alone', async () => (await bob.$$('.tile')).length === 1);
      assert.ok(await ann.isVisible('#lobby'));
      await ann.click('#join');
      await until('Ann is back', async () => (await frames(bob)).some((count) => count > 5));
      assert.deepEqual([...ann.problems, ...bob.problems], []);
      await ann.context().close();
      await bob.context().close();
    });

    it('shows who joined before the camera was there', async () => {
      const ann = await enter('Ann', 'page-late-camera', { cameraAfter: 3000 });
      await until('Ann is in', () => ann.$('.tile.own'));
      assert.ok(await ann.$('.tile.own.no-video.no-audio'), 'she has no camera yet');
      const bob = await enter('Bob', 'page-late-camera');
      await until('Bob sees Ann', async () => (await frames(bob)).some((count) => count > 5), 40_000);
      await until('Ann sees herself', () => ann.$('.tile.own:not(.no-video)'));
      assert.deepEqual([...ann.problems, ...bob.problems], []);
      await ann.context().close();
      await bob.context().close();
    });

    it('says which device is not allowed', async () => {
      for (const [kind, part] of [['video', 'The camera is not allowed for this page; the microphone works.'], ['audio', 'The microphone is not allowed']]) {
        const page = await enter('Ann', 'page-blocked', { script: [refuse, kind] });
        await until('she is in', () => page.$('.tile.own'));
        assert.ok((await page.textContent('#preview-note')).includes(part), await page.textContent('#preview-note'));
        await page.context().close();
      }
    });

    it('tells a mute that could not be told at once', async () => {
      const bob = await enter('Bob', 'page-mute');
      await until('Bob is in', () => bob.$('.tile.own'));
      const ann = await enter('Ann', 'page-mute', { script: [publishSlowly, 2000] });
      await until('Ann is in', () => ann.$('.tile.own'));
      await ann.click('.controls [data-toggle=audio]');
      await until('Bob sees Ann, and that she is muted', () => bob.$('.tile.no-audio:not(.own):not(.no-video)'), 20_000);
      await ann.context().close();

      const proxy = await Proxy.to(Number(new URL(weir.url).port));
      const cid = await enter('Cid', 'page-mute', { url: `http://127.0.0.1:${proxy.port}` });
      await until('Bob sees Cid', () => bob.$('.tile:not(.own):not(.no-audio):not(.no-video)'), 20_000);
      const cut = proxy.cut(2000);
      await until('Cid waits', () => cid.isVisible('#banner'));
      await cid.click('.controls [data-toggle=video]');
      await cut;
      await until('Bob sees that his camera is off', () => bob.$('.tile.no-video:not(.own):not(.no-audio)'), 20_000);
      assert.ok(!(await cid.isVisible('#banner')));
      assert.equal(await cid.$('.toast.bad'), null);
      await cid.context().close();
      await bob.context().close();
      await proxy.close();
    });

    it('goes on after the media server was restarted', async (test) => {
      if (weir.external) return test.skip('needs a server of its own');
      const pages = [await enter('Ann', 'page-restart'), await enter('Bob', 'page-restart')];
      const streams = async () => {
        const { body } = await weir.rest('GET', 'sessions/page-restart');
        return body.connections.content.flatMap((one) => one.publishers.map((publisher) => publisher.streamId)).sort();
      };
      for (const page of pages) await until('the other one plays', async () => (await frames(page)).some((count) => count > 20), 40_000);
      const before = await streams();
      const [node] = execFileSync('pgrep', ['-P', String(weir.child.pid)], { encoding: 'utf8' }).trim().split('\n');
      process.kill(Number(node), 'SIGKILL');
      await until('both are told', async () => (await Promise.all(pages.map((page) => page.textContent('#toasts'))))
        .every((text) => text.includes('You are being sent again')), 20_000);
      await until('both send again', async () => {
        const now = await streams();
        return now.length === 2 && now.every((id) => !before.includes(id));
      }, 20_000);
      for (const page of pages) {
        const [seen] = await frames(page);
        await until('the other one plays again', async () => (await frames(page)).some((count) => count > seen + 20 || (count < seen && count > 20)), 40_000);
      }
      for (const page of pages) {
        assert.equal(await page.$('.toast.bad'), null);
        await page.context().close();
      }
    });

    it('says why somebody is out', async () => {
      const page = await enter('Eve', 'page-errors');
      await until('she is in', () => page.$('.tile.own'));
      const { body } = await weir.rest('GET', 'sessions/page-errors');
      await weir.rest('DELETE', `sessions/page-errors/connection/${body.connections.content[0].id}`);
      await until('the page says so', async () => (await page.textContent('#join-error')).includes('removed'));
      await shot(page, 'removed');
      assert.deepEqual(page.problems, []);
      await page.context().close();
    });

    it('says that the server was stopped', async (test) => {
      if (weir.external) return test.skip('needs a server of its own');
      const other = await Weir.start(variant.env);
      const page = await enter('Ann', 'page-stop', { url: other.url });
      await until('she is in', () => page.$('.tile.own'));
      await other.stop();
      await until('the page says so', async () => (await page.textContent('#join-error')).includes('The server was stopped'));
      await page.context().close();
    });

    it('asks for the secret where the door is closed', async (test) => {
      if (weir.external) return test.skip('needs a server of its own');
      const closed = await Weir.start({ ...variant.env, WEIR_DEMO: 'false' });
      try {
        const context = await browser.newContext();
        const page = await context.newPage();
        await page.goto(`${closed.url}/`);
        await page.waitForSelector('#secret-field:not([hidden])');
        await page.fill('[name=name]', 'Ann');
        await page.fill('[name=session]', 'secret-room');
        await page.fill('[name=secret]', 'wrong');
        await page.click('#join');
        await until('the page says so', async () => (await page.textContent('#join-error')).includes('wrong'));
        await page.fill('[name=secret]', closed.secret);
        await page.click('#join');
        await until('she is in', () => page.$('.tile.own'));
        await context.close();
      } finally {
        await closed.stop();
      }
    });
  });
}
