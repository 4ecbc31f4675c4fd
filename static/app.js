// The page's behaviour: what HTML and htmx cannot say. Loaded before the first paint for the theme's sake.
"use strict";

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const store = {
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* a private window forgets */ } },
};

// ---- what scripts say, in the language of the page: the texts here are English, and the keys (tasks/languages.py)
const texts = JSON.parse(document.querySelector("meta[name=texts]")?.content ?? "{}");
const tr = (text, values) => (texts[text] ?? text).replace(/{(\w+)}/g, (all, name) => values?.[name] ?? all);

// ---- Trusted Types: what makes elements of a text, or names a script, is given it by this policy or is refused by
// the browser. htmx makes elements of what the server has sent; scripts of a text nobody makes.
const trusted = window.trustedTypes?.createPolicy("rowcast", {
  createHTML: (text) => text,
  createScript: () => "",
  createScriptURL: (address) => {
    if (new URL(address, location.href).origin !== location.origin) throw new TypeError("a script of elsewhere");
    return address;
  },
}) ?? { createHTML: (text) => text, createScript: () => "", createScriptURL: (address) => address };
// htmx copies the scripts of a page that it asks for, of which a part is taken: by their address, which nobody wraps.
window.trustedTypes?.createPolicy("default", {
  createScriptURL: (address) => (new URL(address, location.href).origin === location.origin ? address : null),
});
// before htmx looks at the page: its own listener comes later
addEventListener("DOMContentLoaded", () => {
  window.htmx?.registerExtension("trusted", { init: (api) => api.initSecurity(trusted) });
}, { capture: true });

// ---- light, dark, or as the system has it; a choice holds for every tab
const THEME = "rowcast-theme";
function setTheme(theme) {
  root.dataset.theme = ["light", "dark"].includes(theme) ? theme : "auto";
  if (byId("theme")) byId("theme").value = root.dataset.theme;
}
setTheme(store.get(THEME));
addEventListener("storage", (e) => { if (e.key === THEME) setTheme(e.newValue); });

// ---- times: the server writes UTC, the viewer reads their own clock
let ago = store.get("rowcast-ago") === "on"; // how long ago, where one has asked for that
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
function howLongAgo(at) {
  const seconds = (at - Date.now()) / 1000 - ahead;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
  return new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" }).format(Math.round(seconds / size), unit);
}
const two = (n) => String(n).padStart(2, "0");
function localTimes(within) {
  for (const time of within.querySelectorAll("time:not([data-local])")) {
    const at = new Date(time.dateTime), clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
    const today = at.toDateString() === new Date().toDateString();
    const date = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const short = at.toLocaleDateString(undefined, { day: "numeric", month: "short" });
    const seconds = `${clock}:${two(at.getSeconds())}`;
    if (ago && !("fine" in time.dataset)) time.textContent = howLongAgo(at);
    else if ("day" in time.dataset) time.textContent = `${date} ${clock}`;
    else if ("minute" in time.dataset) time.textContent = today ? clock : `${short} ${clock}`;
    else if ("fine" in time.dataset) time.textContent = `${seconds}.${String(at.getMilliseconds()).padStart(3, "0")}`;
    else if (today) time.textContent = seconds;
    else time.textContent = `${short} ${clock}`;
    time.title = ago ? exactly(at) : "";
    time.dataset.local = "";
  }
}
function exactly(at) { // in the viewer's zone, which is named
  return at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) + zoneOf(at);
}
function zoneOf(at) {
  const parts = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" }).formatToParts(at);
  return ` ${parts.find((part) => part.type === "timeZoneName")?.value ?? ""}`;
}
function tellTime(e) { // the other way of saying it, when somebody points at a time
  const time = e.target.closest?.("time");
  if (time) time.title = `${exactly(new Date(time.dateTime))}, ${howLongAgo(new Date(time.dateTime))}`;
}
function redoTimes() {
  for (const time of document.querySelectorAll("time[data-local]")) delete time.dataset.local;
  localTimes(document);
}

// ---- what moves by itself: elapsed time, and the countdown to the next try, by the server's clock
let ahead = 0; // seconds by which the server's clock is ahead of the viewer's
const POINT = tr("1,000.5").at(-2); // of decimals
function duration(seconds) {
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  if (whole < 10) return `${whole}${POINT}${Math.floor(seconds * 10) % 10} s`;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
function wait(seconds, inRow) { // as wait_text in pages/values.py
  if (seconds < 100) return tr("in {whole} s", { whole: seconds });
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (inRow) return hours ? tr("in {hours} h", { hours }) : tr("in {minutes} min", { minutes });
  if (hours) return tr("in {hours} h {minutes} min", { hours, minutes: minutes % 60 });
  return tr("in {minutes} min {rest} s", { minutes, rest: seconds % 60 });
}
const isPaused = (status) => status?.dataset.status === "paused";
function tick(within = document, paused = isPaused(byId("job-status"))) {
  const now = Date.now() / 1000 + ahead;
  const show = (e, text) => { if (e.textContent !== text) e.textContent = text; };
  for (const e of within.querySelectorAll("[data-since]")) {
    show(e, duration(Math.max(0, now - e.dataset.since)));
  }
  for (const e of within.querySelectorAll("[data-until]")) {
    const left = wait(Math.max(0, Math.ceil(e.dataset.until - now)), e.closest("tr"));
    show(e, paused && e.closest("tr") ? tr("when resumed") : left);
  }
}
function readClock(date) {
  const difference = (Date.parse(date) - Date.now()) / 1000;
  ahead = Math.abs(difference) > 2 ? difference : 0; // the header knows whole seconds only
}

// ---- an item is a page of its own: whoever goes there and back finds the rows where they were
const PLACE = "rowcast-place";
const jobOf = (place) => place.pathname.match(/^(.*\/jobs\/\d+)(\/items\/\d+)?$/)?.[1];
const isItem = (place) => /\/items\/\d+$/.test(place.pathname);
const beside = matchMedia("(min-width: 1161px)"); // as app.css has it
function readPlace() {
  try { return JSON.parse(sessionStorage.getItem(PLACE)) ?? {}; } catch { return {}; }
}
function notePlace(link) {
  if (!jobOf(link) || jobOf(link) !== jobOf(location)) return;
  const rows = isItem(location) && !beside.matches ? readPlace().rows : scrollY;
  try { sessionStorage.setItem(PLACE, JSON.stringify({ job: jobOf(link), rows })); } catch { /* it begins at the top */ }
}
function findPlace() {
  const { job, rows } = readPlace();
  const [way] = performance.getEntriesByType("navigation");
  if (job !== jobOf(location) || way?.type !== "navigate") return;
  if (beside.matches || !isItem(location)) scrollTo(0, rows);
  if (!isItem(location)) sessionStorage.removeItem(PLACE);
}
async function copyNext(button) {
  const text = button.closest("section").querySelector("pre").textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = tr("Copied");
  } catch {
    toast(tr("The browser does not let this page copy: mark the text, and copy it yourself."));
  }
}

// ---- is what is on the page fresh?
const WORDS = { live: tr("Live"), polling: tr("Polling"), offline: tr("Offline"), "signed-out": tr("Signed out") };
const CONNECTING = tr("Connecting");
const atRest = () => byId("summary")?.dataset.rest === "true";
function setLive(state, word = WORDS[state]) {
  document.body.dataset.live = state;
  if (!byId("live")) return; // a page that is never live
  byId("live").classList.toggle("waiting", word === CONNECTING);
  if (byId("live-word").textContent !== word) byId("live-word").textContent = word;
}

// Whoever is signed out is told so and asked to sign in, once: from then on the page asks for nothing by itself.
let signedOut = false;
function signOut() {
  signedOut = true;
  setLive("signed-out");
  if (byId("signed-out")) return;
  const text = document.createElement("p"), link = document.createElement("a");
  text.id = "signed-out";
  link.href = location.href;
  link.textContent = tr("Sign in");
  text.append(tr("You are signed out, and this page is as old as that. "), link, tr(" to go on."));
  byId("banner").append(text);
}
function comeBack() {
  signedOut = false;
  byId("signed-out")?.remove();
}

// ---- a polite summary every few seconds, not every row
function speak() {
  const text = byId("summary")?.dataset.text;
  if (text && byId("spoken").textContent !== text) byId("spoken").textContent = text;
}

function toast(text) {
  const box = document.createElement("p");
  box.textContent = text;
  byId("toasts").append(box);
  setTimeout(() => box.remove(), 8000);
}

function setIcon(name) {
  const link = byId("favicon");
  const file = `/static/icon-${name}.svg`;
  if (name && !link.href.endsWith(file)) link.href = document.body.dataset.base + file;
}

// ---- frames: what they must not disturb
// Before: new rows get the viewer's times, and a row that holds the focus or a selection is changed where it
// stands; any other is exchanged whole, which costs less.
let focused = null;
function prepare(tasks) {
  const selection = getSelection();
  const held = (row) => row && (row.contains(document.activeElement) ||
    (!selection.isCollapsed && selection.containsNode(row, true)));
  focused = document.activeElement;
  const comes = tasks.map((task) => task.fragment.querySelector("#job-status")).find(Boolean);
  const paused = isPaused(comes ?? byId("job-status"));
  for (const task of [...tasks]) {
    localTimes(task.fragment);
    tick(task.fragment, paused);
    for (const opened of document.querySelectorAll("details[id][open]")) { // what somebody has opened stays so
      task.fragment.querySelector(`[id="${opened.id}"]`)?.setAttribute("open", "");
    }
    if (task.swapSpec?.style !== "upsert") continue;
    for (const row of [...task.fragment.children]) {
      const shown = byId(row.id);
      if (!held(shown)) continue;
      const alone = document.createDocumentFragment();
      alone.append(row);
      tasks.push({ ...task, fragment: alone, target: shown, swapSpec: { style: "outerMorph" } });
    }
  }
}
function move(rows, row, place) {
  if (rows.children[place] === row) return;
  const held = row.contains(document.activeElement) && document.activeElement;
  rows.insertBefore(row, rows.children[place]);
  if (held) held.focus({ preventScroll: true });
}
// Short keys need less room, and what happened gets it: as key_width in pages/results.py. The first rows say how
// much, and there it stays: nothing moves under who reads.
const KEY_STEPS = [8, 16, 24];
function fitKeys() {
  const table = byId("items")?.closest("table");
  if (!table || "keys" in table.dataset || !table.tBodies[0].rows.length) return;
  const longest = Math.max(...[...table.tBodies[0].rows].map((row) => row.cells[0].textContent.length));
  table.dataset.keys = KEY_STEPS.findIndex((most) => longest <= most) + 1;
}
// After: keep the first rows by their order, which need not be those at the top, for a row that changes stays
// where it is; but in a list where what ends moves. Whoever had the focus on what is gone goes on from the heading.
function settle() {
  for (const rows of document.querySelectorAll("tbody[data-max]")) {
    const sign = rows.dataset.sort === "desc" ? -1 : 1;
    const sorted = [...rows.children].sort((a, b) => sign * (a.dataset.order - b.dataset.order));
    for (const row of sorted.slice(rows.dataset.max)) row.remove();
    if ("moves" in rows.dataset) sorted.slice(0, rows.dataset.max).forEach((row, place) => move(rows, row, place));
  }
  fitKeys();
  const lost = focused && !focused.isConnected && document.activeElement === document.body;
  if (lost) byId("job-title")?.focus({ preventScroll: true });
  setIcon(byId("summary")?.dataset.icon);
  tick(); // what stays may wait for something else now
}

// A hidden tab's stream is closed, for a browser has but six connections to a server: its title and icon
// follow all the same.
let over = false;
const isSignIn = (answer) => answer.status === 401 || answer.type === "opaqueredirect";
async function glance() {
  if (!document.hidden || over || signedOut || atRest() || !byId("summary")?.dataset.icon) return;
  try {
    const asking = new AbortController();
    const timer = setTimeout(() => asking.abort(), 4000);
    const answer = await fetch(location.href, { signal: asking.signal, redirect: "manual" });
    const text = await answer.text();
    clearTimeout(timer);
    if (isSignIn(answer)) return signOut();
    const page = new DOMParser().parseFromString(trusted.createHTML(text), "text/html");
    const summary = page.getElementById("summary");
    if (!document.hidden || !summary) return;
    document.title = page.title;
    setIcon(summary.dataset.icon);
    over = summary.dataset.rest === "true";
    setLive("polling");
  } catch {
    setLive("offline");
  }
}

// What became of a press is said at its button, and stays there until the next try or until the button is for
// something else. A row's button belongs to a form that stands elsewhere.
function placeOf(form, button) {
  if (!button || form.contains(button)) return form.querySelector?.(":scope > [role=alert]");
  const beside = button.parentElement.querySelector(":scope > [role=alert]");
  if (beside || !button.isConnected) return beside;
  const place = document.createElement("p");
  place.className = "error";
  place.role = "alert";
  button.after(place);
  return place;
}
const saidOf = new WeakMap(); // place -> the action that it speaks of; an attribute would not outlive a frame
function say(press, text) {
  const { sourceElement: form, request } = press;
  const place = placeOf(form, request.submitter);
  if (!place) return text ? toast(text) : undefined;
  place.textContent = text;
  saidOf.set(place, request.action);
}
function forgetOthers() {
  for (const place of document.querySelectorAll("form > [role=alert]:not(:empty)")) {
    if (saidOf.get(place) !== place.parentElement.getAttribute("action")) place.textContent = "";
  }
}
const SLOW = 3000; // milliseconds after which a press is said to wait; htmx's defaultTimeout ends that
const NO_ANSWER = tr("The server did not answer. It may have heard this all the same: look before you press again.");
const NO_ANSWER_TO_START =
  tr("The server did not answer. It may have heard this all the same: press again, and it is started once.");
const NOT_REACHED = tr("The server cannot be reached. Press again when it is back.");
const NOT_SIGNED_IN = tr("You are signed out: nothing was done. Sign in, then press again.");
const NOT_OURS =
  tr("Something else answered in the server's place, and nothing was done. Reload the page: you may have to sign in.");
const waiting = new Map(); // presses that no answer has come to: request -> timer
function begin(press) {
  say(press, "");
  press.request.submitter?.setAttribute("aria-busy", "true");
  waiting.set(press.request, setTimeout(() => say(press, tr("No answer yet; waiting for the server.")), SLOW));
}
// What starts a job bears a key until an answer has come: pressed again as it is, it is the same start.
const KEY = "option-unique_key";
const starts = (form) => /\/(jobs|jobs\/\d+(\/items\/\d+)?\/again)$/.test(form.getAttribute?.("action") ?? "");
function giveKey(form) {
  if (form.elements[KEY]) return;
  const key = document.createElement("input");
  key.type = "hidden";
  key.name = KEY;
  key.value = `press-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
  form.append(key);
}
function takeKey(form) {
  form?.elements?.[KEY]?.remove();
}
function end({ request }) {
  clearTimeout(waiting.get(request));
  waiting.delete(request);
  request.submitter?.removeAttribute("aria-busy");
}
// What the answer is, in words: the server's own, or why it is none of its.
function wordsOf({ request, response, hx, text }) {
  if (response.status === 401) return NOT_SIGNED_IN;
  const plain = response.headers.get("Content-Type")?.startsWith("text/plain");
  if (response.status >= 400) return (plain && text.slice(0, 500)) || tr("The server answered {status}.", { status: response.status });
  const isPart = request.method === "GET" && response.headers.get("Content-Type")?.startsWith("text/html");
  return isPart || response.status === 204 || hx.redirect ? "" : NOT_OURS;
}

document.addEventListener("DOMContentLoaded", () => {
  const feed = byId("feed");
  const again = (wait) => setTimeout(() => htmx.trigger(feed, "again"), wait);
  setTheme(root.dataset.theme);
  localTimes(document);
  tick();
  setInterval(tick, 1000);
  setInterval(() => { if (ago) redoTimes(); }, 15_000);
  document.addEventListener("pointerover", tellTime);
  document.addEventListener("rowcast-ago", () => {
    ago = !ago;
    store.set("rowcast-ago", ago ? "on" : "off");
    redoTimes();
  });
  byId("theme")?.addEventListener("change", (e) => {
    setTheme(e.target.value);
    store.set(THEME, e.target.value);
  });
  // what waits for its answer is not asked twice; a press of what the button has become meanwhile is
  document.addEventListener("submit", (e) => {
    if (e.target.dataset.ask && !confirm(e.target.dataset.ask)) { // what cannot be taken back
      e.preventDefault();
      return e.stopPropagation();
    }
    const same = (r) => r.form === e.target && r.submitter === e.submitter;
    const underWay = [...waiting.keys()].some((r) => same(r) && r.action === e.target.getAttribute("action"));
    if (!underWay && starts(e.target)) giveKey(e.target);
    if (!underWay) return;
    e.preventDefault();
    e.stopPropagation();
  }, true);
  for (const change of ["input", "change"]) document.addEventListener(change, (e) => takeKey(e.target.form));
  // the second click of a double click, or an Enter held down, would undo the first: Pause has become Resume
  const once = (e) => {
    const again = e.detail > 1 || (e.repeat && e.key === "Enter");
    if (again && e.target.closest?.("[type=submit]")) e.preventDefault();
  };
  findPlace();
  document.addEventListener("click", (e) => {
    const link = e.target.closest?.("a[href]");
    if (link) notePlace(link);
    const copy = e.target.closest?.("[data-copy]");
    if (copy) copyNext(copy);
  });
  document.addEventListener("keydown", (e) => { // not where somebody writes
    if (e.key === "Escape" && !e.target.closest?.("input, textarea, select, dialog")) byId("close")?.click();
  });
  document.addEventListener("click", once, true);
  document.addEventListener("keydown", once, true);
  document.addEventListener("htmx-before-swap", (e) => prepare(e.detail.tasks));
  document.addEventListener("htmx-after-swap", settle);
  document.addEventListener("htmx-after-swap", forgetOthers);
  const isPress = (press) => press && press.sourceElement !== feed;
  document.addEventListener("htmx-before-request", (e) => {
    const { sourceElement } = e.detail.ctx;
    if (signedOut && !sourceElement.matches("form")) e.preventDefault(); // what asks by itself
    else if (isPress(e.detail.ctx)) begin(e.detail.ctx);
  });
  document.addEventListener("htmx-finally-request", (e) => { if (isPress(e.detail.ctx)) end(e.detail.ctx); });
  document.addEventListener("htmx-response-error", (e) => {
    if (e.detail.ctx.response.status === 401) signOut();
    else if (!isPress(e.detail.ctx)) lost();
  });
  document.addEventListener("htmx-error", (e) => {
    const press = e.detail.ctx;
    if (!press) return;
    if (!isPress(press)) lost();
    else if (press.request.signal.reason !== "timeout") say(press, NOT_REACHED);
    else say(press, starts(press.sourceElement) ? NO_ANSWER_TO_START : NO_ANSWER);
  });
  // a page at rest has no stream: its own form, or another tab, says when its job goes on
  const tabs = "BroadcastChannel" in window ? new BroadcastChannel("rowcast") : null;
  const goOn = (job) => { if (atRest() && jobOf(location) === job) location.reload(); };
  document.addEventListener("htmx-after-request", (e) => {
    const { request, response } = e.detail.ctx;
    if (isPress(e.detail.ctx)) {
      end(e.detail.ctx);
      if (response.status === 401 && !e.detail.ctx.sourceElement.matches("form")) return;
      const words = wordsOf(e.detail.ctx);
      if (!words) takeKey(e.detail.ctx.sourceElement);
      say(e.detail.ctx, words);
    }
    const act = request.action.match(/^(.*?)(?:\/deliveries\/\w+)?\/(retry|settle)$/);
    if (!act || response.status >= 400) return;
    tabs?.postMessage(act[1]);
    goOn(act[1]);
  });
  if (tabs) tabs.onmessage = (e) => goOn(e.data);
  document.addEventListener("rowcast-live", (e) => { if (e.detail.state === "signed-out") signOut(); });
  if (!feed) return;

  // the extension does not try again when the very first connection fails
  function lost() {
    if (signedOut) return;
    setLive("offline");
    again(2000);
  }
  setLive("offline", CONNECTING);
  setInterval(speak, 4000);
  setInterval(glance, 5000);
  document.addEventListener("htmx-before-response", (e) => {
    if (e.detail.ctx.sourceElement === feed) readClock(e.detail.ctx.response.headers.get("Date"));
  });
  // static/stream.js says by what way the frames come, and why if not by a stream
  let way = { state: "live", why: "" };
  document.addEventListener("rowcast-live", (e) => {
    const { state, why } = e.detail;
    if (state === "signed-out") return;
    if (state === "live" || state === "polling") comeBack();
    if (state === "polling" && why !== way.why) toast(tr("Polling: {why}.", { why }));
    way = e.detail;
    setLive(way.state);
    byId("live").title = way.why;
  });
  document.addEventListener("htmx-sse-before-connection", (e) => { if (signedOut) e.preventDefault(); });
  document.addEventListener("htmx-sse-after-connection", () => setLive(way.state));
  document.addEventListener("htmx-sse-error", () => { if (!signedOut) setLive("offline"); });
  document.addEventListener("auth", signOut);
  document.addEventListener("shutdown", () => setLive("offline", tr("Restarting")));
  document.addEventListener("done", () => {
    setLive("live", tr("Up to date"));
    speak();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && !atRest() && !signedOut) setLive("polling");
    // whoever comes back may have signed in elsewhere meanwhile: ask once
    if (document.hidden || !signedOut) return;
    comeBack();
    setLive("offline", CONNECTING);
    again(0);
  });
});
