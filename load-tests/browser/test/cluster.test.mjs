// Calls while their cluster changes: a node drains under a call, a media process dies and comes back, a node falls silent.
// Both nodes are child processes of one `weir`.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { readdirSync, readFileSync } from 'node:fs';

import { mediaFlows, wholeWithin } from '../lib/media.mjs';
import { events, seen, Stage, until } from '../lib/stage.mjs';

const ATTEMPTS = 3;

/** Process ids of the living children of a process. */
function childrenOf(parent) {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      const [state, ppid] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
      return state !== 'Z' && Number(ppid) === parent;
    } catch {
      return false; // It ended while we looked.
    }
  });
}

describe('a cluster that changes under calls', { skip: process.env.WEIR_URL && 'needs a server of its own' }, () => {
  let stage;
  let first;
  let second;

  const nodeOf = async (session) => (await stage.weir.rest('GET', `sessions/${session.sessionId}`)).body.mediaNodeId;
  const pair = async (session, names) => {
    const pages = [];
    for (const name of names) pages.push(await stage.join(session, { name }));
    await mediaFlows(pages, 1);
    return pages;
  };

  before(async () => {
    stage = await Stage.open({ WEIR_CORES: '1' });
    const added = await stage.weir.rest('POST', 'media-nodes?wait=true');
    assert.equal(added.status, 200, JSON.stringify(added.body));
    assert.equal(added.body.status, 'running');
  });

  after(async () => {
    await stage?.close();
    const ended = stage?.ended;
    assert.ok(!ended || ended.code === 0, `the server ended with ${JSON.stringify(ended)}:\n${stage.weir?.log}`);
  });

  it('a node drains while a call runs: the call is unharmed, the node ends after it', async (test) => {
    const session = await stage.session();
    const pages = await pair(session, ['ann', 'bob']);
    first = await nodeOf(session);
    const busy = await stage.weir.rest('DELETE', `media-nodes/${first}`);
    assert.equal(busy.status, 409);
    const drained = await stage.weir.rest('DELETE', `media-nodes/${first}?deletion-strategy=when-no-sessions`);
    assert.equal(drained.status, 202);
    await wholeWithin(ATTEMPTS, pages, 5, (text) => test.diagnostic(text));
    const node = await stage.weir.rest('GET', `media-nodes/${first}`);
    assert.equal(node.body.status, 'waiting-idle-to-terminate');
    assert.equal(childrenOf(stage.weir.child.pid).length, 2);
    for (const page of pages) await page.evaluate(() => client.session.disconnect());
    await until('the node is gone', async () => (await stage.weir.rest('GET', `media-nodes/${first}`)).status === 404);
    await until('its process is gone', () => childrenOf(stage.weir.child.pid).length === 1);
    for (const page of pages) await page.close();
  });

  it('a media process that dies comes back: its session stays, who publishes again is seen', async () => {
    const session = await stage.session();
    const pages = await pair(session, ['cid', 'dan']);
    second = await nodeOf(session);
    assert.notEqual(second, first);
    const [pid] = childrenOf(stage.weir.child.pid);
    process.kill(pid, 'SIGKILL');
    for (const page of pages) await seen(page, 'streamDestroyed');
    for (const page of pages) {
      for (const { reason } of await events(page, 'streamDestroyed')) assert.equal(reason, 'mediaServerReconnect');
      assert.deepEqual(await events(page, 'sessionDisconnected'), []);
    }
    await until('the node is back', async () => {
      const { body } = await stage.weir.rest('GET', `media-nodes/${second}`);
      return body.connected && body.status === 'running';
    });
    for (const page of pages) await page.evaluate(() => client.publish());
    await mediaFlows(pages, 1);
    assert.equal(await nodeOf(session), second);
    for (const page of pages) await page.close();
    await session.close();
  });

  it('a node that falls silent has crashed: everybody is told, the session can be made again', async () => {
    const session = await stage.session({ customSessionId: 'again' });
    const pages = await pair(session, ['eve', 'fay']);
    const [pid] = childrenOf(stage.weir.child.pid);
    process.kill(pid, 'SIGSTOP');
    try {
      for (const page of pages) {
        await seen(page, 'sessionDisconnected');
        const [{ reason }] = await events(page, 'sessionDisconnected');
        assert.equal(reason, 'nodeCrashed');
      }
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await until('the node is back', async () => (await stage.weir.rest('GET', 'health')).status === 200);
    const again = await stage.session({ customSessionId: 'again' });
    for (const page of pages) await page.close();
    const others = await pair(again, ['gus', 'hal']);
    for (const page of others) await page.close();
  });
});
