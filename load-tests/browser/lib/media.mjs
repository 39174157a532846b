// What arrived at each client, as differences between two readings of getStats().

import assert from 'node:assert/strict';
import { CAMERA_FPS, sleep, stats, until } from './stage.mjs';

/** Waits until every page decodes frames of `streams` others, from all of them. */
export async function mediaFlows(pages, streams) {
  await until('every client decodes every other one', async () => {
    const all = await Promise.all(pages.map(stats));
    return all.every(({ in: inbound }) => {
      const list = Object.values(inbound);
      return list.length === streams && list.every((one) => one.video.framesDecoded > 5 && one.audio.packetsReceived > 5);
    });
  }, 40_000).catch(async (error) => {
    const all = await Promise.all(pages.map(stats));
    throw new Error(`${error.message}: ${JSON.stringify(all, null, 1)}`);
  });
}

/** Rates and sums over `seconds` for each page and each stream it receives. */
export async function measure(pages, seconds) {
  const before = await Promise.all(pages.map(stats));
  await sleep(seconds * 1000);
  const after = await Promise.all(pages.map(stats));
  return after.map((now, index) => ({
    out: now.out && before[index].out ? difference(before[index].out, now.out) : null,
    in: Object.fromEntries(
      Object.entries(now.in)
        .filter(([id]) => before[index].in[id])
        .map(([id, reading]) => [id, difference(before[index].in[id], reading)]),
    ),
    transport: now.out?.transport,
    pair: now.out?.pair,
  }));
}

function difference(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const subtract = (kind) => Object.fromEntries(
    Object.entries(after[kind]).filter(([, value]) => typeof value === 'number').map(([name, value]) =>
      [name, value - (before[kind][name] ?? 0)]));
  const [audio, video] = [subtract('audio'), subtract('video')];
  const frames = video.framesDecoded ?? video.framesSent ?? 0;
  return { stream: after.stream, seconds, audio, video, fps: frames / seconds, width: after.video.width, height: after.video.height, layers: after.video.layers };
}

/** One line per stream, for the log of a test run. */
export function describe(figures) {
  return figures.flatMap(({ out, in: inbound }, index) => [
    `client ${index}: sends ${out ? out.fps.toFixed(1) : '-'} frames/s, ${Math.round((out?.video.bytesSent ?? 0) * 8 / 1000 / (out?.seconds ?? 1))} kbit/s`,
    ...Object.entries(inbound).map(([id, one]) =>
      `  ${id}: ${one.fps.toFixed(1)} frames/s, ${one.video.packetsLost + one.audio.packetsLost} lost, ` +
      `${one.video.freezeCount} freezes, ${one.audio.packetsReceived} audio packets, energy ${one.audio.totalAudioEnergy?.toFixed(4)}`),
  ]).join('\n');
}

/** What the sender of a stream sent, frames per second; the camera's rate where its page is not among those measured. */
function sentRate(id, all) {
  return all.find(({ out }) => out?.stream === id)?.out.fps ?? CAMERA_FPS;
}

/** Every stream of one page comes at about the rate that `all` pages send, which a busy machine may have lowered. */
export function assertFlowing(figures, all, when) {
  for (const [id, one] of Object.entries(figures.in)) {
    const sent = sentRate(id, all);
    assert.ok(one.fps >= sent * 0.75, `${when}: ${id} at ${one.fps} of ${sent} frames/s\n${describe(all)}`);
  }
}

/**
 * Measures until every stream arrives whole, at most `attempts` times. A busy machine may stall a sender's encoder and so
 * freeze a picture in one measurement; a lost packet is never excused.
 */
export async function wholeWithin(attempts, pages, seconds, note) {
  for (let attempt = 1; ; attempt += 1) {
    const figures = await measure(pages, seconds);
    note(describe(figures));
    const slow = figures.some(({ out }) => out.fps < CAMERA_FPS * 0.9);
    if (slow && attempt < attempts) continue;
    try {
      return assertWhole(figures, pages.length - 1);
    } catch (error) {
      const lost = figures.flatMap((one) => Object.values(one.in)).some((one) => one.video.packetsLost + one.audio.packetsLost > 0);
      if (lost || attempt === attempts) throw error;
    }
  }
}

/**
 * Every stream arrives whole: the sender's frame rate within 10 %, no lost packet, no freeze, sound with energy.
 * `streams`: how many each page receives.
 */
function assertWhole(figures, streams) {
  const report = describe(figures);
  for (const { in: inbound } of figures) {
    const list = Object.entries(inbound);
    assert.equal(list.length, streams, report);
    for (const [id, one] of list) {
      const sent = sentRate(id, figures);
      assert.ok(one.fps >= sent * 0.9, `${id}: ${one.fps} frames/s of ${sent}\n${report}`);
      assert.equal(one.video.packetsLost, 0, `${id}: video packets lost\n${report}`);
      assert.equal(one.audio.packetsLost, 0, `${id}: audio packets lost\n${report}`);
      assert.equal(one.video.freezeCount, 0, `${id}: freezes\n${report}`);
      assert.ok(one.audio.packetsReceived >= one.seconds * 40, `${id}: audio packets\n${report}`);
      assert.ok(one.audio.totalAudioEnergy > 0, `${id}: silence\n${report}`);
    }
  }
}
