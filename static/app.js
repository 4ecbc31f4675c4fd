// The page's behaviour: what HTML and htmx cannot say. Loaded before the first paint for the theme's sake.
"use strict";

const root = document.documentElement;
const store = {
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* a private window forgets */ } },
};

// ---- light, dark, or as the system has it
const THEMES = ["auto", "light", "dark"];
function setTheme(theme) {
  root.dataset.theme = THEMES.includes(theme) ? theme : "auto";
}
setTheme(store.get("rowcast-theme"));

// ---- times: the server writes UTC, the viewer reads their own clock
const two = (n) => String(n).padStart(2, "0");
function localTimes(within) {
  for (const time of within.querySelectorAll("time:not([data-local])")) {
    const at = new Date(time.dateTime);
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const today = at.toDateString() === new Date().toDateString();
    time.textContent = "day" in time.dataset ? `${day} ${clock}` : today ? `${clock}:${two(at.getSeconds())}` : `${day} ${clock}`;
    time.title = at.toLocaleString();
    time.dataset.local = "";
  }
}

// ---- what moves by itself: elapsed time, and the countdown to the next try
function duration(seconds) {
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  if (whole < 10) return `${seconds.toFixed(1)} s`;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
function tick() {
  const now = Date.now() / 1000;
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = duration(Math.max(0, now - e.dataset.since));
  for (const e of document.querySelectorAll("[data-until]")) e.textContent = `${Math.max(0, Math.ceil(e.dataset.until - now))} s`;
}

// ---- is what is on the page fresh?
const WORDS = { live: "Live", polling: "Polling", offline: "Offline", "signed-out": "Signed out" };
function setLive(state, word) {
  document.body.dataset.live = state;
  document.getElementById("live-word").textContent = word || WORDS[state];
}

// ---- a polite summary every few seconds, not every row
function speak() {
  const text = document.getElementById("summary")?.dataset.text;
  const spoken = document.getElementById("spoken");
  if (text && spoken.textContent !== text) spoken.textContent = text;
}

function toast(text) {
  const box = document.createElement("p");
  box.textContent = text;
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), 8000);
}

function icon() {
  const name = document.getElementById("summary")?.dataset.icon;
  const link = document.getElementById("favicon");
  if (name && !link.href.endsWith(`icon-${name}.svg`)) link.href = `${document.body.dataset.base}/static/icon-${name}.svg`;
}

// After a frame: keep the newest rows, put times right.
function settle() {
  for (const rows of document.querySelectorAll("tbody[data-max]")) {
    while (rows.children.length > Number(rows.dataset.max)) rows.lastElementChild.remove();
    localTimes(rows);
  }
  localTimes(document.getElementById("main"));
  icon();
  tick();
}

const tabs = "BroadcastChannel" in window ? new BroadcastChannel("rowcast") : null;

document.addEventListener("DOMContentLoaded", () => {
  const feed = document.getElementById("feed");
  settle();
  setInterval(tick, 1000);
  setInterval(speak, 4000);
  document.getElementById("theme").addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
    setTheme(theme);
    store.set("rowcast-theme", theme);
    toast(theme === "auto" ? "Theme: as the system has it" : `Theme: ${theme}`);
  });
  document.addEventListener("htmx-after-swap", settle);
  document.addEventListener("htmx-sse-after-connection", () => setLive("live"));
  document.addEventListener("htmx-sse-before-message", () => setLive("live"));
  document.addEventListener("htmx-sse-error", () => setLive("offline"));
  document.addEventListener("shutdown", () => setLive("offline", "Restarting"));
  document.addEventListener("done", () => {
    setLive("live", "Up to date");
    speak();
  });
  document.addEventListener("htmx-response-error", async (e) => {
    const answer = e.detail.ctx;
    if (answer.sourceElement !== feed) toast(answer.text || `The server answered ${answer.response.status}.`);
  });
  document.addEventListener("htmx-error", (e) => {
    if (e.detail.ctx?.sourceElement === feed) {
      // the extension does not try again when the very first connection fails
      setLive("offline");
      setTimeout(() => htmx.trigger(feed, "again"), 2000);
    } else {
      toast("The server cannot be reached.");
    }
  });
  // A page at rest has no stream; another tab says when its job goes on.
  document.addEventListener("htmx-after-request", (e) => {
    const path = e.detail.ctx.request.action;
    if (/\/retry$/.test(path) && e.detail.ctx.response.status < 400) tabs?.postMessage(path.replace(/\/retry$/, ""));
  });
  if (tabs) tabs.onmessage = (e) => {
    if (!feed && location.pathname === e.data) location.reload();
  };
});
