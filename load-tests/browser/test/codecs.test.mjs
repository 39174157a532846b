// Codecs and shapes of streams: each forced codec, sound only, picture only, loopback, simulcast.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { assertFlowing, measure, mediaFlows } from '../lib/media.mjs';
import { sleep, Stage, stats, until } from '../lib/stage.mjs';
import { variants } from '../lib/weir.mjs';

// What is negotiated does not depend on the reactor, so one is enough here.
const [first] = variants();
const flows = variants().filter((variant) => variant.reactor === first.reactor);

for (const variant of flows) {
  describe(`codecs (${variant.name})`, () => {
    let stage;
    before(async () => { stage = await Stage.open(variant.env); });
    after(() => stage?.close());

    for (const codec of ['VP8', 'VP9', 'H264']) {
      it(`${codec} where the session forces it`, async (test) => {
        const session = await stage.session({ forcedVideoCodec: codec, allowTranscoding: false });
        const pages = [await stage.join(session), await stage.join(session, { publish: null, role: 'SUBSCRIBER' })];
        await mediaFlows([pages[1]], 1);
        const { in: inbound } = await stats(pages[1]);
        assert.ok(Object.values(inbound)[0].codecs.includes(`video/${codec}`), JSON.stringify(inbound));
        const [, figures] = await measure(pages, 3);
        const [one] = Object.values(figures.in);
        test.diagnostic(`${one.fps.toFixed(1)} frames/s`);
        assert.ok(one.fps > 15 && one.video.packetsLost === 0, JSON.stringify(one));
        await Promise.all(pages.map((page) => page.close()));
        await session.close();
      });
    }

    it('AV1 where nothing is forced and the publisher prefers it', async (test) => {
      const session = await stage.session({ forcedVideoCodec: 'NONE' });
      const page = await stage.join(session, { publish: null });
      await page.evaluate(() => {
        client.preferVideoCodec('video/AV1');
        return client.publish();
      });
      const viewer = await stage.join(session, { publish: null, role: 'SUBSCRIBER' });
      await mediaFlows([viewer], 1);
      assert.ok(Object.values((await stats(viewer)).in)[0].codecs.includes('video/AV1'));
      const [sender, { in: inbound }] = await measure([page, viewer], 3);
      const [one] = Object.values(inbound);
      test.diagnostic(`${one.fps.toFixed(1)} of ${sender.out.fps.toFixed(1)} frames/s`);
      assert.ok(one.fps > sender.out.fps * 0.75 && one.video.packetsLost === 0, JSON.stringify(one));
      await Promise.all([page.close(), viewer.close()]);
      await session.close();
    });

    it('sound alone and picture alone', async () => {
      const session = await stage.session();
      const listener = await stage.join(session, { publish: null, role: 'SUBSCRIBER' });
      const pages = [
        await stage.join(session, { publish: { videoSource: false } }),
        await stage.join(session, { publish: { audioSource: false } }),
      ];
      const [audio, video] = await Promise.all(pages.map((page) => page.evaluate(() => client.publisher.stream.streamId)));
      assert.match(audio, /^str_MIC_/);
      assert.match(video, /^str_CAM_/);
      await until('both arrive', async () => {
        const { in: inbound } = await stats(listener);
        return inbound[audio]?.audio.packetsReceived > 20 && inbound[video]?.video.framesDecoded > 20;
      });
      await Promise.all([listener, ...pages].map((page) => page.close()));
      await session.close();
    });

    it('a publisher can receive its own stream', async () => {
      const session = await stage.session();
      const page = await stage.join(session, { publish: null });
      await page.evaluate(async () => {
        client.publisher = await client.openvidu.initPublisherAsync(undefined, { resolution: '640x480' });
        client.publisher.subscribeToRemote();
        await client.session.publish(client.publisher);
      });
      await until('its own frames come back', async () => (await page.evaluate(async () => {
        const report = await client.publisher.stream.getRTCPeerConnection().getStats();
        return [...report.values()].filter((entry) => entry.type === 'inbound-rtp' && entry.framesDecoded > 20).length;
      })) === 1);
      await page.close();
      await session.close();
    });

    it('simulcast layers all come, where the client sends them', async (test) => {
      if (variant.flow !== 'mediasoup') return test.skip('openvidu-browser sends simulcast only to a server named mediasoup');
      const session = await stage.session();
      const page = await stage.join(session, { publish: { resolution: '1280x720', videoSimulcast: true } });
      const viewer = await stage.join(session, { publish: null, role: 'SUBSCRIBER' });
      await mediaFlows([viewer], 1);
      await sleep(2000);
      const { out } = await stats(page);
      test.diagnostic(JSON.stringify(out.video.layers));
      assert.deepEqual(out.video.layers.map((layer) => layer.rid).sort(), ['rdiv1', 'rdiv2', 'rdiv4']);
      assert.ok(out.video.layers.filter((layer) => layer.frames > 0).length >= 2, JSON.stringify(out.video.layers));
      await Promise.all([page.close(), viewer.close()]);
      await session.close();
    });
  });
}

for (const variant of variants().filter((one, index, all) => one.flow === all[0].flow)) {
  describe(`IPv6 (${variant.name})`, () => {
    let stage;
    before(async () => { stage = await Stage.open({ ...variant.env, WEIR_MEDIA_ADDRESSES: '::1' }); });
    after(() => stage?.close());

    it('media flows where the node has no other address', async (test) => {
      if (stage.weir.external) return test.skip('needs a server of its own');
      const session = await stage.session();
      const pages = [await stage.join(session), await stage.join(session)];
      await mediaFlows(pages, 1);
      const figures = await measure(pages, 3);
      for (const one of figures) assertFlowing(one, figures, 'over IPv6');
      assert.equal((await stats(pages[0])).out.remote, '::1');
      await Promise.all(pages.map((page) => page.close()));
      await session.close();
    });
  });
}

for (const [limit, name] of [[0, 'no limit'], [600, 'a limit of 600 kbit/s']]) {
  describe(`bitrate (${first.name}, ${name})`, () => {
    let stage;
    before(async () => {
      stage = await Stage.open({ ...first.env, OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH: String(limit) });
    });
    after(() => stage?.close());

    it('a publisher with much to send gets as far as it may', async (test) => {
      if (stage.weir.external) return test.skip('needs a server of its own');
      const session = await stage.session();
      const page = await stage.join(session, { publish: null });
      await page.evaluate(() => client.publish({ videoSource: client.noise(640, 480, 15) }));
      const viewer = await stage.join(session, { publish: null, role: 'SUBSCRIBER' });
      // Without a limit the estimate goes as far as the machine can encode; 900 kbit/s is thrice where it starts.
      const wanted = (limit || 900) * 1000;
      let reached = 0;
      await until('the estimate rises', async () => {
        reached = (await stats(page)).out.pair?.availableOutgoingBitrate ?? 0;
        return reached >= wanted * 0.98;
      }, 60_000).finally(() => test.diagnostic(`${Math.round(reached / 1000)} kbit/s available`));
      await sleep(2000);
      if (limit) assert.ok((await stats(page)).out.pair.availableOutgoingBitrate <= wanted * 1.02);
      const [inbound] = Object.values((await stats(viewer)).in);
      assert.equal(inbound.video.packetsLost, 0);
      await Promise.all([page.close(), viewer.close()]);
      await session.close();
    });
  });
}
