// The figures of a picture: what its bar's title says stands on the line below it, for a pointer and, by the
// arrow keys, for a keyboard. The pictures are exchanged while somebody looks: which bar it is, is kept.
"use strict";

const pointedAt = new Map(); // a chart's id -> the number of the bar that is pointed at

function point(chart, number) {
  const bars = chart.querySelectorAll("svg rect");
  const figure = chart.querySelector(".figure");
  for (const bar of chart.querySelectorAll(".pointed")) bar.classList.remove("pointed");
  const bar = bars[number];
  if (bar) {
    bar.classList.add("pointed");
    pointedAt.set(chart.id, number);
  } else pointedAt.delete(chart.id);
  const title = bar?.querySelector("title");
  if (bar?.dataset.at) { // the viewer's own time
    const at = new Date(bar.dataset.at * 1000).toLocaleTimeString("en-GB");
    title.textContent = title.textContent.replace(/^\d\d:\d\d:\d\d(?: UTC)?/, at);
  }
  const said = title?.textContent ?? "";
  if (figure.textContent !== said) figure.textContent = said;
}

function pointAgain() {
  for (const [id, number] of pointedAt) {
    const chart = document.getElementById(id);
    if (chart) point(chart, number);
  }
}

const chartOf = (e) => e.target.closest?.(".chart");
const isPicture = (e) => e.target.closest?.(".chart svg");

document.addEventListener("pointerover", (e) => {
  const chart = chartOf(e), bar = e.target.closest?.("rect");
  if (chart && bar) point(chart, [...chart.querySelectorAll("svg rect")].indexOf(bar));
});
document.addEventListener("focusin", (e) => {
  const chart = chartOf(e);
  if (isPicture(e) && !pointedAt.has(chart.id)) point(chart, chart.querySelectorAll("svg rect").length - 1);
});
document.addEventListener("focusout", (e) => { if (isPicture(e)) point(chartOf(e), -1); });
document.addEventListener("pointerout", (e) => {
  const chart = chartOf(e);
  if (chart && !chart.contains(e.relatedTarget) && !chart.contains(document.activeElement)) point(chart, -1);
});
document.addEventListener("keydown", (e) => {
  if (!isPicture(e)) return;
  const chart = chartOf(e), last = chart.querySelectorAll("svg rect").length - 1, at = pointedAt.get(chart.id) ?? last;
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[e.key];
  if (to === undefined) return;
  e.preventDefault();
  point(chart, Math.min(Math.max(to, 0), last));
});
document.addEventListener("htmx-after-swap", pointAgain);
