"use strict";
// Charts, copying, and live parts that stay still while somebody reads or types in them. Everything else is HTML.
(() => {
  const say = (text) => { document.getElementById("said").textContent = text; };

  const draw = (place) => {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const { names, columns } = JSON.parse(place.dataset.chart);
    const colour = (name) => { place.style.color = `var(${name})`; const found = getComputedStyle(place).color; place.style.color = ""; return found; };
    const colours = ["--link", "--policy", "--evidence", "--person", "--tool", "--model"].map(colour);
    const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const series = names.map((label, i) => ({ label, stroke: colours[i % colours.length], width: 2, points: { show: columns[0].length < 40 } }));
    const size = () => ({ width: Math.max(place.clientWidth, 200), height: 190 });
    const plot = new uPlot({ ...size(), tzDate: (at_s) => uPlot.tzDate(new Date(at_s * 1000), "UTC"), series: [{}, ...series], axes: [axis, { ...axis, size: 64 }], legend: { show: names.length > 1 }, scales: { y: { range: (_, low, high) => [Math.min(0, low), high || 1] } } }, columns, place);
    new ResizeObserver(() => plot.setSize(size())).observe(place);
  };
  const drawAll = () => document.querySelectorAll(".chart").forEach(draw);

  const isRead = (part) => {
    const selection = getSelection();
    return part.contains(document.activeElement) || part.querySelector("details[open]") ||
      (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.classList.contains("live") && isRead(event.target)) event.preventDefault();
  });
  document.addEventListener("htmx:afterSettle", drawAll);
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) location.reload();
    else say(`The page could not be renewed (${event.detail.xhr.status}).`);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
      say("Copied.");
      button.textContent = "Copied";
    } catch {
      say("Copying was not allowed: select the text below.");
    }
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = document.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  });
  document.addEventListener("DOMContentLoaded", drawAll);
  if (document.readyState !== "loading") drawAll();
})();
