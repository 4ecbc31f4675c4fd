// The picker: a word finds a task, arrows choose one, Enter opens its form, Escape closes it (its key: hotkeys.js).
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const picker = document.getElementById("start");
  if (!picker) return;
  const find = document.getElementById("find-pick"), picks = [...picker.querySelectorAll(".pick")];
  const shown = () => picks.filter((pick) => !pick.hidden);
  const button = picker.querySelector("summary");
  let wasEmpty = !document.querySelector("#jobs > [id^=job-]");

  function narrow() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const pick of picks) pick.hidden = !words.every((word) => pick.dataset.find.includes(word));
    document.getElementById("no-pick").hidden = shown().length > 0 || !picks.length;
  }
  function open(pick) {
    pick.open = true;
    (pick.querySelector(".start .fields :is(input:not([type=hidden]), select, textarea)") ??
      pick.querySelector(".start .primary")).focus();
  }
  function close() {
    picker.open = false;
    button.focus();
  }
  find?.addEventListener("input", narrow);
  button.addEventListener("click", () => { // by a press, by Enter, by its key
    if (!picker.open && matchMedia("(hover: hover)").matches) setTimeout(() => (find ?? picks[0]?.firstElementChild)?.focus());
  });
  picker.addEventListener("keydown", (e) => {
    if (e.key === "Escape") {
      e.preventDefault();
      return close();
    }
    const places = [find, ...shown().map((pick) => pick.firstElementChild)].filter(Boolean);
    const at = places.indexOf(document.activeElement);
    if (at < 0) return;
    if (e.key === "Enter" && places[at] === find && shown().length) {
      e.preventDefault();
      open(shown()[0]);
    } else if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      places[at + (e.key === "ArrowDown" ? 1 : -1)]?.focus();
    }
  });
  // open over an empty list, it makes room for the first row, unless somebody is at it
  document.addEventListener("htmx-after-swap", () => {
    const isEmpty = !document.querySelector("#jobs > [id^=job-]"), atIt = picker.querySelector(".pick[open]") || find?.value;
    if (wasEmpty && !isEmpty && !atIt) picker.open = false;
    wasEmpty = isEmpty;
  });
  document.addEventListener("pointerdown", (e) => { // beside it: what was typed stays
    if (picker.open && !picker.contains(e.target) && picks.length && document.querySelector("#jobs > [id^=job-]")) {
      picker.open = false;
    }
  });
});
