// Three Chromium pages with the unmodified openvidu-browser: media, people coming and going, moderation, broken sockets.
// Each combination of reactor and subscribe flow gets a server of its own.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';

import { assertFlowing, describe as describeMedia, measure, mediaFlows, wholeWithin } from '../lib/media.mjs';
import { Proxy } from '../lib/proxy.mjs';
import { events, SECONDS, seen, sleep, Stage, stats, until } from '../lib/stage.mjs';
import { variants } from '../lib/weir.mjs';

/** A closed tab is noticed after the 10 s a client has to come back (contract 1.6). */
const GONE_MS = 20_000;
/** Measurements of the whole call. Chromium itself stalls on a machine that has other work, which is no fault of ours. */
const ATTEMPTS = 3;

for (const variant of variants()) {
  describe(`calls (${variant.name})`, () => {
    let stage;
    let session;
    let pages;

    before(async () => {
      stage = await Stage.open(variant.env);
      session = await stage.session();
      pages = [];
      for (const name of ['ann', 'bob', 'cid']) pages.push(await stage.join(session, { name, role: 'MODERATOR' }));
      await mediaFlows(pages, 2);
    });

    // Whoever a failed test left behind would spoil the next one.
    afterEach(async () => {
      for (const context of stage.browser.contexts()) {
        for (const page of context.pages()) {
          if (pages.includes(page)) continue;
          await page.evaluate(() => client.session?.disconnect()).catch(() => {});
          await page.close();
        }
      }
    });

    after(async () => {
      await stage?.close();
      const ended = stage?.ended;
      assert.ok(!ended || ended.code === 0, `the server ended with ${JSON.stringify(ended)}:\n${stage.weir?.log}`);
    });

    it(`everybody receives everybody whole for ${SECONDS} s`, async (test) => {
      await sleep(3000);
      await wholeWithin(ATTEMPTS, pages, SECONDS, (text) => test.diagnostic(text));
    });

    it('clients see the server as they were told', async () => {
      if (!variant.flow) return;
      const name = await pages[0].evaluate(() => client.session.openvidu.mediaServer);
      assert.equal(name, variant.flow);
      const { out } = await stats(pages[0]);
      assert.equal(out.transport.dtlsState, 'connected');
      assert.match(out.transport.srtpCipher, /AEAD_AES_(128|256)_GCM/);
      const config = await stage.weir.rest('GET', 'config');
      assert.equal(config.status, 200);
    });

    it('a late joiner receives everybody and everybody receives it, then it leaves', async (test) => {
      const late = await stage.join(session, { name: 'late' });
      const since = Date.now();
      await mediaFlows([...pages, late], 3);
      test.diagnostic(`everybody decodes after ${Date.now() - since} ms`);
      await late.evaluate(() => client.session.disconnect());
      for (const page of pages) await seen(page, 'connectionDestroyed');
      const [left] = await events(pages[0], 'connectionDestroyed');
      assert.equal(left.reason, 'disconnect');
      await until('the stream is gone', async () => Object.keys((await stats(pages[0])).in).length === 2);
      await late.close();
      await mediaFlows(pages, 2);
    });

    it('a listener that publishes nothing receives three streams', async () => {
      const listener = await stage.join(session, { name: 'listener', role: 'SUBSCRIBER', publish: null });
      assert.equal(listener.info.role, 'SUBSCRIBER');
      await mediaFlows([listener], 3);
      const refused = await listener.evaluate(() => client.publish().then(() => null, (error) => error.name));
      assert.equal(refused, 'OPENVIDU_PERMISSION_DENIED');
      await listener.evaluate(() => client.session.disconnect());
      await listener.close();
      await until('it left', async () => (await events(pages[0], 'connectionDestroyed')).length === 2);
    });

    it('muting is told to the others, and unmuted video decodes again', async () => {
      const [ann, bob] = pages;
      const stream = await ann.evaluate(() => client.publisher.stream.streamId);
      await ann.evaluate(() => (client.publisher.publishVideo(false), client.publisher.publishAudio(false)));
      await seen(bob, 'streamPropertyChanged', 2);
      const changes = await events(bob, 'streamPropertyChanged');
      assert.deepEqual(changes.map(({ property, value, stream }) => [property, value, stream]).sort(),
        [['audioActive', false, stream], ['videoActive', false, stream]]);
      await sleep(1500);
      const muted = await measure([bob], 2);
      assert.ok(muted[0].in[stream].audio.totalAudioEnergy < 0.001, 'nothing is heard');
      await ann.evaluate(() => (client.publisher.publishVideo(true), client.publisher.publishAudio(true)));
      await seen(bob, 'streamPropertyChanged', 4);
      await sleep(1500);
      const [again, ...senders] = await measure([bob, ann], 3);
      assertFlowing({ in: { [stream]: again.in[stream] } }, senders, 'after unmuting');
      assert.ok(again.in[stream].audio.totalAudioEnergy > 0);
    });

    it('signals reach everybody, or whom they are for', async () => {
      const [ann, bob, cid] = pages;
      await ann.evaluate(() => client.session.signal({ type: 'chat', data: 'hello' }));
      for (const page of pages) await seen(page, 'signal');
      const [got] = await events(bob, 'signal');
      assert.deepEqual([got.signal, got.data, got.from], ['signal:chat', 'hello', ann.info.connection]);
      await ann.evaluate((to) => client.session.signal({
        type: 'private', data: 'psst', to: [...client.session.remoteConnections.values()].filter((one) => one.connectionId === to),
      }), bob.info.connection);
      await seen(bob, 'signal', 2);
      await stage.weir.rest('POST', 'signal', { session: session.sessionId, type: 'server', data: 'from above' });
      for (const [page, count] of [[bob, 3], [cid, 2], [ann, 2]]) await seen(page, 'signal', count);
      const last = (await events(cid, 'signal')).at(-1);
      assert.deepEqual([last.signal, last.data, last.from], ['signal:server', 'from above', null]);
    });

    it('publisher and subscriber re-establish their peer connections', async (test) => {
      const [ann, bob] = pages;
      await ann.evaluate(() => client.publisher.stream.reconnect());
      await mediaFlows(pages, 2);
      await sleep(1000);
      const stream = await ann.evaluate(() => client.publisher.stream.streamId);
      const after = await measure(pages, 3);
      test.diagnostic(describeMedia(after));
      for (const figures of after) assertFlowing(figures, after, 'after the publisher');
      await bob.evaluate((id) => client.subscribers.get(id).stream.reconnect(), stream);
      await mediaFlows(pages, 2);
      await sleep(1000);
      const again = await measure(pages, 3);
      for (const figures of again) assertFlowing(figures, again, 'after the subscriber');
    });

    it('a socket cut for 3 s comes back and media never stops', async (test) => {
      if (!stage.weir.port) return test.skip('needs a server of its own');
      const proxy = await Proxy.to(stage.weir.port);
      const dan = await stage.join(session, { name: 'dan', token: proxy.rewrite });
      await mediaFlows([...pages, dan], 3);
      const measuring = measure([dan, ...pages], 8);
      await sleep(1000);
      await proxy.cut(3000);
      await seen(dan, 'reconnecting');
      await seen(dan, 'reconnected', 1, 20_000);
      const figures = await measuring;
      test.diagnostic(describeMedia(figures));
      assertFlowing(figures[0], figures, 'through the cut');
      assert.equal((await events(dan, 'sessionDisconnected')).length, 0);
      await pages[0].evaluate(() => client.session.signal({ type: 'after', data: 'cut' }));
      await until('a signal after the cut', async () =>
        (await events(dan, 'signal')).some((signal) => signal.signal === 'signal:after'));
      await dan.evaluate(() => client.session.disconnect());
      await dan.close();
      await proxy.close();
      await until('dan left', async () => Object.keys((await stats(pages[0])).in).length === 2);
    });

    it('a moderator unpublishes and evicts; so does REST', async () => {
      const [ann] = pages;
      const eve = await stage.join(session, { name: 'eve' });
      await mediaFlows([eve], 3);
      const stream = await eve.evaluate(() => client.publisher.stream.streamId);
      await until('ann has the stream', () => ann.evaluate((id) => client.subscribers.has(id), stream));
      await ann.evaluate((id) => client.session.forceUnpublish(client.subscribers.get(id).stream), stream);
      await until('it is unpublished', async () =>
        (await events(ann, 'streamDestroyed')).some((event) => event.stream === stream && event.reason === 'forceUnpublishByUser'));
      await ann.evaluate((id) => client.session.forceDisconnect(client.session.remoteConnections.get(id)), eve.info.connection);
      await seen(eve, 'sessionDisconnected');
      assert.equal((await events(eve, 'sessionDisconnected'))[0].reason, 'forceDisconnectByUser');
      await eve.close();

      const fay = await stage.join(session, { name: 'fay' });
      await mediaFlows([fay], 3);
      await session.fetch();
      const active = session.activeConnections.find((one) => one.connectionId === fay.info.connection);
      assert.equal(active.publishers.length, 1);
      await session.forceUnpublish(active.publishers[0].streamId);
      await until('the stream is gone', async () => Object.keys((await stats(ann)).in).length === 2);
      await session.forceDisconnect(fay.info.connection);
      await seen(fay, 'sessionDisconnected');
      assert.equal((await events(fay, 'sessionDisconnected'))[0].reason, 'forceDisconnectByServer');
      await fay.close();
    });

    it('a reloaded page comes back as somebody new and its old self goes', async () => {
      const [ann, bob, cid] = pages;
      const old = cid.info.connection;
      await cid.reload();
      const connection = await session.createConnection({ role: 'MODERATOR' });
      cid.info = await cid.evaluate((token) => client.join(token, { name: 'cid again' }), connection.token);
      assert.notEqual(cid.info.connection, old);
      await until('the old one is gone', async () =>
        (await events(ann, 'connectionDestroyed')).some((event) => event.connection === old && event.reason === 'networkDisconnect'), GONE_MS);
      await until('only live streams are left', async () => Object.keys((await stats(ann)).in).length === 2);
      await mediaFlows([ann, bob, cid], 2);
    });

    it('nothing went wrong in any page, and closing the session ends it for all', async () => {
      for (const page of pages) {
        assert.deepEqual(page.errors, []);
        // Somebody may be unpublished between the news of a stream and its subscription; nothing else may fail.
        const gone = new Set((await events(page, 'streamDestroyed')).map(({ stream }) => stream));
        assert.deepEqual((await events(page, 'subscribeFailed')).filter(({ stream }) => !gone.has(stream)), []);
        assert.deepEqual((await events(page, 'exception')).filter(({ name }) => name !== 'NO_STREAM_PLAYING_EVENT'), []);
      }
      await session.close();
      for (const page of pages) {
        await seen(page, 'sessionDisconnected');
        assert.equal((await events(page, 'sessionDisconnected'))[0].reason, 'sessionClosedByServer');
      }
      assert.equal((await stage.weir.rest('GET', `sessions/${session.sessionId}`)).status, 404);
    });
  });
}
