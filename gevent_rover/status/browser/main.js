// The page as a whole.

const POLL_SECONDS = 1;
const TIMEOUT_SECONDS = 3;
const PLOT_SECONDS = 300;
const LEGEND = [
  ["up", "Nothing speaks against it."],
  ["slow", "Its leases take much longer than those of the others, so it gets fewer."],
  ["draining", "It left the registry; connections to it are still in use."],
  ["suspect", "It hung up on new connections, so it gets few attempts."],
  ["set aside", "Its leases failed in a row, so all others come first."],
  ["error", "Its latest attempt ended in a fault that a person must fix."],
  ["unreachable", "Its latest attempt got no slot."],
  [UNKNOWN, "No worker that answers knows it."],
  ["leased", "The connection with that slot is in use."],
  ["idle", "It’s ready to be leased."],
  ["preparing", "It’s being set up."],
  ["retired", "It’s in use, and closed when it comes back."],
  ["slow 1/4", "One of the four workers that know the server sees it so."],
  ["(2.1 ms)", `Of all leases so far: there were none in the last ${LATENCY_SECONDS} s.`],
  ["(5 min)", "It’s over: so long ago was the last failure."],
];

function drawLegend() {
  for (const [term, meaning] of LEGEND) {
    const node = element("dt", { "data-state": term });
    if (Object.hasOwn(SHAPES, term)) node.append(shape(term));
    if (Object.hasOwn(SQUARES, term)) {
      const svg = slotDrawing();
      drawSlots(svg, [[0, term]]);
      svg.setAttribute("aria-hidden", "true");
      node.append(svg);
    }
    node.append(term);
    byId("legend").append(node, element("dd", {}, meaning));
  }
}

const fleet = new Fleet();
const past = new History(PLOT_SECONDS);
const panels = PANELS.map((panel) => new Panel(panel));
const controls = new Controls(() => refilter());
const servers = new Table(byId("servers"), SERVER_COLUMNS, "id", () => controls.save());
const pools = new Table(byId("pools"), POOL_COLUMNS, "worker", () => controls.save());
let view = null; // what is shown
let answeredAt = null; // seconds since the epoch
let polls = 0;

const seconds = () => Date.now() / 1000;

/** Ask once. Throws if there is no whole answer in time. */
async function ask() {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), TIMEOUT_SECONDS * 1000);
  try {
    const { signal } = controller;
    const response = await fetch("workers.ndjson", { signal, cache: "no-store" });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return await response.text();
  } finally {
    clearTimeout(timer);
  }
}

/** Ask for ever, one at a time. */
async function pollForEver() {
  for (;;) {
    const began = performance.now();
    let body = null;
    try {
      body = await ask();
    } catch {
      // No answer: the banner says so, see tick().
    }
    if (body !== null) await received(body);
    const left = POLL_SECONDS * 1000 - (performance.now() - began);
    await pause(Math.max(50, left));
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Take an answer in, and show it: in two steps, between which a key or a click may come. */
async function received(body) {
  const began = performance.now();
  answeredAt = seconds();
  fleet.take(readLines(body), answeredAt);
  view = fleet.view(answeredAt);
  past.add(view, answeredAt);
  polls += 1;
  const read = performance.now();
  if (document.hidden) return;
  await pause(0);
  const shown = performance.now();
  show();
  // For whoever wonders what it costs; one entry each, not one for each second.
  performance.clearMeasures();
  performance.measure("read", { start: began, end: read });
  performance.measure("show", { start: shown });
}

function show() {
  const now = seconds();
  showHeader(now);
  for (const panel of panels) panel.show(view);
  showPlots(now);
  showTrends(now);
  const names = new Set(view.pools.map((row) => row.name).filter((name) => name !== null));
  const several = names.size > 1;
  servers.hideColumn("pool", !several);
  pools.hideColumn("pool", !several);
  controls.count(view.servers);
  fitSlots(view.servers);
  servers.update(view.servers);
  pools.update(view.pools);
  drawFoot(byId("pools").tFoot, POOL_COLUMNS, view);
  showCount();
  measureTexts();
}

function showHeader(now) {
  if (!view) return;
  const workers = new Set(view.pools.map((row) => row.worker));
  const silent = view.pools.filter((row) => row.error !== null);
  const named = silent.slice(0, 3).map((row) => row.where).join(", ");
  const more = silent.length > 3 ? ", …" : "";
  const lack = silent.length === 1 ? "doesn’t answer" : "don’t answer";
  const words = silent.length ? `, ${silent.length} ${lack}: ${named}${more}` : "";
  say(byId("workers"), many(workers.size, "worker") + words);
  const stale = isStale(now);
  const ago = stale ? `, ${age(now - answeredAt)} ago` : "";
  say(byId("updated"), `updated ${clock(answeredAt)}${ago}`);
  const bad = view.servers.filter((row) => row.state === "unreachable").length;
  const news = stale ? "no answer · " : bad ? `${bad} unreachable · ` : "";
  document.title = `${news}gevent_rover`;
}

const isStale = (now) => answeredAt !== null && now - answeredAt > GAP;

function showPlots(now) {
  const span = past.span(now);
  say(byId("span"), minutes(span));
  for (const panel of panels) panel.plot(past.samples, now, span);
}

/** Give each row its sparkline; where a step takes seconds, those of a part of the rows. */
function showTrends(now) {
  const span = past.span(now);
  const turns = span / TREND_STEPS;
  const tops = new Map();
  const found = view.servers.map((row) => {
    const means = steps(past.rates.get(row.key), past.samples, now, span);
    const known = means.filter((mean) => mean >= 0);
    row.mean = known.reduce((sum, mean) => sum + mean, 0) / (known.length || 1);
    tops.set(row.pool, Math.max(tops.get(row.pool) ?? 1, ...known));
    return means;
  });
  view.servers.forEach((row, i) => {
    if ((polls + i) % turns === 0) row.trend = trendPath(found[i], tops.get(row.pool));
  });
}

/** Make the column of the slots as wide as need be, in steps, so that it seldom changes. */
function fitSlots(rows) {
  const most = Math.max(8, ...rows.map((row) => row.slots.length));
  const squares = Math.min(PER_LINE, Math.ceil(most / 4) * 4);
  const width = 10 * squares + 18 + (most > SLOTS_SHOWN ? 40 : 0);
  byId("servers").style.setProperty("--slots", `${width}px`);
}

function showCount() {
  const { active } = controls;
  const number = view.servers.length;
  say(byId("shown"), active ? `${servers.shown} of ${many(number, "server")}` : "");
  if (controls.clear.hidden === active) {
    if (document.activeElement === controls.clear) controls.filter.focus();
    controls.clear.hidden = !active;
  }
  const empty = byId("servers").nextElementSibling;
  empty.hidden = servers.shown > 0;
  say(empty, number ? "No server is like that." : "No worker knows any server.");
}

function refilter() {
  servers.matches = controls.matcher();
  if (!view) return;
  servers.filter();
  showCount();
  measureTexts();
}

/** What happens every second, whether there was an answer or not. */
function tick() {
  const now = seconds();
  const stale = answeredAt === null ? performance.now() > 3500 : isStale(now);
  mark(document.body, "data-stale", stale ? "" : null);
  const then = answeredAt === null ? "" : ` since ${clock(answeredAt)}. Below is what was then`;
  say(byId("banner"), stale ? `No answer${then}. The page keeps asking.` : "");
  if (!view || document.hidden || !stale) return;
  showHeader(now);
  showPlots(now);
}

function start() {
  byId("panels").append(...panels.map((panel) => panel.node));
  drawLegend();
  controls.tables = { sort: servers, pools };
  controls.load();
  byId("servers").addEventListener("pointermove", nameSlot);
  watchForTips();
  watchSizes();
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && view) show();
  });
  window.addEventListener("beforeprint", () => {
    servers.showAll();
    pools.showAll();
  });
  setInterval(tick, 500);
  pollForEver();
}

start();
