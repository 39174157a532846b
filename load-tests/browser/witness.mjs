// Browsers that look on: each joins a loaded session with a token, receives so many streams, and says what it decoded.
//
//   echo '{"tokens": ["ws://...", ...], "streams": 7, "settle": 1.5, "seconds": 10}' | node witness.mjs
//
// Prints `ready` once every browser decodes them, and after `settle` + `seconds` one line of JSON.

import { text } from 'node:stream/consumers';

import { measure, mediaFlows } from './lib/media.mjs';
import { launchChromium, servePage, sleep } from './lib/stage.mjs';

const order = JSON.parse(await text(process.stdin));
const server = await servePage();
const browser = await launchChromium();
try {
  const pages = [];
  for (const [index, token] of order.tokens.entries()) {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(`http://localhost:${server.address().port}/`);
    // What it decodes counts; painting it would cost as much again.
    await page.addStyleTag({ content: '#videos { display: none }' });
    await page.evaluate(([token, name, subscribes]) => client.join(token, { name, subscribes, publish: null }),
      [token, `witness-${index}`, order.streams]);
    pages.push(page);
  }
  await mediaFlows(pages, order.streams);
  console.log('ready');
  await sleep(order.settle * 1000);
  const figures = await measure(pages, order.seconds);
  console.log(JSON.stringify({
    browsers: pages.length,
    seconds: order.seconds,
    streams: figures.flatMap(({ in: inbound }, browser) =>
      Object.entries(inbound).map(([stream, one]) => ({ browser, stream, ...seen(one) }))),
  }));
} finally {
  await browser.close();
  server.close();
}

/** The figures of the report, from the differences between two readings. */
function seen({ fps, width, height, audio, video }) {
  const share = (part, whole) => (whole > 0 ? part / whole : 0);
  return {
    frames_per_s: fps,
    width: width ?? 0,
    height: height ?? 0,
    freezes: video.freezeCount ?? 0,
    frozen_s: video.totalFreezesDuration ?? 0,
    frames_dropped: video.framesDropped ?? 0,
    packets_lost: video.packetsLost ?? 0,
    jitter_buffer_ms: 1000 * share(video.jitterBufferDelay, video.jitterBufferEmittedCount),
    concealed: share(audio.concealedSamples, audio.totalSamplesReceived),
  };
}
