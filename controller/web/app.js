// The page for people: a lobby with camera and form, then tiles, a row of buttons, and who speaks.

import { WeirClient, WeirError } from './weir-client.js';

const $ = (selector) => document.querySelector(selector);
const SPEAKING_LEVEL = 0.02;
const LEVEL_EVERY_MS = 250;
/** How long a tile stays marked after its last loud moment. */
const SPEAKING_HOLD_MS = 900;

/** What we send, and whether the person wants to. */
const own = { media: null, wants: { audio: true, video: true } };
/** Settled once camera and microphone are there, or known not to be: it may take a person's "Allow". */
let devices;
let client = null;
/** Who was there before us is not announced. */
let entered = false;
let levels;
const tiles = new Map(); // connection id -> tile

// ---- Lobby ----------------------------------------------------------------------------------------------------------

const form = $('#join-form');

function start() {
  const hash = new URLSearchParams(location.hash.slice(1));
  form.elements.session.value = hash.get('session') ?? '';
  form.elements.name.value = stored('name');
  (form.elements.name.value ? form.elements.session : form.elements.name).focus({ preventScroll: true });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    enter();
  });
  for (const button of document.querySelectorAll('[data-toggle]')) {
    button.addEventListener('click', () => toggle(button.dataset.toggle));
  }
  $('#leave').addEventListener('click', () => client?.leave());
  $('#copy').addEventListener('click', copyInvitation);
  new ResizeObserver(layOut).observe($('#grid'));
  addEventListener('pagehide', () => client?.leave());
  checkDoor();
  devices = openDevices();
}

function stored(key) {
  try {
    return localStorage.getItem(`weir.${key}`) ?? '';
  } catch {
    return '';
  }
}

function store(key, value) {
  try {
    localStorage.setItem(`weir.${key}`, value);
  } catch {
    // Storage is switched off: the name is typed again next time.
  }
}

/** Camera and microphone, or whichever of the two there is. */
async function openDevices() {
  const note = $('#preview-note');
  if (!navigator.mediaDevices) {
    note.textContent = 'This browser gives a page camera and microphone only over https or on this machine. You can still watch and listen.';
    own.media = new MediaStream();
    return showDevices();
  }
  const video = { width: { ideal: 1280 }, height: { ideal: 720 } };
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  const problems = [];
  for (const wanted of [{ audio, video }, { audio }, { video }]) {
    try {
      own.media = await navigator.mediaDevices.getUserMedia(wanted);
      break;
    } catch (error) {
      problems.push(error);
    }
  }
  if (!own.media) own.media = new MediaStream();
  // The last one is about the device that is missing, if the other one is there.
  note.textContent = problems.length ? explainDevices(own.media.getTracks().length ? problems.at(-1) : problems[0]) : '';
  showDevices();
}

/** Why what is missing is missing, and what there is. */
function explainDevices(error) {
  const have = { audio: Boolean(trackOf('audio')), video: Boolean(trackOf('video')) };
  const rest = have.audio ? '; the microphone works.' : have.video ? '; the camera works.' : '. You can still watch and listen.';
  const missing = have.audio ? 'camera' : have.video ? 'microphone' : '';
  switch (error.name) {
    case 'NotAllowedError': return (missing ? `The ${missing} is` : 'Camera and microphone are') + ` not allowed for this page${rest}`;
    case 'NotFoundError': return (missing ? `No ${missing}` : 'No camera and no microphone') + ` found${rest}`;
    case 'NotReadableError': return `Another program uses the ${missing || 'camera or the microphone'}${rest}`;
    default: return (missing ? `The ${missing}` : 'Camera and microphone') + ` cannot be used: ${error.message}`;
  }
}

function showDevices() {
  $('#preview').srcObject = own.media;
  for (const kind of ['audio', 'video']) {
    const track = trackOf(kind);
    if (track) track.enabled = own.wants[kind];
    for (const button of document.querySelectorAll(`[data-toggle="${kind}"]`)) {
      const on = Boolean(track) && own.wants[kind];
      button.disabled = !track;
      button.setAttribute('aria-pressed', String(on));
      const name = kind === 'audio' ? 'microphone' : 'camera';
      button.title = track ? `Turn ${name} ${on ? 'off' : 'on'}` : `The ${name} cannot be used`;
      button.querySelector('use').setAttribute('href', `#i-${kind === 'audio' ? 'mic' : 'cam'}${on ? '' : '-off'}`);
    }
  }
  const picture = Boolean(trackOf('video')) && own.wants.video;
  $('#preview').hidden = !picture;
  const note = $('#preview-note');
  if (!note.textContent || note.dataset.off) {
    note.dataset.off = '1';
    note.textContent = picture ? '' : 'Your camera is off.';
  }
}

const trackOf = (kind) => own.media?.getTracks().find((track) => track.kind === kind);

async function toggle(kind) {
  if (!trackOf(kind)) return;
  own.wants[kind] = !own.wants[kind];
  showDevices();
  if (!client?.me) return;
  markOwn();
  await client.setActive(kind, own.wants[kind]).catch((error) => toast(error.message, true));
}

// ---- Joining --------------------------------------------------------------------------------------------------------

async function enter() {
  const { name, session, secret } = Object.fromEntries(new FormData(form));
  const button = $('#join');
  button.disabled = true;
  button.textContent = 'Joining…';
  showError('');
  try {
    const token = await invitation(session.trim(), secret);
    await connect(token, session.trim(), name.trim());
    store('name', name.trim());
  } catch (error) {
    client = null;
    showLobby(explain(error));
  } finally {
    button.disabled = false;
    button.textContent = 'Join';
  }
}

/** A token: from the server's open door, or through the REST API with its secret. */
async function invitation(session, secret) {
  if (!secret) {
    const answer = await post('/demo/token', { session });
    if (answer.ok) return (await answer.json()).token;
    if (answer.status !== 404) throw new Error(await problemOf(answer));
    askForSecret();
    form.elements.secret.focus();
    throw new Error('Please give the secret of this server.');
  }
  const authorization = `Basic ${btoa(`OPENVIDUAPP:${secret}`)}`;
  const created = await post('/openvidu/api/sessions', { customSessionId: session }, authorization);
  if (created.status === 401) throw new Error('The secret is wrong.');
  if (!created.ok && created.status !== 409) throw new Error(await problemOf(created));
  const made = await post(`/openvidu/api/sessions/${encodeURIComponent(session)}/connection`, { role: 'PUBLISHER' }, authorization);
  if (!made.ok) throw new Error(await problemOf(made));
  return (await made.json()).token;
}

function askForSecret() {
  $('#secret-field').hidden = false;
}

/** Whether the door is open is known before anybody types. */
async function checkDoor() {
  const answer = await fetch('/demo').catch(() => null);
  const enabled = answer?.ok ? (await answer.json().catch(() => ({}))).enabled : true;
  if (!enabled) askForSecret();
}

function post(path, body, authorization) {
  return fetch(path, {
    method: 'POST',
    // Or the browser asks for a password in a window of its own when the server answers 401.
    credentials: 'omit',
    headers: { 'content-type': 'application/json', ...(authorization && { authorization }) },
    body: JSON.stringify(body),
  });
}

async function problemOf(answer) {
  const body = await answer.json().catch(() => ({}));
  return body.message || `The server answered ${answer.status}.`;
}

function explain(error) {
  if (error instanceof WeirError && error.code === 401) return 'This invitation is not valid any more. Please join again.';
  if (error instanceof TypeError) return 'The server cannot be reached.';
  return error.message;
}

async function connect(token, session, name) {
  client = new WeirClient();
  listen(client);
  const me = await client.join(token, { name, server: location.origin });
  entered = true;
  $('#session-name').textContent = session;
  document.title = `${session} · Weir`;
  history.replaceState(null, '', `#session=${encodeURIComponent(session)}`);
  $('#lobby').hidden = true;
  $('#call').hidden = false;
  addTile(me.id, `${name} (you)`, own.media, true);
  markOwn();
  levels = setInterval(showSpeakers, LEVEL_EVERY_MS);
  publishWhenReady(client);
}

/** Nobody waits at the door for a camera: who joins before it is there is seen as soon as it is. */
async function publishWhenReady(into) {
  await devices;
  if (into !== client || !own.media.getTracks().length) return;
  tiles.get(into.me.id).video.srcObject = own.media;
  markOwn();
  await into.publish(own.media).catch((error) => {
    if (into === client) toast(`The others cannot see you: ${error.message}`, true);
  });
}

function listen(to) {
  const on = (type, act) => to.addEventListener(type, ({ detail }) => {
    if (to === client) act(detail);
  });
  on('participantjoined', ({ participant }) => {
    const tile = addTile(participant.id, participant.name, null, false);
    mark(tile, participant.stream);
    if (entered) toast(`${participant.name} joined`);
  });
  on('participantleft', ({ connection }) => {
    const tile = tiles.get(connection);
    if (tile) toast(`${tile.name} left`);
    removeTile(connection);
  });
  on('streamadded', ({ connection, stream, media }) => {
    const tile = tiles.get(connection);
    if (!tile) return;
    tile.video.srcObject = media;
    tile.video.play().catch(() => {});
    mark(tile, stream);
  });
  on('streamremoved', ({ connection }) => {
    const tile = tiles.get(connection);
    if (!tile) return;
    tile.video.srcObject = null;
    mark(tile, null);
  });
  on('streamchanged', ({ connection }) => mark(tiles.get(connection), to.participants.get(connection)?.stream));
  on('unpublished', ({ reason, again }) => {
    if (again) toast('The media server was restarted. You are being sent again.');
    else toast(STREAM_ENDED[reason] ?? 'The server has ended your stream.', true);
  });
  on('reconnecting', () => banner('The connection is lost. Trying to come back…'));
  on('reconnected', () => banner(''));
  on('problem', ({ message }) => toast(message, true));
  on('disconnected', ({ reason }) => showLobby(FAREWELL[reason] ?? 'The server has ended the session.'));
}

const STREAM_ENDED = {
  forceUnpublishByUser: 'A moderator has ended your stream.',
  mediaServerReconnect: 'The media server was restarted.',
};

const FAREWELL = {
  disconnect: '',
  forceDisconnectByUser: 'A moderator has removed you from the session.',
  forceDisconnectByServer: 'You were removed from the session.',
  sessionClosedByServer: 'The session was closed.',
  networkDisconnect: 'The connection was lost for too long.',
  nodeCrashed: 'The media server has failed. Please join again.',
  mediaServerDisconnect: 'The media server was taken out of service. Please join again.',
  openviduServerStopped: 'The server was stopped.',
};

// ---- Call -----------------------------------------------------------------------------------------------------------

function showLobby(error) {
  clearInterval(levels);
  client = null;
  entered = false;
  for (const id of [...tiles.keys()]) removeTile(id);
  banner('');
  document.title = 'Weir';
  $('#call').hidden = true;
  $('#lobby').hidden = false;
  showError(error);
}

function showError(text) {
  $('#join-error').textContent = text;
  $('#join-error').hidden = !text;
}

function banner(text) {
  $('#banner').textContent = text;
  $('#banner').hidden = !text;
}

function addTile(id, name, media, isOwn) {
  if (tiles.has(id)) return tiles.get(id);
  const element = $('#tile').content.firstElementChild.cloneNode(true);
  const tile = { id, name, element, video: element.querySelector('video'), loudAt: -Infinity };
  element.classList.toggle('own', isOwn);
  element.querySelector('.name').textContent = name;
  const avatar = element.querySelector('.avatar');
  avatar.dataset.initials = initials(name);
  avatar.style.setProperty('--hue', hue(name));
  tile.video.muted = isOwn;
  if (media) tile.video.srcObject = media;
  tiles.set(id, tile);
  $('#grid').append(element);
  layOut();
  return tile;
}

function removeTile(id) {
  const tile = tiles.get(id);
  if (!tile) return;
  tile.video.srcObject = null;
  tile.element.remove();
  tiles.delete(id);
  layOut();
}

function mark(tile, stream) {
  tile?.element.classList.toggle('no-video', !stream?.videoActive);
  tile?.element.classList.toggle('no-audio', !stream?.audioActive);
}

function markOwn() {
  const active = (kind) => Boolean(trackOf(kind)) && own.wants[kind];
  mark(tiles.get(client.me.id), { audioActive: active('audio'), videoActive: active('video') });
}

function initials(name) {
  const words = name.replace(/\(you\)$/, '').trim().split(/\s+/);
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : [...words[0]].slice(0, 1);
  return letters.join('').toUpperCase();
}

function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

/** The tile size with which all tiles fit and cover the most area; between 4:3 and 16:9, upright on upright screens. */
function layOut() {
  const grid = $('#grid');
  const count = tiles.size;
  $('#people').textContent = String(count);
  const style = getComputedStyle(grid);
  const width = grid.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const height = grid.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const gap = parseFloat(style.columnGap);
  if (!count || width <= 0 || height <= 0) return;
  const [narrowest, widest] = height > width ? [0.85, 16 / 9] : [4 / 3, 16 / 9];
  let best = { area: 0, w: 0, h: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    let w = (width - gap * (columns - 1)) / columns;
    let h = (height - gap * (rows - 1)) / rows;
    if (w / h > widest) w = h * widest;
    if (w / h < narrowest) h = w / narrowest;
    if (w * h > best.area) best = { area: w * h, w, h };
  }
  grid.style.setProperty('--tile-width', `${Math.floor(best.w)}px`);
  grid.style.setProperty('--tile-height', `${Math.floor(best.h)}px`);
}

async function showSpeakers() {
  if (!client?.me) return;
  const now = performance.now();
  for (const [id, level] of await client.audioLevels()) {
    const tile = tiles.get(id);
    if (tile && level > SPEAKING_LEVEL) tile.loudAt = now;
  }
  for (const tile of tiles.values()) tile.element.classList.toggle('speaking', now - tile.loudAt < SPEAKING_HOLD_MS);
}

async function copyInvitation() {
  const link = location.href;
  try {
    await navigator.clipboard.writeText(link);
    toast('The link to this session is copied.');
  } catch {
    toast(link);
  }
}

function toast(text, bad = false) {
  const element = document.createElement('p');
  element.className = bad ? 'toast bad' : 'toast';
  element.textContent = text;
  $('#toasts').append(element);
  while ($('#toasts').childElementCount > 3) $('#toasts').firstElementChild.remove();
  setTimeout(() => element.remove(), bad ? 8000 : 3000);
}

start();
