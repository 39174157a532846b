// The controller is killed during a call and started again; the media node is a process of its own. Nobody in the call may
// see or hear anything of it.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { describe as describeMedia, measure, mediaFlows } from '../lib/media.mjs';
import { events, seen, sleep, Stage, until } from '../lib/stage.mjs';

/** How long media is watched: the crash comes after two seconds. */
const WATCHED_S = 15;

describe('the controller crashes', { skip: process.env.WEIR_URL && 'the server is not ours to kill' }, () => {
  let stage;
  let session;
  let pages;

  before(async () => {
    stage = await Stage.open({}, { apart: true });
    session = await stage.session({ customSessionId: 'survivor' });
    pages = [];
    for (const name of ['ann', 'bob']) pages.push(await stage.join(session, { name }));
    await mediaFlows(pages, 1);
    await sleep(3000);
  });

  after(() => stage?.close());

  it('media goes on without a lost packet', async (test) => {
    const watching = measure(pages, WATCHED_S);
    await sleep(2000);
    await stage.weir.crash();
    const figures = await watching;
    const report = describeMedia(figures);
    test.diagnostic(report);
    for (const { in: inbound } of figures) {
      const streams = Object.values(inbound);
      assert.equal(streams.length, 1, report);
      for (const { video, audio, seconds } of streams) {
        assert.equal(video.packetsLost + audio.packetsLost, 0, report);
        assert.equal(video.freezeCount, 0, report);
        assert.ok(audio.packetsReceived >= seconds * 40, report);
      }
    }
  });

  it('the clients came back by themselves and are still in the session', async () => {
    for (const page of pages) {
      await seen(page, 'reconnected');
      assert.deepEqual(await events(page, 'sessionDisconnected'), []);
      assert.deepEqual(await events(page, 'streamDestroyed'), []);
    }
    await until('both connections are active', async () => {
      const { body } = await stage.weir.rest('GET', 'sessions/survivor');
      return body?.connections?.content?.filter((one) => one.status === 'active').length === 2;
    });
  });

  it('a third one joins the same session and sees both', async () => {
    const third = await stage.join(session, { name: 'cid' });
    await mediaFlows([third], 2);
    await mediaFlows(pages, 2);
  });
});
