// One stream for all tabs of a browser, which has but six connections to a server. htmx's extension asks for
// /events as ever; here its fetch is answered. One tab, the leader, holds the stream; the others say over a
// BroadcastChannel what they want, and get their part. The leader has the Web Lock; where a browser has none
// (at an http address that is not loopback), or its holder is mute, a tab leads by itself, and of several the
// one of the least rank stays. Where a stream is silent and the server answers all the same, or has no room
// (429), the same frames are polled. Tabs are told how fresh they are by the event "rowcast-live".
"use strict";

(() => {
  const EVENTS = new URL("../events", document.currentScript.src).pathname;
  const PING = 5000; // the server's; milliseconds
  const QUIET = 2 * PING; // of a stream; then the server is asked whether it hears, and has a PING to answer
  const MUTE = 2 * PING; // of a leader; then its tabs do without it
  const POLL = 1000;
  const RETRY = 60000; // a stream is tried again after so long of polling
  const HELD =
    tr("something between here and the server holds the stream back, most likely a proxy that buffers");
  const FULL = tr("the server has too many streams open");
  const LOST = "the server does not answer";
  const OUT = "nobody is signed in here";
  const direct = window.fetch.bind(window);
  const tab = Math.random().toString(36).slice(2);
  const NAME = `rowcast ${EVENTS}`; // of the channel and of the lock
  const channel = "BroadcastChannel" in window ? new BroadcastChannel(NAME) : null;
  // how long a tab waits for a leader to take what it wants; without locks there may well be none yet
  const HEED = navigator.locks ? 3000 : 200 + 200 * Math.random();
  const mine = new Map(); // what this tab wants: id -> {id, query, cursor, controller, opened, failed}
  let leader = null; // this tab's Leader, while it leads
  let following; // a tab that hears nothing of its leader for MUTE leads itself
  const follow = () => {
    clearTimeout(following);
    if (!leader && mine.size) following = setTimeout(lead, MUTE);
  };

  window.rowcastLeads = () => leader !== null; // of several tabs, one at a time
  const tell = (state, why = "") => {
    document.dispatchEvent(new CustomEvent("rowcast-live", { detail: { state, why } }));
  };
  const bytes = (text) => new TextEncoder().encode(text);
  const lastId = (text, before) => Number([...text.matchAll(/(?:^|\n)id: (\d+)/g)].pop()?.[1] ?? before);

  window.fetch = (input, init = {}) => {
    const url = new URL(input instanceof Request ? input.url : input, location.href);
    const asked = url.pathname === EVENTS && (init.method ?? "GET") === "GET";
    return asked ? open(url, init) : direct(input, init);
  };

  // What this tab wants, as a Response whose body is its part of the stream.
  function open(url, init) {
    const headers = new Headers(init.headers);
    const want = { id: `${tab}-${Math.random().toString(36).slice(2)}`, tab };
    want.cursor = Number(headers.get("Last-Event-ID") || url.searchParams.get("cursor") || 0);
    url.searchParams.delete("cursor");
    want.silent = url.searchParams.get("view") === "news"; // how fresh the page is, is not said by this one
    if (document.querySelector("#banner")?.textContent) url.searchParams.set("said", "1"); // perhaps by a server before
    want.query = url.searchParams.toString();
    const body = new ReadableStream({
      start: (controller) => { want.controller = controller; },
      cancel: () => drop(want),
    });
    init.signal?.addEventListener("abort", () => fail(want, new DOMException("aborted", "AbortError")));
    return new Promise((resolve, reject) => {
      want.opened = (date) => {
        if (want.isOpen) return;
        want.isOpen = true;
        resolve(new Response(body, { headers: { "Content-Type": "text/event-stream", Date: date } }));
      };
      want.failed = reject;
      mine.set(want.id, want);
      send(want);
    });
  }

  function send(want) {
    if (leader) return leader.add(want);
    channel.postMessage({ type: "want", want: { id: want.id, tab, query: want.query, cursor: want.cursor } });
    clearTimeout(want.timer);
    want.timer = setTimeout(() => { if (!leader && mine.has(want.id)) lead(); }, HEED);
  }
  function drop(want) {
    mine.delete(want.id);
    if (leader) leader.forget(want.id);
    else channel?.postMessage({ type: "forget", id: want.id });
  }
  function fail(want, error) {
    if (!mine.has(want.id)) return;
    drop(want);
    want.failed(error);
    try { want.controller.error(error); } catch { /* it had ended */ }
  }

  // What the leader says of something that this tab wants.
  function hear({ id, kind, text, date, state, why }) {
    const want = mine.get(id);
    if (!want) return;
    clearTimeout(want.timer);
    if (kind === "open") {
      want.opened(date);
      if (!want.silent) tell(state, why);
    } else if (kind === "text") {
      want.cursor = lastId(text, want.cursor);
      want.controller.enqueue(bytes(text));
    } else if (kind === "end") {
      mine.delete(id);
      if (why === OUT) tell("signed-out", why);
      else if (why && !want.silent) tell("offline", why);
      want.failed(new TypeError(why || "the stream has ended"));
      try { want.controller.close(); } catch { /* it had ended */ }
    }
  }

  // An answer and its text, or an error where they take longer than a ping.
  async function ask(query, signal) {
    const inner = new AbortController();
    const stop = () => inner.abort();
    const timer = setTimeout(stop, PING);
    signal.addEventListener("abort", stop);
    try {
      const answer = await direct(`${EVENTS}?${query}`, { signal: inner.signal, redirect: "manual" });
      return { answer, text: await answer.text() };
    } catch (error) {
      throw signal.aborted ? error : new TypeError(LOST);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    }
  }
  // Whether an answer is none of the stream's: nobody is signed in, or a sign-in's page has come in its place.
  const isOther = (answer, kind) => answer.status === 401 || answer.type === "opaqueredirect" ||
    (answer.status === 200 && !answer.headers.get("Content-Type")?.startsWith(kind));
  const pollOf = (want) => `${want.query}&poll=1&cursor=${want.cursor}`;
  const sleep = (wait) => new Promise((go) => setTimeout(go, wait));

  // The tab that holds the stream, for all that all tabs want.
  class Leader {
    constructor() {
      this.wants = new Map();
      this.polling = 0; // until when, by performance.now()
      this.rank = tab;
      this.beatAt = -PING;
      this.beating = setInterval(() => this.beat(), PING / 2);
    }
    leave() {
      clearInterval(this.beating);
      clearTimeout(this.again);
      this.abort?.abort();
      this.wants.clear();
    }
    add(want) {
      this.wants.set(want.id, { id: want.id, tab: want.tab, query: want.query, cursor: want.cursor });
      this.restart();
    }
    forget(id) {
      if (this.wants.delete(id)) this.restart();
    }
    say(want, message) {
      const whole = { id: want.id, ...message };
      if (want.tab === tab) hear(whole);
      else channel.postMessage({ type: "say", tab: want.tab, message: whole });
    }
    beat() { // the others hear that this tab is not frozen
      if (performance.now() < this.beatAt + PING / 4) return;
      this.beatAt = performance.now();
      channel?.postMessage({ type: "alive", rank: this.rank });
    }
    restart() {
      clearTimeout(this.again);
      this.again = setTimeout(() => {
        this.abort?.abort();
        if (this.wants.size) this.serve(this.abort = new AbortController());
      }, 30);
    }
    async serve(abort) {
      const wants = [...this.wants.values()];
      try {
        if (performance.now() < this.polling) await this.poll(abort);
        else await this.stream(abort, wants);
      } catch (error) {
        if (abort.signal.aborted) return;
        this.end(wants, error.message);
      }
    }
    end(wants, why = "") {
      for (const want of wants) {
        if (this.wants.delete(want.id)) this.say(want, { kind: "end", why });
      }
    }
    async stream(abort, wants) {
      let timer, verdict, heard = 0;
      const inner = new AbortController();
      abort.signal.addEventListener("abort", () => inner.abort());
      // a stream is silent: is the server too, or does something hold the stream back?
      const doubt = async () => {
        const before = heard;
        const answers = await this.answers(wants[0], inner.signal);
        if (answers) await sleep(PING); // of one that has just woken up, the frames may still be under way
        if (heard !== before || inner.signal.aborted) return;
        verdict = answers ? HELD : LOST;
        inner.abort();
      };
      const alive = () => {
        heard += 1;
        this.beat();
        clearTimeout(timer);
        timer = setTimeout(doubt, QUIET);
      };
      alive();
      try {
        const query = new URLSearchParams(wants.map((w) => ["want", `${w.id}.${w.cursor}.${w.query}`]));
        const headers = { Accept: "text/event-stream" };
        const answer = await direct(`${EVENTS}?${query}`, { signal: inner.signal, headers, redirect: "manual" });
        if (isOther(answer, "text/event-stream")) throw new TypeError(OUT);
        if (answer.status === 429) return this.fallBack(FULL);
        if (!answer.ok) throw new TypeError(`the server answered ${answer.status}`);
        let opened = false, rest = "";
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return this.end(wants);
          alive();
          if (!opened) {
            opened = true;
            const date = answer.headers.get("Date");
            for (const want of wants) this.say(want, { kind: "open", state: "live", date });
          }
          const lines = (rest + value).split(/\r?\n/);
          rest = lines.pop();
          for (const line of lines) if (line.startsWith("data: ")) this.part(JSON.parse(line.slice(6)));
        }
      } catch (error) {
        if (!verdict) throw error;
        if (verdict === LOST) throw new TypeError(LOST);
        this.fallBack(HELD);
      } finally {
        clearTimeout(timer);
      }
    }
    async answers(want, signal) {
      try {
        return (await ask(pollOf(want), signal)).answer.status < 500; // of a proxy, that nobody is behind it
      } catch {
        return false;
      }
    }
    part({ want: id, text, ended }) {
      const want = this.wants.get(id);
      if (!want) return;
      want.cursor = lastId(text, want.cursor);
      if (ended) this.wants.delete(id);
      this.say(want, { kind: "text", text });
      if (ended) this.say(want, { kind: "end" });
    }
    fallBack(why) {
      this.polling = performance.now() + RETRY;
      this.why = why;
      this.restart();
    }
    async poll(abort) {
      const opened = new Set();
      while (!abort.signal.aborted && this.wants.size) {
        for (const want of [...this.wants.values()]) {
          const { answer, text } = await ask(pollOf(want), abort.signal);
          if (isOther(answer, "text/plain")) throw new TypeError(OUT);
          const { status } = answer;
          const ended = status === 404 || answer.headers.has("Rowcast-Ended");
          if (![200, 304, 404].includes(status)) throw new TypeError(`the server answered ${status}`);
          const date = answer.headers.get("Date");
          if (!opened.has(want.id)) this.say(want, { kind: "open", state: "polling", why: this.why, date });
          opened.add(want.id);
          if (status === 200) this.part({ want: want.id, text, ended });
          else if (status === 404) this.part({ want: want.id, text: "event: done\ndata: {}\n\n", ended });
        }
        await sleep(POLL);
        if (performance.now() > this.polling) return this.restart();
      }
    }
  }

  function lead() {
    if (leader) return;
    leader = new Leader();
    leader.beat();
    for (const want of mine.values()) leader.add(want);
    channel?.postMessage({ type: "leads" });
  }
  function meet(rank) { // another that leads
    if (leader.rank <= rank) return leader.beat();
    leader.leave();
    leader = null;
    for (const want of mine.values()) send(want);
  }
  const sendAll = () => { if (!leader) for (const want of mine.values()) send(want); };
  if (channel) {
    channel.onmessage = ({ data }) => {
      if (data.type === "alive" && leader) meet(data.rank);
      if (data.type === "alive" || data.type === "say") follow();
      if (data.type === "want" && leader) {
        leader.say(data.want, { kind: "taken" });
        leader.add(data.want);
      } else if (data.type === "forget" && leader) leader.forget(data.id);
      else if (data.type === "say" && data.tab === tab) hear(data.message);
      else if (data.type === "leads" || data.type === "gone") sendAll();
    };
    navigator.locks?.request(NAME, () => {
      lead();
      leader.rank = ""; // it is less than any
      return new Promise(() => {}); // until this tab closes
    });
    addEventListener("pagehide", () => {
      for (const want of [...mine.values()]) drop(want);
      leader?.leave();
      if (leader) channel.postMessage({ type: "gone" });
      channel.close(); // a page that goes takes what others want no more
    });
    addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
  } else {
    lead();
  }
})();
