// One stream for all tabs of a browser, which has but six connections to a server. htmx's extension asks for /events as ever;
// here its fetch is answered. One tab, the leader (by Web Locks), holds the stream; the others say over a BroadcastChannel what
// they want, and get their part. Where no frame comes for three pings, or the server has no room (429), the same frames are
// polled. Tabs are told how fresh they are by the event "rowcast-live".
"use strict";

(() => {
  const EVENTS = new URL("../events", document.currentScript.src).pathname;
  const PING = 5000; // the server's; milliseconds
  const SILENCE = 3 * PING; // after which a stream is held back by something
  const POLL = 1000;
  const RETRY = 60000; // a stream is tried again after so long of polling
  const HELD = "something between here and the server holds the stream back, most likely a proxy that buffers";
  const FULL = "the server has too many streams open";
  const direct = window.fetch.bind(window);
  const tab = Math.random().toString(36).slice(2);
  const channel = "BroadcastChannel" in window && navigator.locks ? new BroadcastChannel(`rowcast ${EVENTS}`) : null;
  const mine = new Map(); // this tab's wishes: id -> {id, query, cursor, controller, opened, failed}
  let leader = null; // this tab's Trunk, while it leads
  let following; // a tab that hears nothing of its leader for so long goes alone
  const heard = () => {
    clearTimeout(following);
    if (!leader && mine.size) following = setTimeout(lead, SILENCE + PING);
  };

  const tell = (state, why = "") => document.dispatchEvent(new CustomEvent("rowcast-live", { detail: { state, why } }));
  const bytes = (text) => new TextEncoder().encode(text);
  const lastId = (text, before) => Number([...text.matchAll(/^id: (\d+)/gm)].pop()?.[1] ?? before);

  window.fetch = (input, init = {}) => {
    const url = new URL(input instanceof Request ? input.url : input, location.href);
    const asked = url.pathname === EVENTS && (init.method ?? "GET") === "GET";
    return asked ? open(url, init) : direct(input, init);
  };

  // A wish, as a Response whose body is this tab's part of the stream.
  function open(url, init) {
    const headers = new Headers(init.headers);
    const wish = { id: `${tab}-${Math.random().toString(36).slice(2)}`, tab };
    wish.cursor = Number(headers.get("Last-Event-ID") || url.searchParams.get("cursor") || 0);
    url.searchParams.delete("cursor");
    wish.query = url.searchParams.toString();
    const body = new ReadableStream({
      start: (controller) => { wish.controller = controller; },
      cancel: () => drop(wish),
    });
    init.signal?.addEventListener("abort", () => fail(wish, new DOMException("aborted", "AbortError")));
    return new Promise((resolve, reject) => {
      wish.opened = (date) => {
        if (wish.isOpen) return;
        wish.isOpen = true;
        resolve(new Response(body, { headers: { "Content-Type": "text/event-stream", Date: date } }));
      };
      wish.failed = reject;
      mine.set(wish.id, wish);
      send(wish);
    });
  }

  function send(wish) {
    if (leader) return leader.want(wish);
    channel.postMessage({ type: "want", wish: { id: wish.id, tab, query: wish.query, cursor: wish.cursor } });
    // a leader that is frozen or gone answers nobody: then this tab goes alone until it leads
    clearTimeout(wish.timer);
    wish.timer = setTimeout(() => { if (!leader && mine.has(wish.id)) lead(); }, 3000);
  }
  function drop(wish) {
    mine.delete(wish.id);
    if (leader) leader.forget(wish.id);
    else channel?.postMessage({ type: "forget", id: wish.id });
  }
  function fail(wish, error) {
    if (!mine.has(wish.id)) return;
    drop(wish);
    wish.failed(error);
    try { wish.controller.error(error); } catch { /* it had ended */ }
  }

  // What the leader says of a wish of this tab.
  function take({ id, kind, text, date, state, why }) {
    const wish = mine.get(id);
    if (!wish) return;
    clearTimeout(wish.timer);
    if (kind === "open") {
      wish.opened(date);
      tell(state, why);
    } else if (kind === "text") {
      wish.cursor = lastId(text, wish.cursor);
      wish.controller.enqueue(bytes(text));
    } else if (kind === "end") {
      mine.delete(id);
      wish.failed(new TypeError(why || "the stream has ended"));
      try { wish.controller.close(); } catch { /* it had ended */ }
    }
  }

  // The tab that holds the stream, for all wishes of all tabs.
  class Trunk {
    constructor() {
      this.wishes = new Map();
      this.polling = 0; // until when, by performance.now()
      this.greeted = -PING;
    }
    want(wish) {
      this.wishes.set(wish.id, { id: wish.id, tab: wish.tab, query: wish.query, cursor: wish.cursor });
      this.restart();
    }
    forget(id) {
      if (this.wishes.delete(id)) this.restart();
    }
    say(wish, message) {
      const whole = { id: wish.id, ...message };
      if (wish.tab === tab) take(whole);
      else channel.postMessage({ type: "say", tab: wish.tab, message: whole });
    }
    greet() { // the others hear that this tab is not frozen
      if (performance.now() < this.greeted + PING / 2) return;
      this.greeted = performance.now();
      channel?.postMessage({ type: "alive" });
    }
    restart() {
      clearTimeout(this.again);
      this.again = setTimeout(() => {
        this.abort?.abort();
        if (this.wishes.size) this.run(this.abort = new AbortController());
      }, 30);
    }
    async run(abort) {
      const wishes = [...this.wishes.values()];
      try {
        if (performance.now() < this.polling) await this.poll(abort, wishes);
        else await this.stream(abort, wishes);
      } catch (error) {
        if (abort.signal.aborted) return;
        this.end(wishes, error.message);
      }
    }
    end(wishes, why = "") {
      for (const wish of wishes) {
        if (this.wishes.delete(wish.id)) this.say(wish, { kind: "end", why });
      }
    }
    async stream(abort, wishes) {
      let timer, silent = false;
      const alive = () => {
        this.greet();
        clearTimeout(timer);
        timer = setTimeout(() => { silent = true; inner.abort(); }, SILENCE);
      };
      const inner = new AbortController();
      abort.signal.addEventListener("abort", () => inner.abort());
      alive();
      try {
        const wants = wishes.map((w) => `want=${encodeURIComponent(`${w.id}.${w.cursor}.${w.query}`)}`).join("&");
        const answer = await direct(`${EVENTS}?${wants}`, { signal: inner.signal, headers: { Accept: "text/event-stream" } });
        if (answer.status === 429) return this.fallBack(FULL);
        if (!answer.ok) throw new TypeError(`the server answered ${answer.status}`);
        let opened = false, rest = "";
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return this.end(wishes);
          alive();
          if (!opened) {
            opened = true;
            for (const w of wishes) this.say(w, { kind: "open", state: "live", date: answer.headers.get("Date") });
          }
          const lines = (rest + value).split(/\r?\n/);
          rest = lines.pop();
          for (const line of lines) if (line.startsWith("data: ")) this.part(JSON.parse(line.slice(6)));
        }
      } catch (error) {
        if (!silent) throw error;
        this.fallBack(HELD);
      } finally {
        clearTimeout(timer);
      }
    }
    part({ want, text, ended }) {
      const wish = this.wishes.get(want);
      if (!wish) return;
      wish.cursor = lastId(text, wish.cursor);
      if (ended) this.wishes.delete(want);
      this.say(wish, { kind: "text", text });
      if (ended) this.say(wish, { kind: "end" });
    }
    fallBack(why) {
      this.polling = performance.now() + RETRY;
      this.why = why;
      this.restart();
    }
    async poll(abort, wishes) {
      for (const w of wishes) this.say(w, { kind: "open", state: "polling", why: this.why, date: new Date().toUTCString() });
      while (!abort.signal.aborted && this.wishes.size) {
        this.greet();
        for (const wish of [...this.wishes.values()]) {
          const answer = await direct(`${EVENTS}?${wish.query}&poll=1&cursor=${wish.cursor}`, { signal: abort.signal });
          if (answer.status === 200) this.part({ want: wish.id, text: await answer.text(), ended: answer.headers.has("Rowcast-Ended") });
          else if (answer.status === 404) this.part({ want: wish.id, text: "event: done\ndata: {}\n\n", ended: true });
          else if (answer.status !== 304) throw new TypeError(`the server answered ${answer.status}`);
        }
        await new Promise((go) => setTimeout(go, POLL));
        if (performance.now() > this.polling) return this.restart();
      }
    }
  }

  function lead() {
    if (leader) return;
    leader = new Trunk();
    for (const wish of mine.values()) leader.want(wish);
    channel?.postMessage({ type: "leads" });
  }
  if (channel) {
    channel.onmessage = ({ data }) => {
      if (data.type === "alive" || data.type === "say") heard();
      if (data.type === "want" && leader) leader.want(data.wish);
      else if (data.type === "forget" && leader) leader.forget(data.id);
      else if (data.type === "say" && data.tab === tab) take(data.message);
      else if (data.type === "leads") for (const wish of mine.values()) if (!leader) send(wish);
    };
    navigator.locks.request(`rowcast ${EVENTS}`, () => {
      lead();
      return new Promise(() => {}); // until this tab closes
    });
    addEventListener("pagehide", () => { for (const wish of [...mine.values()]) drop(wish); });
  } else {
    lead();
  }
})();
