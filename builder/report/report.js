"use strict";
// Data made by builder/report/report.py; numbers are the library's own, float32 and float64.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// ---- table of episodes: filter, sort, one page of rows at a time ----
const ROWS_SHOWN = 200;
const NUMBERS = new Set([2, 4, 6, 7, 8]);
document.querySelectorAll("#episodes th").forEach((head, index) => {
  if (NUMBERS.has(index)) head.className = "number";
});
// A column of one value says nothing by row: it is said once, above the table.
const heads = [...document.querySelectorAll("#episodes th")];
const alike = new Set(data.rows.length < 2 ? [] : heads.keys());
for (const row of data.rows) {
  for (const index of alike) if (row[index] !== data.rows[0][index]) alike.delete(index);
}
heads.forEach((head, index) => { head.hidden = alike.has(index); });
const told = [...alike].filter((index) => data.rows[0][index] !== "")
  .map((index) => `${heads[index].textContent} ${data.rows[0][index]}`);
$("same").textContent = told.length ? `The same in every row: ${told.join(", ")}.` : "";
const table = { rows: data.rows, column: 0, down: false };
function drawTable() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = table.rows.filter((row) => {
    const text = row.join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const sign = table.down ? -1 : 1;
  // Numbers by value, whole ones within words too: 48 x 64 before 128 x 64.
  const numbers = (...both) => both.every((cell) => typeof cell === "number");
  const order = (a, b) => sign * (numbers(a, b) ? a - b :
    String(a).localeCompare(String(b), "en", { numeric: true }));
  found.sort((a, b) => order(a[table.column], b[table.column]));
  const body = $("episodes").tBodies[0];
  body.replaceChildren(...found.slice(0, ROWS_SHOWN).map((row) => {
    const line = document.createElement("tr");
    row.forEach((cell, index) => {
      const td = line.insertCell();
      td.textContent = cell;
      td.hidden = alike.has(index);
      if (NUMBERS.has(index)) td.className = "number";
    });
    return line;
  }));
  const more = found.length > ROWS_SHOWN ? `, the first ${ROWS_SHOWN} shown` : "";
  $("found").textContent = `${found.length} of ${table.rows.length} rows${more}`;
  document.querySelectorAll("#episodes th").forEach((head, index) => {
    const state = index !== table.column ? "none" : table.down ? "descending" : "ascending";
    head.setAttribute("aria-sort", state);
  });
}
document.querySelectorAll("#episodes th button").forEach((button, index) => {
  button.addEventListener("click", () => {
    table.down = table.column === index && !table.down;
    table.column = index;
    drawTable();
  });
});
$("search").addEventListener("input", drawTable);
drawTable();

// ---- player ----
const TRAIL = 8;
const state = { episode: null, at: 0, picked: null, timer: null };

function open(index) {
  const episode = data.episodes[index];
  for (const view of episode.views) {
    if (view.images) continue;
    view.images = view.frames.map((frame) => {
      const image = new Image();
      image.onload = draw;
      image.src = "data:image/jpeg;base64," + frame;
      return image;
    });
    view.points = new Float32Array(bytes(view.tracks).buffer);
    view.seen = bytes(view.vis);
    delete view.tracks;
    delete view.vis;
  }
  Object.assign(state, { episode, at: 0, picked: null });
  $("scrub").max = episode.starts.length * episode.horizon - 1;
  const names = ["all views", ...episode.views.map((view) => view.name)];
  $("view").replaceChildren(...names.map((name) => new Option(name)));
  layout();
}

function layout() {
  const chosen = $("view").selectedIndex;
  const views = state.episode.views.filter((_, index) => !chosen || index === chosen - 1);
  $("stage").replaceChildren(...views.map((view) => {
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Tracks over ${view.name}; click a point to follow it`);
    canvas.addEventListener("click", (event) => pick(view, canvas, event));
    view.canvas = canvas;
    return canvas;
  }));
  state.shown = views;
  if (state.picked && !views.includes(state.picked.view)) state.picked = null;
  draw();
}

// The position on the timeline: windows back to back, each of horizon steps.
function position() {
  const { horizon, starts, length } = state.episode;
  const window = Math.floor(state.at / horizon), step = state.at % horizon;
  const frame = starts[window] + step;
  return { window, step, frame: Math.min(frame, length - 1), tail: frame >= length };
}

function point(view, window, step, index) {
  const at = ((window * state.episode.horizon + step) * view.count + index) * 2;
  return [view.points[at], view.points[at + 1]];
}
function visible(view, window, step, index) {
  return view.seen[(window * state.episode.horizon + step) * view.count + index] > 0;
}
const toSource = (view, p) => [0, 1].map((k) => (p[k] - view.offset_xy[k]) / view.scale_xy[k]);

// How canvas pixels come from img pixels, letterboxed or in the source's own frame.
function projection(view) {
  const side = 560;
  if ($("source").checked) {
    const [height, width] = view.source_shape;
    const zoom = side / Math.max(height, width);
    return { height, width, zoom, map: (p) => toSource(view, p).map((c) => c * zoom) };
  }
  const [height, width] = view.img_shape;
  const zoom = side / Math.max(height, width);
  return { height, width, zoom, map: (p) => p.map((c) => c * zoom) };
}

function draw() {
  if (!state.episode) return;
  const now = position();
  for (const view of state.shown) drawView(view, now);
  $("scrub").value = state.at;
  const tail = now.tail ? " - frozen tail: the last frame repeated, not real motion" : "";
  const unseen = state.shown.every((view) => view.images.length) ? "" : "; no pictures are stored";
  $("when").textContent = `frame ${now.frame} of ${state.episode.length}, window from ` +
    `${state.episode.starts[now.window]}, step ${now.step}${unseen}${tail}`;
  $("when").classList.toggle("bad", now.tail);
  readout(now);
}

function drawView(view, now) {
  const { height, width, zoom, map } = projection(view);
  const canvas = view.canvas, pen = canvas.getContext("2d");
  canvas.width = Math.round(width * zoom);
  canvas.height = Math.round(height * zoom);
  const image = view.images[Math.min(now.frame, view.images.length - 1)];
  const [left, top, right, bottom] = view.content_box;
  if (image && image.complete && image.naturalWidth) {
    if ($("source").checked) {
      pen.drawImage(image, left, top, right - left, bottom - top, 0, 0, canvas.width, canvas.height);
    } else {
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    }
  }
  if (!$("source").checked && $("bars").checked) {
    pen.strokeStyle = "#ffd60a";
    pen.strokeRect(left * zoom + 0.5, top * zoom + 0.5, (right - left) * zoom - 1, (bottom - top) * zoom - 1);
  }
  for (let index = 0; index < view.count; index++) drawPoint(pen, view, now, index, map);
}

function drawPoint(pen, view, now, index, map) {
  const followed = state.picked && state.picked.view === view && state.picked.index === index;
  const first = followed ? 0 : Math.max(0, now.step - TRAIL);
  const [rows, columns] = data.grid;
  const row = data.order === "rows_fastest" ? index % rows : Math.floor(index / columns);
  pen.strokeStyle = pen.fillStyle = followed ? "#ffffff" : data.colors[row % data.colors.length];
  pen.lineWidth = followed ? 2.5 : 1;
  pen.beginPath();
  for (let step = first; step <= now.step; step++) {
    pen.lineTo(...map(point(view, now.window, step, index)));
  }
  if ($("trails").checked || followed) pen.stroke();
  const seen = visible(view, now.window, now.step, index), color = pen.strokeStyle;
  pen.beginPath();
  pen.arc(...map(point(view, now.window, now.step, index)), followed ? 6 : 3, 0, 7);
  // A dark outline sets points off from pixels of their own colour.
  pen.strokeStyle = "#161b22";
  pen.lineWidth = seen ? 1 : followed ? 4.5 : 3;
  pen.stroke();
  pen.strokeStyle = color;
  pen.lineWidth = followed ? 2.5 : 1.25;
  if (seen) pen.fill(); else pen.stroke();
}

function pick(view, canvas, event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) * canvas.width / box.width;
  const y = (event.clientY - box.top) * canvas.height / box.height;
  const now = position(), { map } = projection(view);
  let best = null, reach = 20;
  for (let index = 0; index < view.count; index++) {
    const [px, py] = map(point(view, now.window, now.step, index));
    const far = Math.hypot(px - x, py - y);
    if (far < reach) [best, reach] = [index, far];
  }
  state.picked = best === null ? null : { view, index: best };
  draw();
}

function readout(now) {
  const out = $("readout");
  if (!state.picked) {
    out.textContent = "No point followed. Click one, or press N.";
    out.removeAttribute("data-index");
    return;
  }
  const { view, index } = state.picked;
  const img = point(view, now.window, now.step, index), source = toSource(view, img);
  const norm = [0, 1].map((k) => 2 * img[k] / view.img_shape[1 - k] - 1);
  const pair = (p, digits) => `(${p[0].toFixed(digits)}, ${p[1].toFixed(digits)})`;
  const seen = visible(view, now.window, now.step, index) ? "visible" : "occluded";
  out.textContent = `${view.name}, point ${index}, ${seen}: img ${pair(img, 2)} px, ` +
    `source ${pair(source, 2)} px, normalized ${pair(norm, 4)}; all (x, y)`;
  Object.assign(out.dataset, {
    view: view.name, index, window: now.window, step: now.step,
    img: JSON.stringify(img), source: JSON.stringify(source), norm: JSON.stringify(norm),
  });
}

function move(by) {
  state.at = Math.max(0, Math.min(Number($("scrub").max), state.at + by));
  draw();
}
function play() {
  if (state.timer) {
    clearInterval(state.timer);
    state.timer = null;
  } else {
    state.timer = setInterval(() => {
      state.at = state.at >= Number($("scrub").max) ? 0 : state.at + 1;
      draw();
    }, 100);
  }
  $("play").textContent = state.timer ? "Pause" : "Play";
}
function follow(by) {
  const focused = state.shown.find((each) => each.canvas === document.activeElement);
  const view = focused || (state.picked ? state.picked.view : state.shown[0]);
  const index = state.picked && state.picked.view === view ? state.picked.index + by : 0;
  state.picked = { view, index: (index + view.count) % view.count };
  draw();
}

if (data.episodes.length) {
  $("episode").addEventListener("change", () => open($("episode").selectedIndex));
  $("view").addEventListener("change", layout);
  $("scrub").addEventListener("input", () => { state.at = Number($("scrub").value); draw(); });
  $("play").addEventListener("click", play);
  for (const id of ["source", "bars", "trails"]) $(id).addEventListener("change", draw);
  $("player").addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT", "BUTTON"].includes(event.target.tagName)) return;
    const keys = { ArrowLeft: () => move(-1), ArrowRight: () => move(1), " ": play,
      n: () => follow(1), p: () => follow(-1) };
    if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
  });
  open(0);
}
