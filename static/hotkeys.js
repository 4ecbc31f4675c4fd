// The keys of a page, from the attributes in its HTML (pages/hotkeys.py): data-hotkey is a key, by @github/hotkey;
// data-aim takes the focus instead of a press; data-step goes to the next of data-to, or to the one before.
import { install, uninstall } from "./vendor/hotkey.js";

const byId = (id) => document.getElementById(id);
const map = byId("keys"), on = byId("keys-on");
const OFF = "rowcast-keys";
const stored = () => { try { return localStorage.getItem(OFF); } catch { return null; } };
const keep = (value) => { try { localStorage.setItem(OFF, value); } catch { /* a private window forgets */ } };

// ---- what is on the page has its key, also after a frame has exchanged it
const installed = new Set();
function look() {
  for (const element of installed) {
    if (element.isConnected) continue;
    uninstall(element);
    installed.delete(element);
  }
  for (const element of document.querySelectorAll("[data-hotkey]")) {
    if (installed.has(element)) continue;
    install(element);
    installed.add(element);
  }
}

// ---- the next, or the one before, of what has failed: from where the focus is, or from the item that is open
function step(button) {
  const rows = [...document.querySelectorAll(button.dataset.to)];
  const by = Number(button.dataset.step);
  const all = [...document.querySelectorAll("tr")];
  const from = document.activeElement?.closest("tr") ?? document.querySelector("tr[aria-current]");
  const place = from ? all.indexOf(from) : by > 0 ? -1 : all.length;
  const ahead = rows.filter((row) => by > 0 ? all.indexOf(row) > place : all.indexOf(row) < place);
  const link = ahead.at(by > 0 ? 0 : -1)?.querySelector("a[href]");
  if (!link && !rows.length && byId("tab-failed") && by > 0) return byId("tab-failed").click();
  if (!link) return toast(rows.length ? tr("There is no other that has failed on this page.") : tr("Nothing here has failed."));
  link.focus();
  link.scrollIntoView({ block: "nearest" });
  if (/\/items\/\d+$/.test(location.pathname)) link.click(); // an item is open: this one is, then
}

function open() {
  for (const row of map.querySelectorAll("[data-key]")) {
    const there = [...document.querySelectorAll("[data-hotkey]")].filter((e) => e.dataset.hotkey === row.dataset.key);
    row.hidden = !there.some((e) => !e.disabled && (!e.dataset.step || document.querySelector("#items, tr[id^=job-]")));
  }
  map.showModal();
}

on.checked = stored() !== "off";
on.addEventListener("change", () => keep(on.checked ? "on" : "off"));
byId("keys-open").addEventListener("click", () => (map.open ? map.close() : open()));
byId("key-steps").addEventListener("click", (e) => {
  if (e.target.dataset.step) step(e.target);
  else if (e.target.id === "ago") document.dispatchEvent(new Event("rowcast-ago"));
});
map.addEventListener("click", (e) => { if (e.target === map) map.close(); }); // beside it
document.addEventListener("hotkey-fire", (e) => {
  const is = e.target.id === "keys-open";
  if (!on.checked || (map.open && !is)) e.preventDefault();
  else if ("aim" in e.target.dataset) {
    e.preventDefault();
    e.target.focus();
  }
}, true);
document.addEventListener("htmx-after-swap", look);
look();
