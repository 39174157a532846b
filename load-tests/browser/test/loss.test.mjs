// 5 % of all datagrams lost each way, by a seed: pictures go on because lost packets are sent again (NACK, RTX) and, where
// that is too late, a key frame is asked for (PLI).

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { LossyPath } from '../lib/lossy.mjs';
import { measure, mediaFlows } from '../lib/media.mjs';
import { sleep, Stage } from '../lib/stage.mjs';
import { freePort, variants } from '../lib/weir.mjs';

const SHARE = 0.05;
const SEED = Number(process.env.WEIR_SEED ?? 20261122);
const LOSSY_SECONDS = 15;

// Repair is the engine's work, below it one reactor is as good as the other.
const [variant] = variants();

describe(`loss of ${SHARE * 100} % each way, seed ${SEED} (${variant.name})`, () => {
  let stage;
  let path;

  before(async () => {
    const port = await freePort();
    path = await LossyPath.open(port, { share: SHARE, seed: SEED });
    stage = await Stage.open({ ...variant.env, ...LossyPath.env(port) });
  });

  after(async () => {
    await stage?.close();
    path?.close();
  });

  it('video keeps decoding, and what was lost was sent again', async (test) => {
    const session = await stage.session();
    const pages = [await stage.join(session, { name: 'ann' }), await stage.join(session, { name: 'bob' })];
    await mediaFlows(pages, 1);
    path.lossy = true;
    await sleep(2000);
    const figures = await measure(pages, LOSSY_SECONDS);
    path.lossy = false;
    const share = path.lost / (path.lost + path.passed);
    for (const [index, { in: inbound }] of figures.entries()) {
      const [one] = Object.values(inbound);
      // The sender adapts its frame rate to the loss: all that it sends has to be decoded.
      const sent = figures[1 - index].out;
      test.diagnostic(`${one.fps.toFixed(1)} of ${sent.fps.toFixed(1)} frames/s, ${one.video.nackCount} NACKs, ` +
        `${one.video.retransmittedPacketsReceived} sent again, ${sent.video.keyFramesEncoded} key frames, ` +
        `${one.video.freezeCount} freezes, ${one.audio.packetsReceived} audio packets`);
      assert.ok(one.video.nackCount > 0, 'the subscriber noticed loss');
      assert.ok(one.video.retransmittedPacketsReceived > 0, 'and got packets again');
      assert.ok(one.fps > 5 && one.fps >= sent.fps * 0.9, `${one.fps} of ${sent.fps} frames/s decoded`);
      assert.ok(one.video.totalFreezesDuration < LOSSY_SECONDS / 5, `${one.video.totalFreezesDuration} s frozen`);
      assert.ok(one.audio.packetsReceived >= one.seconds * 50 * 0.8, 'sound goes on');
    }
    assert.ok(share > 0.01, `${path.lost} of ${path.lost + path.passed} datagrams were lost on the way`);
  });
});
