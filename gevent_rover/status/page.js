"use strict";

// The page asks for workers.ndjson every second, adds the workers up, and shows the sum. It
// changes what differs in place: focus, selection and scrolling stay as they are. All text
// comes in as text, never as HTML. Sections: data, words, plots, tables, controls, the page.
(() => {
  // ------------------------------------------------------------------------------------- data
  // Nothing here knows the document. What comes from outside is read by the functions at the
  // top, which make something harmless of whatever they find; one bad line costs only itself.

  const STATES = ["up", "slow", "draining", "suspect", "set aside", "error", "unreachable"];
  const FINE = new Set(["up", "slow", "draining"]); // an error that is there is over
  const BAD = new Set(["error", "unreachable", "no answer"]);
  const UNKNOWN = "unknown"; // no worker that answers knows the server
  const RATE_SECONDS = 3; // rates are of so many seconds: a death shows at once,
  const LATENCY_SECONDS = 10; // and quantiles of so many: a few leases tell little
  const FOLD_SECONDS = 60; // a worker that is gone for so long doesn't come back
  const FORGET_SECONDS = 3600; // a server that is gone for so long is forgotten

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const object = (value) => (isObject(value) ? value : {});
  const list = (value) => (Array.isArray(value) ? value : []);
  const number = (value) => (Number.isFinite(value) && value > 0 ? value : 0);
  const text = (value) => (typeof value === "string" ? value : null);
  const instant = (value) => (Number.isFinite(value) ? value : null);

  /** Return what each line says: `{where, snapshot}` or `{where, error}`. */
  function readLines(body) {
    return body.split("\n").filter((line) => line.trim()).map(readLine);
  }

  function readLine(line) {
    let raw;
    try {
      raw = object(JSON.parse(line));
    } catch {
      return { where: null, error: "its line isn't JSON" };
    }
    const where = text(raw.where);
    if (isObject(raw.snapshot)) return { where, snapshot: readSnapshot(raw.snapshot) };
    return { where, error: text(raw.error) ?? "its line has no snapshot" };
  }

  const POOL_NUMBERS = [
    "size", "idle", "leased", "preparing", "retired", "candidates", "waiting", "max_slots",
    "leases", "failures", "timeouts", "rejected",
  ];

  function readSnapshot(raw) {
    const worker = object(raw.worker);
    const bounds = list(raw.bounds);
    const valid = bounds.length > 0 && bounds.every((bound, i) => bound > (bounds[i - 1] ?? 0));
    const pool = isObject(raw.pool) ? readPool(raw.pool) : null;
    const servers = new Map();
    for (const each of list(raw.servers)) {
      if (!isObject(each)) continue;
      const server = readServer(each, pool?.name ?? null);
      servers.set(server.key, server);
    }
    return {
      time: number(raw.time),
      worker: text(worker.id),
      pid: instant(worker.pid),
      host: text(worker.host),
      started: isObject(raw.rover) ? raw.rover.started !== false : null,
      bounds: valid ? bounds : null,
      pool,
      servers,
    };
  }

  function readPool(raw) {
    const pool = { name: text(raw.name) ?? "", closed: raw.closed === true };
    for (const name of POOL_NUMBERS) pool[name] = number(raw[name]);
    pool.waits = readCounts(raw.wait_times);
    return pool;
  }

  function readServer(raw, pool) {
    const times = readCounts(raw.lease_times);
    const id = raw.id === undefined || isObject(raw.id) ? null : raw.id;
    return {
      key: JSON.stringify([pool, id]),
      pool,
      id: id === null ? null : String(id),
      address: text(raw.address),
      state: text(raw.state) ?? UNKNOWN,
      slots: list(raw.slots).filter((slot) => Array.isArray(slot) && Number.isFinite(slot[0])),
      idle: number(raw.idle),
      leased: number(raw.leased),
      preparing: number(raw.preparing),
      retired: number(raw.retired),
      leases: number(raw.leases),
      failures: number(raw.failures),
      times,
      answered: total(times),
      error: text(raw.error) || null,
      since: instant(raw.error_since),
      at: instant(raw.error_at),
    };
  }

  /** Return a sparse histogram as `[index, count, index, count, …]`. */
  function readCounts(raw) {
    const counts = [];
    for (const pair of list(raw)) {
      if (!Array.isArray(pair)) continue;
      const [index, count] = pair;
      if (Number.isInteger(index) && index >= 0 && index < 1000 && count > 0) {
        counts.push(index, number(count));
      }
    }
    return counts;
  }

  /** Add a sparse histogram, `sign` times, to a dense one. What is beyond its end counts there. */
  function addCounts(dense, counts, sign = 1) {
    for (let i = 0; i < counts.length; i += 2) {
      dense[Math.min(counts[i], dense.length - 1)] += sign * counts[i + 1];
    }
  }

  function total(counts) {
    let sum = 0;
    for (let i = 1; i < counts.length; i += 2) sum += counts[i];
    return sum;
  }

  /**
   * Return the duration that this share of the durations didn't exceed, interpolated in its
   * bucket; beyond the last bound it is that bound. null: there are none.
   */
  function quantile(dense, bounds, share) {
    let wanted = 0;
    for (const count of dense) wanted += count;
    if (!(wanted > 0) || !bounds) return null;
    wanted *= share;
    let seen = 0;
    for (let i = 0; i < bounds.length; i++) {
      const count = dense[i];
      if (count > 0 && seen + count >= wanted) {
        const lower = i ? bounds[i - 1] : 0;
        return lower + ((bounds[i] - lower) * Math.max(0, wanted - seen)) / count;
      }
      seen += count;
    }
    return bounds[bounds.length - 1];
  }

  /** Say by how much a counter grew; one that fell began again. */
  const growth = (now, then) => (now < then ? now : now - then);

  /** Return the same counts in the buckets of other bounds: each goes where its bound fits. */
  function rebin(counts, from, to) {
    return counts.map((value, i) => {
      if (i % 2) return value;
      const index = to.findIndex((bound) => bound >= (from[value] ?? Infinity));
      return index < 0 ? to.length : index;
    });
  }

  /** What one worker said lately about one pool. `newest` is null until it has answered. */
  class Source {
    constructor(key) {
      this.key = key;
      this.snapshots = [];
      this.absent = new Map(); // servers that it listed and doesn't list now, since when
      this.wheres = new Set(); // the app that is asked says "this worker" of its own
      this.error = null;
    }

    get where() {
      return [...this.wheres].find((where) => where !== "this worker") ?? "this worker";
    }

    get newest() {
      return this.snapshots.at(-1) ?? null;
    }

    get answers() {
      return this.error === null;
    }

    /** Take a report; `error` is null if there is a snapshot. */
    report(where, error) {
      if (this.wheres.size > 9) this.wheres.clear();
      this.wheres.add(where ?? "(unknown)");
      this.error = error;
    }

    /** Take a snapshot; what counts from 0 again goes into `base`. `now` is in seconds. */
    take(snapshot, base, now) {
      const back = this.newest ? this.newest.time - snapshot.time : -1;
      if (back >= 0 && back < 3) return; // the same again: it was listed twice
      if (this.newest) this.keepWhatFell(snapshot, base, now);
      if (back >= 0) this.snapshots.length = 0; // its clock was set back
      this.snapshots.push(snapshot);
      const oldest = snapshot.time - LATENCY_SECONDS - 1;
      while (this.snapshots[0].time < oldest && this.snapshots.length > 2) this.snapshots.shift();
    }

    /** A server that left the registry and came back may count from 0: keep what it had. */
    keepWhatFell(snapshot, base, now) {
      for (const old of this.newest.servers.values()) {
        if (!snapshot.servers.has(old.key)) this.absent.set(old.key, { server: old, at: now });
      }
      for (const server of snapshot.servers.values()) {
        const old = this.newest.servers.get(server.key) ?? this.absent.get(server.key)?.server;
        this.absent.delete(server.key);
        if (!old) continue;
        const fell = {};
        if (server.leases < old.leases) fell.leases = old.leases;
        if (server.failures < old.failures) fell.failures = old.failures;
        if (server.answered < old.answered) fell.times = old.times;
        if (Object.keys(fell).length) base.addServer(old.key, fell, now);
      }
      for (const [key, { server, at }] of this.absent) {
        if (now - at < FOLD_SECONDS) continue;
        this.absent.delete(key);
        base.addServer(key, server, now);
      }
    }

    /** Return what it counted, of a server that it doesn't list now; undefined: nothing. */
    countedBefore(key) {
      return this.absent.get(key)?.server;
    }

    /** Return the snapshot of so many seconds before the newest, as far as there is one. */
    before(seconds) {
      const oldest = this.newest.time - seconds - 0.5;
      const found = this.snapshots.find((snapshot) => snapshot.time >= oldest);
      // One that didn't answer for long: since its last answer.
      return found === this.newest ? this.snapshots.at(-2) ?? found : found;
    }
  }

  /** Counters of what can't be asked any more: workers that ended, records that began again. */
  class Base {
    constructor() {
      this.pool = { leases: 0, failures: 0, timeouts: 0, rejected: 0 };
      this.servers = new Map();
    }

    addPool(pool) {
      if (pool) for (const name in this.pool) this.pool[name] += pool[name];
    }

    addServer(key, part, now) {
      const kept = this.servers.get(key) ?? { leases: 0, failures: 0, times: [], at: now };
      kept.leases += part.leases ?? 0;
      kept.failures += part.failures ?? 0;
      kept.times.push(...(part.times ?? []));
      if (kept.times.length > 500) kept.times = compact(kept.times);
      kept.at = now;
      this.servers.set(key, kept);
    }

    addSource({ newest, absent }, now) {
      this.addPool(newest.pool);
      for (const server of newest.servers.values()) this.addServer(server.key, server, now);
      for (const { server } of absent.values()) this.addServer(server.key, server, now);
    }

    forget(listed, now) {
      for (const [key, kept] of this.servers) {
        if (listed.has(key)) kept.at = now;
        else if (now - kept.at > FORGET_SECONDS) this.servers.delete(key);
      }
    }
  }

  function compact(counts) {
    const sums = new Map();
    for (let i = 0; i < counts.length; i += 2) {
      sums.set(counts[i], (sums.get(counts[i]) ?? 0) + counts[i + 1]);
    }
    return [...sums].flat();
  }

  /** All workers, and those that were: what the page knows. */
  class Fleet {
    constructor() {
      this.bounds = null;
      this.sources = new Map();
      this.left = new Map(); // workers that aren't listed any more, for a while
      this.base = new Base();
    }

    /** Take an answer in. `now` is in seconds. */
    take(lines, now) {
      const listed = new Set();
      lines.forEach((line, i) => {
        const source = line.snapshot ? this.answered(line, now) : this.silent(line, i);
        listed.add(source.key);
      });
      for (const [key, source] of this.sources) {
        if (listed.has(key)) continue;
        this.sources.delete(key);
        if (source.newest) this.left.set(key, { source, at: now });
      }
      for (const [key, gone] of this.left) {
        if (now - gone.at < FOLD_SECONDS) continue;
        this.left.delete(key);
        this.base.addSource(gone.source, now);
      }
    }

    answered({ where, snapshot }, now) {
      const key = JSON.stringify([snapshot.worker ?? where, snapshot.pool?.name ?? null]);
      const source = this.sources.get(key) ?? this.left.get(key)?.source ?? new Source(key);
      this.sources.set(key, source);
      this.left.delete(key);
      snapshot.time ||= now;
      this.unify(snapshot);
      source.report(where, null);
      source.take(snapshot, this.base, now);
      return source;
    }

    silent({ where, error }, index) {
      const known = [...this.sources.values()].filter((source) => source.wheres.has(where));
      const source = known.at(-1) ?? new Source(JSON.stringify([where ?? index]));
      this.sources.set(source.key, source);
      source.report(where, error);
      return source;
    }

    /** Bring the histograms to the bounds of the first snapshot: versions may be mixed. */
    unify(snapshot) {
      const { bounds } = snapshot;
      this.bounds ??= bounds;
      if (!bounds || !this.bounds) return;
      const ours = this.bounds;
      if (bounds.length === ours.length && bounds.every((b, i) => b === ours[i])) return;
      if (snapshot.pool) snapshot.pool.waits = rebin(snapshot.pool.waits, bounds, ours);
      for (const server of snapshot.servers.values()) {
        server.times = rebin(server.times, bounds, ours);
      }
    }

    /** Return what is to be shown. */
    view(now) {
      const size = (this.bounds?.length ?? 0) + 1;
      const all = { times: new Float64Array(size), rate: 0, failureRate: 0, measured: false };
      const servers = new Map();
      const pools = [];
      for (const source of this.sources.values()) {
        pools.push(this.poolRow(source, all));
        if (!source.newest) continue;
        const then = source.before(RATE_SECONDS);
        const longer = source.before(LATENCY_SECONDS);
        for (const server of source.newest.servers.values()) {
          let row = servers.get(server.key);
          if (!row) servers.set(server.key, (row = newRow(server, size)));
          addToRow(row, server, source, then, longer);
        }
      }
      this.base.forget(servers, now);
      for (const row of servers.values()) this.finishRow(row, all);
      return {
        servers: [...servers.values()],
        pools,
        ...this.sums(pools),
        ...all,
        p50: quantile(all.times, this.bounds, 0.5),
        p99: quantile(all.times, this.bounds, 0.99),
      };
    }

    finishRow(row, all) {
      for (let i = 0; i < row.times.length; i++) all.times[i] += row.times[i];
      const parts = this.goneOf(row.key);
      for (const part of parts) {
        row.leases += part.leases;
        row.failures += part.failures;
      }
      let times = row.times;
      row.old = !times.some((count) => count > 0);
      if (row.old) {
        times = new Float64Array(times.length);
        for (const part of [...row.parts, ...parts]) addCounts(times, part.times);
      }
      row.p50 = quantile(times, this.bounds, 0.5);
      row.p99 = quantile(times, this.bounds, 0.99);
      if (!row.of) row.state = UNKNOWN;
      row.over = row.error !== null && FINE.has(row.state);
      row.slots.sort((a, b) => a[0] - b[0]);
    }

    /** Return all counters of a server that nobody has now. */
    goneOf(key) {
      const parts = [this.base.servers.get(key)];
      for (const source of this.sources.values()) parts.push(source.countedBefore(key));
      for (const { source } of this.left.values()) {
        parts.push(source.newest.servers.get(key), source.countedBefore(key));
      }
      return parts.filter((part) => part !== undefined);
    }

    poolRow(source, all) {
      const { newest, answers } = source;
      const pool = newest?.pool ?? null;
      const row = {
        key: source.key,
        worker: newest?.worker ?? source.key,
        name: pool?.name ?? null,
        pid: newest?.pid ?? null,
        host: newest?.host ?? null,
        where: source.where,
        error: source.error,
        state: stateOfPool(source),
        counters: pool,
        gauges: answers ? pool : null,
        rate: null,
        wait: null,
        old: false,
      };
      if (!pool) return row;
      const waits = new Float64Array((this.bounds?.length ?? 0) + 1);
      if (answers) {
        const then = source.before(RATE_SECONDS);
        const seconds = newest.time - then.time;
        if (seconds > 0.2 && then.pool) {
          row.rate = growth(pool.leases, then.pool.leases) / seconds;
          all.rate += row.rate;
          all.failureRate += growth(pool.failures, then.pool.failures) / seconds;
          all.measured = true;
        }
        const longer = source.before(LATENCY_SECONDS).pool;
        if (longer && longer !== pool) addGrowth(waits, pool.waits, longer.waits);
      }
      row.old = !waits.some((count) => count > 0);
      if (row.old) addCounts(waits, pool.waits);
      row.wait = quantile(waits, this.bounds, 0.99);
      return row;
    }

    sums(pools) {
      const gauges = { size: 0, idle: 0, leased: 0, preparing: 0, waiting: 0, max_slots: 0 };
      const counters = { ...this.base.pool };
      for (const row of pools) {
        for (const name in gauges) gauges[name] += row.gauges?.[name] ?? 0;
        for (const name in counters) counters[name] += row.counters?.[name] ?? 0;
      }
      for (const { source } of this.left.values()) {
        for (const name in counters) counters[name] += source.newest.pool?.[name] ?? 0;
      }
      return { gauges, counters };
    }
  }

  function stateOfPool({ answers, newest }) {
    if (!answers) return "no answer";
    if (newest.pool?.closed) return "closed";
    if (newest.started === false) return "not roving";
    return newest.pool ? "open" : "no pool";
  }

  /** Return a row of no worker yet. `seen` of `of` workers see it in the state. */
  function newRow({ key, pool, id }, size) {
    return {
      key, pool, id,
      address: null, state: UNKNOWN, seen: 0, of: 0,
      slots: [], idle: 0, leased: 0,
      rate: null, leases: 0, failures: 0,
      times: new Float64Array(size), parts: [],
      error: null, at: -Infinity, since: null, age: null,
    };
  }

  /** Add what one worker says of a server: its counters, and its gauges if it answers. */
  function addToRow(row, server, source, then, longer) {
    const { newest } = source;
    row.parts.push(server);
    row.leases += server.leases;
    row.failures += server.failures;
    row.address ??= server.address;
    const at = server.at ?? server.since ?? 0;
    if (server.error !== null && at > row.at) {
      // Ages are by the worker's clock: the browser's may differ.
      row.error = server.error;
      row.at = at;
      row.age = newest.time - at;
      row.since = server.since === null ? null : newest.time - server.since;
    }
    if (!source.answers) return;
    const rank = STATES.indexOf(server.state);
    const worst = row.of ? STATES.indexOf(row.state) : -2;
    if (rank > worst) [row.state, row.seen] = [server.state, 0];
    if (rank >= worst) row.seen += 1;
    row.of += 1;
    for (const [slot, state] of server.slots) row.slots.push([slot, state, newest]);
    row.idle += server.idle;
    row.leased += server.leased;
    const seconds = newest.time - then.time;
    const old = then.servers.get(row.key);
    if (seconds > 0.2) {
      row.rate = (row.rate ?? 0) + (old ? growth(server.leases, old.leases) / seconds : 0);
    }
    const older = longer === newest ? null : longer.servers.get(row.key);
    if (older) addGrowth(row.times, server.times, older.times);
  }

  function addGrowth(dense, now, then) {
    addCounts(dense, now);
    if (total(now) >= total(then)) addCounts(dense, then, -1);
  }

  /** What was shown during the last minutes, a sample for each answer. */
  class History {
    constructor(seconds) {
      this.seconds = seconds;
      this.samples = [];
      this.rates = new Map(); // of each server, the latest last
    }

    add(view, time) {
      const { samples, rates } = this;
      if (samples.length && time <= samples.at(-1).time) {
        samples.length = 0;
        rates.clear();
      }
      while (samples.length && samples[0].time < time - this.seconds - 5) samples.shift();
      samples.push({
        time,
        rate: view.measured ? view.rate : null,
        failureRate: view.measured ? view.failureRate : null,
        p50: view.p50,
        p99: view.p99,
        waiting: view.gauges.waiting,
        idle: view.gauges.idle + view.gauges.preparing,
        leased: view.gauges.leased,
        troubled: view.servers.filter((row) => row.state !== "up").length,
        bad: view.servers.filter((row) => BAD.has(row.state)).length,
      });
      const gone = new Set(rates.keys());
      for (const { key, rate } of view.servers) {
        const values = rates.get(key) ?? [];
        values.push(rate);
        while (values.length > samples.length) values.shift();
        rates.set(key, values);
        gone.delete(key);
      }
      for (const key of gone) rates.delete(key);
    }

    /** Return how many seconds to plot: the shortest span that has all there is. */
    span(now) {
      const age = this.samples.length ? now - this.samples[0].time : 0;
      return [60, 120].find((span) => age <= span && span < this.seconds) ?? this.seconds;
    }
  }

  // ------------------------------------------------------------------------------------ words

  const grouped = new Intl.NumberFormat("en");
  const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
  const collator = new Intl.Collator("en", { numeric: true });
  const NONE = "–";

  function count(value) {
    if (value === null) return NONE;
    if (value < 1e7) return grouped.format(value);
    return value < 1e9 ? `${(value / 1e6).toFixed(1)} M` : `${(value / 1e9).toFixed(2)} bn`;
  }

  function rate(value) {
    if (value === null) return NONE;
    if (value >= 99.95) return grouped.format(Math.round(value));
    if (value > 0 && value < 0.05) return "<0.1";
    return value === 0 ? "0" : value.toFixed(1);
  }

  function duration(seconds) {
    if (seconds === null) return NONE;
    if (seconds < 0.0009995) return `${digits(seconds * 1e6)} µs`;
    if (seconds < 0.9995) return `${digits(seconds * 1e3)} ms`;
    return `${digits(seconds)} s`;
  }

  const digits = (value) => (value < 9.95 ? value.toFixed(1) : String(Math.round(value)));

  function age(seconds) {
    if (seconds === null) return "";
    if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} d`;
  }

  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
  const many = (number_, word) => `${count(number_)} ${word}${number_ === 1 ? "" : "s"}`;
  const minutes = (seconds) => (seconds === 60 ? "minute" : `${seconds / 60} minutes`);
  const parenthesized = (words, when) => (when && words !== NONE ? `(${words})` : words);

  // ---------------------------------------------------------------------------------- drawing

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
    error: "M3.7.5h4.6L11.5 3.7v4.6L8.3 11.5h-4.6L.5 8.3v-4.6zM5.2 2.6h1.6v4h-1.6zM5.2 7.7h1.6v1.6h-1.6z",
    unreachable: "M2.2.8L6 4.6 9.8.8 11.2 2.2 7.4 6 11.2 9.8 9.8 11.2 6 7.4 2.2 11.2.8 9.8 4.6 6 .8 2.2z",
    [UNKNOWN]: "M6 1.2a4.8 4.8 0 1 0 .01 0zM6 2.6a3.4 3.4 0 1 1 -.01 0z",
  };

  function shape(state) {
    const path = drawing("path", { "fill-rule": "evenodd" });
    const svg = drawing("svg", { class: "shape", viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
    reshape(svg, state);
    return svg;
  }

  function reshape(svg, state) {
    mark(svg, "data-state", state);
    mark(svg.firstChild, "d", SHAPES[state] ?? SHAPES[UNKNOWN]);
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
    const found = slots[line * PER_LINE + column];
    if (!found || column >= PER_LINE) return mark(svg.parentNode, "title", null);
    const [slot, state, { pid, host }] = found;
    mark(svg.parentNode, "title", `slot ${slot}: ${state}, held by ${pid ?? "?"} on ${host ?? "?"}`);
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
      this.node.append(element("h3", {}, title), this.number, this.words, this.top, this.svg, below);
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
      note: (view, node) =>
        say(node, `${many(view.counters.timeouts, "timeout")}, ${count(view.counters.rejected)} rejected`),
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
    for (const [state, number_] of counts) {
      const words = `${count(number_)} ${state}`;
      node.append(element("span", { class: "tally", "data-state": state }, shape(state), words), " ");
    }
  }

  function countStates(rows) {
    const counts = new Map();
    for (const state of [...STATES, UNKNOWN]) {
      const number_ = rows.filter((row) => row.state === state).length;
      if (number_) counts.set(state, number_);
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
    return sums.map((sum, i) => (counts[i] ? sum / counts[i] : NaN));
  }

  function trendPath(means, top) {
    let path = "";
    for (let i = 0; i < TREND_STEPS; i++) {
      const height = Math.round((160 * means[i]) / top) / 10;
      if (height > 0) path += `M${2 * (TREND_STEPS - 1 - i)} 16v-${height}h2v${height}z`;
    }
    return path;
  }

  // ----------------------------------------------------------------------------------- tables

  /** A column of words: `value` is what sorts, `words` what is shown, null if nothing. */
  function words(value, show, options = {}) {
    return {
      value,
      build: (cell) => cell,
      show: (cell, row) => say(cell, show(row)),
      ...options,
    };
  }

  /** A column of numbers: right-aligned, the highest first. Those that change are `live`. */
  const numbers = (value, show, options) =>
    words(value, (row) => show(value(row)), { kind: "number", descends: true, ...options });

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
      for (const { target } of entries) {
        const fits = target.firstElementChild.offsetWidth <= target.clientWidth;
        mark(target, "data-fits", fits ? "" : null);
        mark(target, "tabindex", fits ? "-1" : "0");
      }
      for (const span of document.querySelectorAll(".clip")) unmeasured.add(span);
      measureTexts();
    });
    for (const region of document.querySelectorAll(".scroll")) observer.observe(region);
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
      mark(word.parentNode, "title", some && `${row.seen} of ${row.of} workers see it so`);
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
    address: clipped((row) => row.address, (row) => row.address ?? NONE),
    state: stateColumn,
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
      if (children[i].nextSibling !== children[i + 1]) parent.insertBefore(children[i], children[i + 1]);
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

  // --------------------------------------------------------------------------------- controls

  /** The filter, the states and the order; the hash keeps them, so that a reload does, too. */
  class Controls {
    constructor(onChange) {
      this.onChange = onChange;
      this.form = byId("controls");
      this.filter = byId("filter");
      this.clear = byId("clear");
      this.shortcut = byId("shortcut");
      this.chips = new Map(STATES.map((state) => [state, this.chip(state)]));
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.filter.addEventListener("input", () => this.changed());
      this.shortcut.addEventListener("change", () => this.save());
      this.clear.addEventListener("click", () => {
        this.showAll();
        this.filter.focus();
      });
      document.addEventListener("keydown", (event) => this.onKey(event));
      window.addEventListener("hashchange", () => this.load());
    }

    chip(state) {
      const box = element("input", { type: "checkbox", name: "state", value: state });
      const number_ = element("span", { class: "count" }, "0");
      const label = element("label", { class: "chip", "data-state": state });
      label.append(box, shape(state), `${state} `, number_);
      byId("states").append(label);
      box.addEventListener("change", () => this.changed());
      return { box, label, number: number_ };
    }

    get states() {
      return [...this.chips].filter(([, { box }]) => box.checked).map(([state]) => state);
    }

    get active() {
      return this.filter.value.trim() !== "" || this.states.length > 0;
    }

    /** Return a function that tells which rows are to be shown. */
    matcher() {
      const wanted = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const states = new Set(this.states);
      return (row) => {
        if (states.size && !states.has(row.state)) return false;
        if (!wanted.length) return true;
        const all = `${row.id ?? "(unknown)"}\n${row.address ?? ""}\n${row.error ?? ""}`.toLowerCase();
        return wanted.every((word) => all.includes(word));
      };
    }

    count(rows) {
      const counts = countStates(rows);
      for (const [state, chip] of this.chips) {
        say(chip.number, count(counts.get(state) ?? 0));
        mark(chip.label, "data-none", counts.has(state) ? null : "");
      }
    }

    changed() {
      this.save();
      this.onChange();
    }

    showAll() {
      this.filter.value = "";
      for (const { box } of this.chips.values()) box.checked = false;
      this.changed();
    }

    onKey(event) {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.key === "Escape" && !hideTip() && this.active) {
        event.preventDefault();
        this.showAll();
      }
      const typing = event.target.matches?.("input:not([type=checkbox]), textarea, select");
      if (event.key === "/" && !typing && this.shortcut.checked) {
        event.preventDefault();
        this.filter.focus();
        this.filter.select();
      }
    }

    save() {
      const kept = new URLSearchParams();
      for (const [name, table] of Object.entries(this.tables)) {
        const { first, sorted, descends, columns } = table;
        if (sorted !== first || descends !== (columns[first].descends === true)) {
          kept.set(name, (descends ? "-" : "") + sorted);
        }
      }
      if (this.filter.value.trim()) kept.set("filter", this.filter.value.trim());
      if (this.states.length) kept.set("states", this.states.join(","));
      if (!this.shortcut.checked) kept.set("slash", "off");
      const hash = kept.toString();
      if (hash === location.hash.slice(1)) return;
      history.replaceState(null, "", location.pathname + location.search + (hash && `#${hash}`));
    }

    load() {
      const kept = new URLSearchParams(location.hash.slice(1));
      for (const [name, table] of Object.entries(this.tables)) {
        const column = kept.get(name) ?? table.first;
        table.sortBy(column.replace(/^-/, ""), column.startsWith("-"));
        table.arrange(true);
      }
      this.filter.value = kept.get("filter") ?? "";
      const states = (kept.get("states") ?? "").split(",");
      for (const [state, { box }] of this.chips) box.checked = states.includes(state);
      this.shortcut.checked = kept.get("slash") !== "off";
      this.onChange();
    }
  }

  // The tip: the whole of a text that is cut, or a moment of a plot, where the pointer or the
  // focus is.
  const tip = byId("tip");

  function placeTip(words_, box) {
    say(tip, words_);
    tip.hidden = false;
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = box.bottom + tip.offsetHeight + 8 < window.innerHeight;
    tip.style.setProperty("left", `${Math.max(8, left)}px`);
    tip.style.setProperty("top", `${below ? box.bottom : box.top - tip.offsetHeight}px`);
  }

  function showTip(target) {
    if (!target || target.scrollWidth <= target.clientWidth) return;
    placeTip(target.textContent, target.getBoundingClientRect());
  }

  /** Hide it, and return whether it was there. */
  function hideTip() {
    const shown = !tip.hidden;
    tip.hidden = true;
    return shown;
  }

  function watchForTips() {
    const focused = () => document.activeElement.closest(".clip");
    document.addEventListener("pointerover", (event) => {
      const target = event.target.closest?.(".clip");
      if (target) showTip(target);
      else if (!tip.contains(event.target) && !focused()) hideTip();
    });
    document.addEventListener("focusin", () => showTip(focused()));
    document.addEventListener("focusout", hideTip);
    const follow = () => hideTip() && showTip(focused());
    document.addEventListener("scroll", follow, { capture: true, passive: true });
  }

  // --------------------------------------------------------------------------------- the page

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
  ];

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
      const response = await fetch("workers.ndjson", { signal: controller.signal, cache: "no-store" });
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
    const words_ = silent.length ? `, ${silent.length} ${lack}: ${named}${more}` : "";
    say(byId("workers"), many(workers.size, "worker") + words_);
    const stale = isStale(now);
    say(byId("updated"), `updated ${clock(answeredAt)}${stale ? `, ${age(now - answeredAt)} ago` : ""}`);
    const bad = view.servers.filter((row) => row.state === "unreachable").length;
    document.title = `${bad && !stale ? `${bad} unreachable · ` : ""}gevent_rover`;
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
    const number_ = view.servers.length;
    say(byId("shown"), active ? `${servers.shown} of ${many(number_, "server")}` : "");
    if (controls.clear.hidden === active) {
      if (document.activeElement === controls.clear) controls.filter.focus();
      controls.clear.hidden = !active;
    }
    const empty = byId("servers").nextElementSibling;
    empty.hidden = servers.shown > 0;
    say(empty, number_ ? "No server is like that." : "No worker knows any server.");
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
    const since = answeredAt === null ? "" : ` since ${clock(answeredAt)}. Below is what was known then`;
    say(byId("banner"), stale ? `No answer${since}. The page keeps asking.` : "");
    if (!view || document.hidden || !stale) return;
    showHeader(now);
    showPlots(now);
  }

  function start() {
    byId("panels").append(...panels.map((panel) => panel.node));
    for (const [state, meaning] of LEGEND) {
      const term = element("dt", { "data-state": state }, shape(state), state);
      byId("legend").append(term, element("dd", {}, meaning));
    }
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
})();
