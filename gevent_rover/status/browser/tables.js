// The tables of servers and pools.

/** A column of words: `value` is what sorts, `words` what is shown, null if nothing. */
function plain(value, show, options = {}) {
  return {
    value,
    build: (cell) => cell,
    show: (cell, row) => say(cell, show(row)),
    ...options,
  };
}

/** A column of numbers: right-aligned, the highest first. Those that change are `live`. */
const numbers = (value, show, options) =>
  plain(value, (row) => show(value(row)), { kind: "number", descends: true, ...options });

/** A column of text from outside: cut where it's long, all of it in the tip. */
function clipped(value, show) {
  return {
    value,
    build(cell) {
      const span = element("bdi", { class: "clip" });
      cell.append(span);
      return span;
    },
    show(span, row) {
      const said = show(row);
      if (span.said === said) return;
      say(span, said);
      unmeasured.add(span);
    },
  };
}

// Texts that may be cut: those that are can be reached with the keyboard, for their tip.
const unmeasured = new Set();

function measureTexts() {
  if (!unmeasured.size) return; // it would cost a layout
  const cut = [...unmeasured].map((span) => [span, span.scrollWidth > span.clientWidth]);
  unmeasured.clear();
  for (const [span, isCut] of cut) mark(span, "tabindex", isCut ? "0" : null);
}

/** A table that fits needs no scrolling: then its head can stay in sight. */
function watchSizes() {
  const observer = new ResizeObserver((entries) => {
    for (const region of new Set(entries.map(({ target }) => target.closest(".scroll")))) {
      const fits = region.firstElementChild.offsetWidth <= region.clientWidth;
      mark(region, "data-fits", fits ? "" : null);
      mark(region, "tabindex", fits ? "-1" : "0");
    }
    for (const span of document.querySelectorAll(".clip")) unmeasured.add(span);
    measureTexts();
  });
  for (const node of document.querySelectorAll(".scroll, .scroll table")) {
    observer.observe(node);
  }
}

const latency = (name) => ({
  ...numbers((row) => row[name], duration, { live: true }),
  show(cell, row) {
    const old = row.old && row[name] !== null;
    say(cell, parenthesized(duration(row[name]), old));
    mark(cell, "data-old", old ? "" : null);
    mark(cell, "title", old ? `of all there were: none in the last ${LATENCY_SECONDS} s` : null);
  },
});

const stateColumn = {
  value: (row) => STATES.indexOf(row.state),
  descends: true,
  build(cell) {
    const parts = { icon: shape(UNKNOWN), word: element("span") };
    cell.append(parts.icon, parts.word);
    return parts;
  },
  show({ icon, word }, row) {
    reshape(icon, row.state);
    const some = row.seen < row.of ? ` ${row.seen}/${row.of}` : "";
    say(word, row.state + some);
    const title = some ? `${row.seen} of ${row.of} workers see it so` : null;
    mark(word.parentNode, "title", title);
  },
};

const slotsColumn = {
  value: (row) => row.slots.length,
  descends: true,
  build(cell) {
    const parts = { svg: slotDrawing(), more: element("span", { class: "more" }) };
    cell.append(element("span", {}, parts.svg), parts.more);
    return parts;
  },
  show({ svg, more }, row) {
    drawSlots(svg, row.slots);
    say(more, row.slots.length > SLOTS_SHOWN ? `+${count(row.slots.length - SLOTS_SHOWN)}` : "");
  },
};

const trendColumn = {
  value: (row) => row.mean ?? 0,
  descends: true,
  live: true,
  build(cell) {
    const look = { class: "trend", viewBox: "0 0 120 16", preserveAspectRatio: "none" };
    const svg = drawing("svg", { ...look, role: "img" }, drawing("path"));
    cell.append(svg);
    return svg;
  },
  show(svg, row) {
    if (row.trend === undefined) return;
    mark(svg.firstChild, "d", row.trend);
    mark(svg, "aria-label", `${rate(row.mean)}/s on average`);
  },
};

const SERVER_COLUMNS = {
  id: clipped((row) => row.id, (row) => row.id ?? "(unknown)"),
  pool: clipped((row) => row.pool, (row) => row.pool ?? NONE),
  state: stateColumn,
  address: clipped((row) => row.address, (row) => row.address ?? NONE),
  slots: slotsColumn,
  idle: numbers((row) => row.idle, count, { live: true, unit: 1 }),
  leased: numbers((row) => row.leased, count, { live: true, unit: 1 }),
  rate: numbers((row) => row.rate, rate, { live: true }),
  trend: trendColumn,
  p50: latency("p50"),
  p99: latency("p99"),
  leases: numbers((row) => row.leases, count),
  failures: numbers((row) => row.failures, count),
  since: {
    ...numbers((row) => (row.over ? 1e12 + row.age : row.since), null),
    descends: false,
    show(cell, row) {
      say(cell, row.over ? `(${age(row.age)})` : age(row.since));
      mark(cell, "data-old", row.over ? "" : null);
      mark(cell, "title", row.over ? "it’s over: so long ago was the last one" : null);
    },
  },
  error: clipped((row) => row.error, (row) => row.error ?? ""),
};

const counter = (name) => numbers((row) => row.counters?.[name] ?? null, count);
const gauge = (name, options) => numbers((row) => row.gauges?.[name] ?? null, count, options);

const POOL_COLUMNS = {
  worker: clipped(
    (row) => `${row.host} ${row.pid}`,
    (row) => (row.pid === null ? "(unknown)" : `${row.pid} on ${row.host ?? "?"}`),
  ),
  pool: clipped((row) => row.name, (row) => row.name ?? NONE),
  state: clipped((row) => row.error ?? row.state, (row) => row.error ?? row.state),
  size: {
    ...gauge("size"),
    show: (cell, { gauges }) =>
      say(cell, gauges ? `${count(gauges.size)} of ${count(gauges.max_slots)}` : NONE),
  },
  idle: gauge("idle", { live: true, unit: 1 }),
  leased: gauge("leased", { live: true, unit: 1 }),
  rate: numbers((row) => row.rate, rate, { live: true }),
  waiting: gauge("waiting", { live: true, unit: 1 }),
  wait: latency("wait"),
  leases: counter("leases"),
  timeouts: counter("timeouts"),
  rejected: counter("rejected"),
  failures: counter("failures"),
  where: clipped((row) => row.where, (row) => row.where),
};

/** Compare what sorts: nothing comes last, whatever the direction. */
function compare(a, b, descends) {
  const [noA, noB] = [a === null || a === "", b === null || b === ""];
  if (noA || noB) return noA - noB;
  const order = typeof a === "number" && typeof b === "number"
    ? a - b
    : collator.compare(String(a), String(b));
  return descends ? -order : order;
}

/** A table whose rows stay the same elements as long as their keys are there. */
class Table {
  /** `first` is the column that sorts if nobody said otherwise, and between equals. */
  constructor(node, columns, first, onSort) {
    this.node = node;
    this.columns = columns;
    this.first = first;
    this.body = node.tBodies[0];
    this.heads = new Map();
    this.entries = new Map(); // by key: {row, tr, parts}
    this.order = []; // the entries, as they are sorted
    this.matches = () => true;
    this.updates = 0;
    // Most of the time goes into layout and paint: so rows out of sight come in turn.
    this.entryOf = new WeakMap(); // of its row
    this.sight = new IntersectionObserver((changes) => this.onSight(changes), {
      rootMargin: "200px",
    });
    this.sortBy(first, columns[first].descends === true);
    for (const head of node.tHead.rows[0].cells) {
      const name = head.dataset.column;
      this.heads.set(name, head);
      head.classList.add(`column-${name}`);
      if (columns[name].kind) head.classList.add(columns[name].kind);
      head.querySelector("button").addEventListener("click", () => {
        const same = this.sorted === name;
        this.sortBy(name, same ? !this.descends : columns[name].descends === true);
        this.arrange(true);
        onSort();
      });
    }
    this.markHeads();
  }

  sortBy(name, descends) {
    if (!Object.hasOwn(this.columns, name)) return;
    this.sorted = name;
    this.descends = descends;
    this.markHeads();
  }

  markHeads() {
    for (const [name, head] of this.heads) {
      const direction = this.descends ? "descending" : "ascending";
      mark(head, "aria-sort", name === this.sorted ? direction : null);
    }
  }

  /** Show a column, or don't. */
  hideColumn(name, hidden) {
    this.heads.get(name).hidden = hidden;
    mark(this.node, `data-without-${name}`, hidden ? "" : null);
  }

  /** Show these rows, each of which has a `key`. */
  update(rows) {
    const gone = new Set(this.entries.keys());
    let came = false;
    for (const row of rows) {
      gone.delete(row.key);
      const entry = this.entries.get(row.key);
      if (entry) entry.row = row;
      else {
        came = true;
        this.add(row);
      }
    }
    for (const key of gone) this.remove(key);
    this.arrange(came);
    this.filter();
  }

  add(row) {
    const tr = element("tr");
    const parts = {};
    for (const name in this.columns) {
      const { build, kind } = this.columns[name];
      const head = name === this.first;
      const cell = element(head ? "th" : "td", head ? { scope: "row" } : {});
      cell.classList.add(`column-${name}`);
      if (kind) cell.classList.add(kind);
      parts[name] = build(cell);
      tr.append(cell);
    }
    const entry = { row, tr, parts, inSight: true };
    this.entries.set(row.key, entry);
    this.entryOf.set(tr, entry);
    this.sight.observe(tr);
    this.order.push(entry);
  }

  onSight(changes) {
    for (const { target, isIntersecting } of changes) {
      const entry = this.entryOf.get(target);
      entry.inSight = isIntersecting;
      if (isIntersecting) this.show(entry);
    }
    measureTexts();
  }

  remove(key) {
    const { tr } = this.entries.get(key);
    // Focus goes to the table, and not to the top of the page.
    if (tr.contains(document.activeElement)) this.node.parentNode.focus();
    tr.remove();
    this.sight.unobserve(tr);
    this.entries.delete(key);
    this.order = this.order.filter((entry) => entry.tr !== tr);
  }

  /** Sort anew; or, if not `afresh`, only as far as something has really changed. */
  arrange(afresh) {
    const { value, live, unit = 0 } = this.columns[this.sorted];
    const tie = this.columns[this.first].value;
    const tolerant = live && !afresh;
    const before = (a, b) => {
      const [x, y] = [value(a.row), value(b.row)];
      if (tolerant && x !== null && y !== null) {
        if (Math.abs(x - y) <= Math.max(unit, 0.1 * Math.max(x, y))) return 0;
        return compare(x, y, this.descends);
      }
      return compare(x, y, this.descends) || compare(tie(a.row), tie(b.row), false)
        || (a.row.key < b.row.key ? -1 : 1);
    };
    if (tolerant) insertionSort(this.order, before);
    else this.order.sort(before);
    placeInOrder(this.body, this.order.map((entry) => entry.tr));
  }

  /** Hide rows that don't match, and bring the others up to date. */
  filter() {
    this.shown = 0;
    this.updates += 1;
    this.order.forEach((entry, i) => {
      const hidden = !this.matches(entry.row);
      if (entry.tr.hidden !== hidden) entry.tr.hidden = hidden;
      if (hidden) return;
      this.shown += 1;
      const due = (this.updates + i) % TURNS === 0;
      if (entry.inSight || due || entry.state !== entry.row.state) this.show(entry);
    });
  }

  show(entry) {
    const { row, tr, parts } = entry;
    entry.state = row.state;
    mark(tr, "data-state", row.state);
    for (const name in this.columns) this.columns[name].show(parts[name], row);
  }

  /** Bring all rows up to date, in sight or not. */
  showAll() {
    for (const entry of this.order) this.show(entry);
  }
}

const TURNS = 10; // a row out of sight is so many seconds old at most

/** Sort in place; for what is nearly sorted, by an order that needn't be transitive. */
function insertionSort(entries, compareEntries) {
  for (let i = 1; i < entries.length; i++) {
    const entry = entries[i];
    let at = i;
    while (at > 0 && compareEntries(entries[at - 1], entry) > 0) {
      entries[at] = entries[at - 1];
      at -= 1;
    }
    entries[at] = entry;
  }
}

/** Put children in this order. What has the focus isn't moved, or it would lose it. */
function placeInOrder(parent, children) {
  const focused = children.findIndex((child) => child.contains(document.activeElement));
  for (let i = focused - 1; i >= 0; i--) {
    const [child, next] = [children[i], children[i + 1]];
    if (child.nextSibling !== next) parent.insertBefore(child, next);
  }
  for (let i = Math.max(0, focused + 1); i < children.length; i++) {
    const expected = i ? children[i - 1].nextSibling : parent.firstChild;
    if (children[i] !== expected) parent.insertBefore(children[i], expected);
  }
}

/** The sum of all pools, with the workers that were. */
function drawFoot(foot, columns, view) {
  if (!foot.firstChild) {
    const tr = element("tr");
    for (const name in columns) {
      const cell = element(name === "worker" ? "th" : "td");
      if (name === "worker") cell.setAttribute("scope", "row");
      cell.classList.add(`column-${name}`);
      if (columns[name].kind) cell.classList.add(columns[name].kind);
      tr.append(cell);
    }
    foot.append(tr);
  }
  const { gauges, counters } = view;
  const sums = {
    worker: "Total",
    size: `${count(gauges.size)} of ${count(gauges.max_slots)}`,
    idle: count(gauges.idle),
    leased: count(gauges.leased),
    waiting: count(gauges.waiting),
    rate: rate(view.measured ? view.rate : null),
    leases: count(counters.leases),
    timeouts: count(counters.timeouts),
    rejected: count(counters.rejected),
    failures: count(counters.failures),
  };
  Object.keys(columns).forEach((name, i) => say(foot.rows[0].cells[i], sums[name] ?? ""));
}
