// Plots and small pictures.

const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  node.append(...children);
  return node;
}

function drawing(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  node.append(...children);
  return node;
}

/** Set an element's text, unless it's that already. */
function say(node, words) {
  if (node.said === words) return;
  node.said = words;
  node.textContent = words;
}

/** Set an attribute, unless it's that already; null takes it away. */
function mark(node, name, value) {
  if (node.getAttribute(name) === value) return;
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

// A shape for each state, in 12 × 12: nobody needs the colour to tell them apart.
const SHAPES = {
  up: "M6 1.2a4.8 4.8 0 1 0 .01 0z",
  slow: "M6 1.2a4.8 4.8 0 1 0 .01 0zM6 2.8a3.2 3.2 0 0 1 0 6.4z",
  draining: "M.8 2h10.4L6 11z",
  suspect: "M6 .4L11.6 6 6 11.6.4 6zM6 3.2L3.2 6 6 8.8 8.8 6z",
  "set aside": "M2 1.5h3v9h-3zM7 1.5h3v9h-3z",
  error: "M4 .5h4L11.5 4v4L8 11.5H4L.5 8V4zM5.2 2.6h1.6v4H5.2zM5.2 7.7h1.6v1.6H5.2z",
  unreachable: "M2 1l4 3.6L10 1l1 1-3.6 4L11 10l-1 1-4-3.6L2 11l-1-1 3.6-4L1 2z",
  [UNKNOWN]: "M6 1.2a4.8 4.8 0 1 0 .01 0zM6 2.6a3.4 3.4 0 1 1 -.01 0z",
};

function shape(state) {
  const path = drawing("path", { "fill-rule": "evenodd" });
  const look = { class: "shape", viewBox: "0 0 12 12", "aria-hidden": "true" };
  const svg = drawing("svg", look, path);
  reshape(svg, state);
  return svg;
}

function reshape(svg, state) {
  mark(svg, "data-state", state);
  mark(svg.firstChild, "d", SHAPES[Object.hasOwn(SHAPES, state) ? state : UNKNOWN]);
}

// Slots: squares of 8 in a grid of 10, 20 in a line.
const PER_LINE = 20;
const SLOTS_SHOWN = 60;
const SQUARES = {
  leased: (x, y) => `M${x} ${y}h8v8h-8z`,
  idle: (x, y) => `M${x + 0.5} ${y + 0.5}h7v7h-7z`,
  preparing: (x, y) => `M${x + 0.5} ${y + 0.5}h7v7h-7z`,
  retired: (x, y) => `M${x} ${y + 8}l8 -8v8z`,
};
const slotsOf = new WeakMap(); // what a drawing shows

function slotDrawing() {
  const svg = drawing("svg", { class: "slots", role: "img" });
  for (const state in SQUARES) svg.append(drawing("path", { class: state }));
  return svg;
}

function drawSlots(svg, slots) {
  const shown = slots.slice(0, SLOTS_SHOWN);
  const signature = shown.map(([slot, state]) => `${slot} ${state}`).join(", ");
  slotsOf.set(svg, shown);
  if (svg.signature === signature && svg.count === slots.length) return;
  svg.signature = signature;
  svg.count = slots.length;
  const paths = { leased: "", idle: "", preparing: "", retired: "" };
  shown.forEach(([, state], i) => {
    const [x, y] = [(i % PER_LINE) * 10, Math.floor(i / PER_LINE) * 10];
    const known = Object.hasOwn(paths, state) ? state : "preparing";
    paths[known] += SQUARES[known](x, y);
  });
  for (const path of svg.children) mark(path, "d", paths[path.getAttribute("class")]);
  const width = 10 * Math.min(shown.length, PER_LINE);
  mark(svg, "width", String(width));
  mark(svg, "height", String(10 * Math.ceil(shown.length / PER_LINE)));
  const rest = slots.length - shown.length;
  const words = shown.length ? `slots ${signature}${rest ? `, and ${rest} more` : ""}` : "none";
  mark(svg, "aria-label", words);
}

/** Say which slot is under the pointer. */
function nameSlot(event) {
  const svg = event.target.closest?.("svg.slots");
  const slots = svg && slotsOf.get(svg);
  if (!slots) return;
  const box = svg.getBoundingClientRect();
  const [column, line] = [event.clientX - box.left, event.clientY - box.top].map((at) =>
    Math.floor(at / 10));
  const found = column < PER_LINE && slots[line * PER_LINE + column];
  if (!found) return mark(svg.parentNode, "title", null);
  const [slot, state, { pid, host }] = found;
  const holder = `held by ${pid ?? "?"} on ${host ?? "?"}`;
  mark(svg.parentNode, "title", `slot ${slot}: ${state}, ${holder}`);
}

// Plots: 300 × 60, stretched to whatever there is. No answer for GAP seconds is a gap.
const [WIDTH, HEIGHT] = [300, 60];
const GAP = 2.6;

/** Return a round number that isn't less. */
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999);
}

/** Return runs of points `[x, y]`: a new one after each gap. */
function runsOf(samples, value, now, span, top) {
  const runs = [];
  let run = null;
  let last = -Infinity;
  for (const sample of samples) {
    const at = value(sample);
    if (at === null || sample.time - last > GAP) run = null;
    last = sample.time;
    if (at === null) continue;
    if (!run) runs.push((run = []));
    const x = WIDTH - ((now - sample.time) / span) * WIDTH;
    run.push([x.toFixed(1), (HEIGHT - (Math.min(at, top) / top) * HEIGHT).toFixed(1)]);
  }
  return runs;
}

const along = (run) => run.map(([x, y]) => `${x} ${y}`).join("L");
const lineThrough = (runs) =>
  runs.map((run) => `M${along(run)}${run.length === 1 ? "h1" : ""}`).join("");
const areaUnder = (runs) =>
  runs.map((run) => `M${run[0][0]} ${HEIGHT}L${along(run)}V${HEIGHT}z`).join("");

function gapsOf(samples, now, span) {
  let path = "";
  const times = [...samples.map((sample) => sample.time), now];
  for (let i = 1; i < times.length; i++) {
    if (times[i] - times[i - 1] <= GAP) continue;
    const [from, to] = [times[i - 1], times[i]].map((time) =>
      Math.max(0, WIDTH - ((now - time) / span) * WIDTH).toFixed(1));
    path += `M${from} 0H${to}V${HEIGHT}H${from}z`;
  }
  return path;
}

/** A figure of the last minutes, with its number, and a plot of it. */
class Panel {
  /**
   * `series`: what each is, its look, and its value in a sample. `value` and `note` make
   * the words of a view, `format` those of a number, `axis` those of the highest one.
   */
  constructor({ title, series, value, note, format, axis, least = 0, name }) {
    Object.assign(this, { series, value, note, format, axis, least });
    this.number = element("p", { class: "value" });
    this.words = element("p", { class: "note" });
    this.top = element("span", { class: "top" });
    this.from = element("span", { class: "from" });
    this.gaps = drawing("path", { class: "gap" });
    this.paths = series.map(({ kind, look }) => drawing("path", { class: `${kind} ${look}` }));
    this.svg = drawing(
      "svg",
      { role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" },
      this.gaps,
      ...this.paths,
    );
    const now = element("span", {}, "now");
    const below = element("div", { class: "axis", "aria-hidden": "true" }, this.from, now);
    this.top.setAttribute("aria-hidden", "true");
    this.svg.addEventListener("pointermove", (event) => this.onPointer(event));
    this.svg.addEventListener("pointerleave", hideTip);
    this.node = element("li", { class: "panel", id: `panel-${name}` });
    const parts = [this.number, this.words, this.top, this.svg, below];
    this.node.append(element("h3", {}, title), ...parts);
  }

  show(view) {
    say(this.number, this.value(view));
    this.note(view, this.words);
  }

  plot(samples, now, span) {
    const shown = samples.filter((sample) => sample.time >= now - span - 2);
    const values = this.series.flatMap(({ of }) => shown.map(of));
    const top = roundUp(Math.max(this.least, ...values)); // null counts as 0
    Object.assign(this, { samples: shown, until: now, span });
    this.series.forEach(({ kind, of }, i) => {
      const runs = runsOf(shown, of, now, span, top);
      mark(this.paths[i], "d", kind === "area" ? areaUnder(runs) : lineThrough(runs));
    });
    mark(this.gaps, "d", gapsOf(shown, now, span));
    say(this.top, this.axis ? this.axis(top) : short.format(top));
    say(this.from, `−${span / 60} min`);
    mark(this.svg, "aria-label", this.inWords(shown, span));
  }

  /** Say what was at the moment that the pointer is at. */
  onPointer(event) {
    const box = this.svg.getBoundingClientRect();
    const time = this.until - (1 - (event.clientX - box.left) / box.width) * this.span;
    const sample = this.samples.find((each) => Math.abs(each.time - time) < GAP / 2);
    if (!sample) return hideTip();
    const parts = this.series.filter(({ says, of }) => says && of(sample) !== null)
      .map(({ says, of }) => `${says}: ${this.format(of(sample))}`);
    placeTip([clock(sample.time), ...parts].join("\n"), {
      left: event.clientX + 8,
      top: box.top,
      bottom: box.bottom + 4,
    });
  }

  inWords(samples, span) {
    const parts = this.series.filter(({ says }) => says).map(({ says, of }) => {
      const values = samples.map(of).filter((value) => value !== null);
      if (!values.length) return `${says}: nothing yet`;
      const [least, most] = [Math.min(...values), Math.max(...values)].map(this.format);
      return `${says}: ${this.format(values.at(-1))} now, from ${least} to ${most}`;
    });
    return `The last ${minutes(span)}. ${parts.join("; ")}`;
  }
}

const PANELS = [
  {
    name: "servers",
    title: "Servers",
    value: (view) => count(view.servers.length),
    note: noteStates,
    format: count,
    least: 5,
    series: [
      { kind: "area", look: "warn", says: "servers that aren't up", of: (s) => s.troubled },
      { kind: "area", look: "bad", says: "unreachable or in error", of: (s) => s.bad },
    ],
  },
  {
    name: "leases",
    title: "Leases/s",
    value: (view) => rate(view.measured ? view.rate : null),
    note: (view, node) => say(node, `${count(view.counters.leases)} in all`),
    format: rate,
    least: 5,
    series: [
      { kind: "area", look: "first soft", of: (s) => s.rate },
      { kind: "line", look: "first", says: "leases per second", of: (s) => s.rate },
    ],
  },
  {
    name: "latency",
    title: "Latency p99",
    value: (view) => duration(view.p99),
    note: (view, node) =>
      keyed(node, { "line first": "p99", "line second": `p50 ${duration(view.p50)}` }),
    format: duration,
    axis: (seconds) => duration(seconds).replace(".0 ", " "),
    least: 0.0001,
    series: [
      { kind: "line", look: "second", says: "p50", of: (s) => s.p50 },
      { kind: "line", look: "first", says: "p99", of: (s) => s.p99 },
    ],
  },
  {
    name: "waiting",
    title: "Waiting",
    value: (view) => count(view.gauges.waiting),
    note({ counters }, node) {
      say(node, `${many(counters.timeouts, "timeout")}, ${count(counters.rejected)} rejected`);
    },
    format: count,
    least: 5,
    series: [
      { kind: "area", look: "first soft", of: (s) => s.waiting },
      { kind: "line", look: "first", says: "waiting", of: (s) => s.waiting },
    ],
  },
  {
    name: "connections",
    title: "Connections",
    value: (view) => `${count(view.gauges.size)} of ${count(view.gauges.max_slots)}`,
    note: (view, node) =>
      keyed(node, {
        "area first": `${count(view.gauges.leased)} leased`,
        "area idle": `${count(view.gauges.idle)} idle`,
      }),
    format: count,
    least: 5,
    series: [
      { kind: "area", look: "idle", of: (s) => s.idle + s.leased },
      { kind: "area", look: "first", says: "leased", of: (s) => s.leased },
      { kind: "line", look: "first", says: "idle and leased", of: (s) => s.idle + s.leased },
    ],
  },
  {
    name: "failures",
    title: "Failures/s",
    value: (view) => rate(view.measured ? view.failureRate : null),
    note: (view, node) => say(node, `${count(view.counters.failures)} in all`),
    format: rate,
    least: 5,
    series: [
      { kind: "area", look: "bad", says: "failures per second", of: (s) => s.failureRate },
    ],
  },
];

/** Say words, each behind a key of the plot: by their looks there. */
function keyed(node, items) {
  const looks = Object.keys(items);
  if (!node.firstChild) {
    for (const look of looks) {
      const key = element("span", { class: `key ${look}`, "aria-hidden": "true" });
      node.append(element("span", { class: "keyed" }, key, element("span")), " ");
    }
  }
  looks.forEach((look, i) => say(node.children[i].lastChild, items[look]));
}

/** Say how many servers are in which state: a shape and a number for each. */
function noteStates(view, node) {
  const counts = countStates(view.servers);
  const signature = JSON.stringify([...counts]);
  if (node.signature === signature) return;
  node.signature = signature;
  node.replaceChildren();
  for (const [state, number] of counts) {
    const tally = element("span", { class: "tally", "data-state": state }, shape(state));
    tally.append(`${count(number)} ${state}`);
    node.append(tally, " ");
  }
}

function countStates(rows) {
  const counts = new Map();
  for (const state of [...STATES, UNKNOWN]) {
    const number = rows.filter((row) => row.state === state).length;
    if (number) counts.set(state, number);
  }
  return counts;
}

// A row's sparkline: leases/s in TREND_STEPS steps, the same scale for all of a pool.
const TREND_STEPS = 60;

/** Return the mean of each step of the span, by its number counted back from now. */
function steps(values, samples, now, span) {
  const length = span / TREND_STEPS;
  const sums = new Float64Array(TREND_STEPS + 1);
  const counts = new Float64Array(TREND_STEPS + 1);
  const last = Math.floor(now / length);
  const offset = samples.length - values.length;
  for (let i = 0; i < values.length; i++) {
    const step = last - Math.floor(samples[i + offset].time / length);
    if (step > TREND_STEPS || values[i] === null) continue;
    sums[step] += values[i];
    counts[step] += 1;
  }
  const means = sums.map((sum, i) => (counts[i] ? sum / counts[i] : NaN));
  // Polls aren't quite in step: one that is missing between two others is no gap.
  return means.map((mean, i) => (counts[i] ? mean : (means[i - 1] + means[i + 1]) / 2));
}

function trendPath(means, top) {
  let path = "";
  for (let i = 0; i < TREND_STEPS; i++) {
    const height = Math.round((160 * means[i]) / top) / 10;
    if (height > 0) path += `M${2 * (TREND_STEPS - 1 - i)} 16v-${height}h2v${height}z`;
  }
  return path;
}
