// News of jobs, on every page: that one has ended, or waits for a person. A toast says so on each page that does
// not show the job itself, and the browser's own notification where its user wants to be told of this job. News
// come as one more want of the stream that all tabs share (stream.js). The tab that holds it shows a
// notification for all of them; what a click on that does is in service.js.
"use strict";

(() => {
  const script = document.currentScript.src;
  const EVENTS = new URL("../events", script).pathname;
  const SERVICE = new URL("service.js", script).pathname;
  const MOST = 3; // toasts at once
  const STAYS = 8000; // milliseconds that one is seen; what failed or waits stays until it is closed
  const LOOK = 500; // milliseconds between two looks at them
  const LATEST = 30000; // milliseconds at most until a stream that broke is asked for again
  const HEED = 300; // milliseconds in which a tab can say that its user is looking at the job
  const KEPT = 200; // jobs of which a browser remembers that it is to tell
  const seen = new Set(); // keys of news that this page knows
  const looked = new Set(); // of those, the ones of a job that is being looked at
  const sleep = (wait) => new Promise((go) => setTimeout(go, wait));
  const channel = "BroadcastChannel" in window ? new BroadcastChannel(`rowcast news ${EVENTS}`) : null;

  async function listen(cursor) {
    for (let wait = 1000; ; wait = Math.min(2 * wait, LATEST)) {
      try {
        const answer = await fetch(`${EVENTS}?view=news&cursor=${cursor}`);
        document.body.dataset.news = "live";
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          wait = 1000;
          const lines = (rest + value).split(/\r?\n/);
          rest = lines.pop();
          for (const line of lines) {
            if (line === "event: auth") signOut();
            else if (line.startsWith("id: ")) cursor = line.slice(4);
            else if (line.startsWith("data: ")) hear(JSON.parse(line.slice(6)));
          }
        }
      } catch (error) {
        if (signedOut || /nobody is signed in/.test(error.message)) signOut();
      }
      document.body.dataset.news = "offline";
      await sleep(wait);
      while (signedOut) await sleep(LOOK); // until the page has come back, and then from where it was
    }
  }
  function hear(news) {
    if (!news.key || seen.has(news.key)) return;
    seen.add(news.key);
    if (location.pathname !== news.url) show(news);
    else if (document.hasFocus()) {
      looked.add(news.key);
      channel?.postMessage({ looked: news.key });
    }
    if (window.rowcastLeads() && wants().includes(news.job)) notify(news);
  }

  // ---- toasts
  const toasts = () => [...document.querySelectorAll("#toasts .toast")]; // none before the page has its body
  const lasts = (box) => ["failed", "paused"].includes(box.dataset.look);
  function show({ key, job, look, title, text, url }) {
    toasts().find((box) => box.dataset.job === String(job))?.remove();
    put({ key, job, look }, title, text, url);
    fold();
  }
  function put(data, title, text, url) {
    const box = byId("toast").content.firstElementChild.cloneNode(true);
    Object.assign(box.dataset, data, { left: STAYS });
    const link = box.querySelector("a");
    link.href = url;
    link.textContent = title;
    box.querySelector("p > span").textContent = text;
    box.querySelector("button").addEventListener("click", () => close(box));
    box.addEventListener("keydown", (e) => { if (e.key === "Escape") close(box); });
    byId("toasts").append(box);
    return box;
  }
  // More than a few are counted in the first one, which is about none of them.
  function fold() {
    const all = toasts();
    if (all.length <= MOST) return;
    const more = all.find((box) => box.dataset.more);
    const others = all.filter((box) => box !== more);
    const gone = more ? [others.find((box) => !lasts(box)) ?? others[0]] : others.slice(0, 2);
    const number = Number(more?.dataset.more ?? 0) + gone.length;
    const look = [more, ...gone].some((box) => box && lasts(box)) ? "failed" : "completed";
    for (const box of [more, ...gone]) box?.remove();
    const title = tr("{number} more", { number });
    const made = put({ key: "more", more: number, look }, title, tr("have ended, or wait for you."),
      `${document.body.dataset.base}/`);
    byId("toasts").prepend(made);
  }
  function close(box, told = true) {
    const next = box.nextElementSibling ?? box.previousElementSibling;
    const focused = box.contains(document.activeElement);
    box.remove();
    if (focused) (next?.querySelector("button") ?? byId("main")).focus({ preventScroll: true });
    if (told) channel?.postMessage({ closed: box.dataset.key });
  }
  // what nobody has seen, or is about to press, does not go away
  function look() {
    if (document.hidden) return;
    for (const box of toasts()) {
      if (lasts(box) || box.matches(":hover, :focus-within")) continue;
      box.dataset.left -= LOOK;
      if (box.dataset.left <= 0) close(box);
    }
  }
  if (channel) {
    channel.onmessage = ({ data }) => {
      if (data.looked) looked.add(data.looked);
      for (const box of toasts()) if (box.dataset.key === data.closed) close(box, false);
    };
  }

  // ---- the browser's own notification
  const WANTS = `rowcast-tell ${EVENTS}`;
  const wants = () => JSON.parse(store.get(WANTS) ?? "[]");
  function want(job, is) {
    const others = wants().filter((other) => other !== job);
    store.set(WANTS, JSON.stringify((is ? [...others, job] : others).slice(-KEPT)));
  }
  const NO_WAY =
    tr("This browser shows notifications only for pages that it has by https, or from its own machine.");
  const DENIED = tr("This browser is told not to show notifications of this address. Its settings can allow them.");
  const UNSAID = tr("You have not said yes to the browser's question.");
  const TELLS = tr("This browser tells you, as long as a page of Rowcast is open in it.");
  const allowed = () => "Notification" in window && Notification.permission === "granted";

  // What shows notifications, once it is ready to.
  async function service() {
    const made = await navigator.serviceWorker.register(trusted.createScriptURL(SERVICE));
    const worker = made.active ?? made.waiting ?? made.installing;
    if (worker.state !== "activated") {
      await new Promise((go) => worker.addEventListener("statechange", () => {
        if (worker.state === "activated") go();
      }));
    }
    return made;
  }
  // Why this browser cannot tell; "" if it can. Asked on a click alone.
  async function refusal() {
    if (!isSecureContext || !("Notification" in window) || !navigator.serviceWorker) return NO_WAY;
    const said = await Notification.requestPermission();
    if (said !== "granted") return said === "denied" ? DENIED : UNSAID;
    await service();
    return "";
  }
  async function notify({ key, job, look, title, text, url }) {
    if (look !== "paused") want(job, false);
    await sleep(HEED);
    if (looked.has(key) || !allowed()) return;
    const shown = { body: text, tag: `rowcast ${job}`, data: { url: new URL(url, location.href).href } };
    await (await service()).showNotification(title, shown);
  }

  // ---- Web Push, where the server has it: also when no page is open
  const PUSH = new URL("../api/push", script).pathname;
  const BROWSER = `rowcast-browser ${EVENTS}`; // under which this browser is known as a receiver
  const PASSED_ON =
    tr("The maker of this browser passes the message on. It is sealed for this browser: the maker sees that there is one.");
  const json = async (url, method, body) => {
    const how = { method, headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body) };
    const answer = await fetch(url, how);
    if (!answer.ok) throw new TypeError((await answer.json()).error);
    return answer.json();
  };
  const pushKey = async () => ("PushManager" in window ? (await json(PUSH, "GET")).key : null);
  // What this browser is called as a receiver. Its maker is asked for an address on a click alone.
  async function receiver() {
    const { pushManager } = await service();
    const how = { userVisibleOnly: true, applicationServerKey: await pushKey() };
    const yes = (await pushManager.getSubscription()) ?? (await pushManager.subscribe(how));
    const { to } = await json(PUSH, "POST", yes);
    store.set(BROWSER, to);
    return to;
  }
  // The fields that name a browser: one that is named already, and one that is by now.
  const NAMED = "input[data-browser], input[name=notify-push]";
  const browserOf = (field) => field.dataset.browser ?? field.value;
  // A job has this browser among those that it tells, or no more; a form says it when it is sent.
  async function name(place, job, to, is) {
    const form = place.closest("form");
    for (const field of form.querySelectorAll(NAMED)) {
      if (browserOf(field) === to) (field.closest("label") ?? field).remove();
    }
    const rule = { channel: "push", to };
    if (is) {
      const field = Object.assign(document.createElement("input"), { type: "hidden", name: "notify-push" });
      field.value = to;
      place.append(field);
    }
    if (!job) return;
    const notify = new URL(`../api/jobs/${job}/notify`, script).pathname;
    const others = (await json(notify, "GET")).notify.filter((one) => one.to !== to);
    await json(notify, "PUT", { notify: is ? [...others, rule] : others });
  }
  function offerPush(place, job, say) {
    const box = place.querySelector("[data-push]");
    const fields = [...(place.closest("form")?.querySelectorAll(NAMED) ?? [])];
    box.checked = fields.some((field) => browserOf(field) === store.get(BROWSER));
    box.addEventListener("change", async () => {
      say(box.checked ? PASSED_ON : "");
      try {
        await name(place, job, box.checked ? await receiver() : store.get(BROWSER), box.checked);
      } catch (error) {
        box.checked = false;
        say(tr("This browser cannot be told so: {why}", { why: error.message }));
      }
    });
    return async () => { box.parentElement.hidden = !place.closest("form") || !(await pushKey()); };
  }

  function offer(place) {
    const box = place.querySelector("[data-tell]"), said = place.querySelector("[role=status]");
    const job = Number(box.dataset.tell);
    place.hidden = false;
    box.checked = allowed() && wants().includes(job);
    const more = offerPush(place, job, (text) => { said.textContent = text; });
    if (box.checked) {
      said.textContent = TELLS;
      more();
    }
    box.addEventListener("change", async () => {
      said.textContent = "";
      const no = box.checked ? await refusal() : "";
      if (no) box.checked = false;
      said.textContent = no || (box.checked ? TELLS : "");
      if (job) want(job, box.checked);
      if (box.checked) more();
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll(".tell-here")) offer(place);
    // what a form with a tick has started
    document.addEventListener("htmx-after-request", (e) => {
      const { sourceElement, hx } = e.detail.ctx;
      const made = hx?.redirect?.match(/\/jobs\/(\d+)$/);
      if (made && sourceElement.querySelector?.(".tell-here [data-tell]:checked")) want(Number(made[1]), true);
    });
    if (!document.body.dataset.seq) return;
    setInterval(look, LOOK);
    listen(document.body.dataset.seq);
  });
})();
