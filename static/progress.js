// One job's progress in a page of somebody else's: each element with `data-source` follows the stream of that
// address. Loaded once or many times, for all that the page has by then.
"use strict";

(() => {
  // where a page asks for Trusted Types it allows this policy: `trusted-types rowcast-progress`; made once for it
  const trusted = (window.rowcastProgress ??=
    window.trustedTypes?.createPolicy("rowcast-progress", { createHTML: (text) => text }) ?? { createHTML: (text) => text });
  const partOf = (box, name) => box.querySelector(`[data-part="${name}"]`);

  // What has changed is put in place; where the focus is, nothing is taken away but for its end.
  function draw(box, html, ended) {
    const fresh = new DOMParser().parseFromString(trusted.createHTML(html), "text/html").body;
    if (!partOf(box, "said")) box.replaceChildren(); // the first that is drawn of it
    for (const part of [...fresh.children]) {
      const shown = partOf(box, part.dataset.part);
      if (!shown) box.append(part);
      else if (ended || !shown.contains(document.activeElement)) {
        if (shown.outerHTML !== part.outerHTML) shown.replaceWith(part);
      }
    }
    offer(box);
  }
  function offer(box) {
    for (const button of box.querySelectorAll("button[data-post]")) {
      button.hidden = false;
      button.onclick = async () => {
        button.disabled = true;
        try {
          const answer = await fetch(button.dataset.post, { method: "POST", headers: { "HX-Request": "true" } });
          if (!answer.ok) throw new TypeError(String(answer.status));
          button.blur();
        } catch {
          button.disabled = false;
        }
      };
    }
  }
  function follow(box) {
    let source = null, over = false;
    const open = () => {
      if (source || over || document.hidden) return;
      source = new EventSource(box.dataset.source);
      source.onmessage = (e) => draw(box, e.data, e.data.includes("data-ended"));
      source.addEventListener("done", () => {
        over = true;
        close();
        box.dataset.live = "done";
      });
      source.onopen = () => { box.dataset.live = "live"; };
      source.onerror = () => {
        box.dataset.live = "offline";
        if (source?.readyState !== EventSource.CLOSED) return;
        close();
        (partOf(box, "said") ?? box).textContent = box.dataset.gone;
      };
    };
    const close = () => {
      source?.close();
      source = null;
    };
    offer(box);
    open();
    // a browser has but six connections to a server
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    addEventListener("pagehide", close);
    addEventListener("pageshow", open);
  }
  function followAll() {
    for (const box of document.querySelectorAll(".rowcast-progress[data-source]:not([data-live])")) {
      box.dataset.live = "offline";
      follow(box);
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", followAll);
  followAll();
})();
