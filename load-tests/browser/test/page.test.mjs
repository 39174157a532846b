// The page for people: two of them meet, see and hear each other, mute, and leave; errors are told.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

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

    async function enter(name, session, { width = 1280, height = 800, colorScheme = 'light', cameraAfter = 0 } = {}) {
      const context = await browser.newContext({ viewport: { width, height }, colorScheme });
      const page = await context.newPage();
      if (cameraAfter) await page.addInitScript(answerLate, cameraAfter);
      page.problems = [];
      page.on('pageerror', (error) => page.problems.push(String(error)));
      page.on('console', (message) => message.type() === 'error' && page.problems.push(message.text()));
      await page.goto(`${weir.url}/`);
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
