// All workers as one, and the last minutes.

/** All workers, and those that were: what the page knows. */
class Fleet {
  constructor() {
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

  /** Return what is to be shown. */
  view(now) {
    const all = { times: noCounts(), rate: 0, failureRate: 0, measured: false };
    const servers = new Map();
    const pools = [];
    for (const source of this.sources.values()) {
      pools.push(this.poolRow(source, all));
      if (!source.newest) continue;
      const then = source.before(RATE_SECONDS);
      const longer = source.before(LATENCY_SECONDS);
      for (const server of source.newest.servers.values()) {
        let row = servers.get(server.key);
        if (!row) servers.set(server.key, (row = newRow(server)));
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
      p50: quantile(all.times, 0.5),
      p99: quantile(all.times, 0.99),
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
      times = noCounts();
      for (const part of [...row.parts, ...parts]) addCounts(times, part.times);
    }
    row.p50 = quantile(times, 0.5);
    row.p99 = quantile(times, 0.99);
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
    const waits = noCounts();
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
    row.wait = quantile(waits, 0.99);
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
function newRow({ key, pool, id }) {
  return {
    key, pool, id,
    address: null, state: UNKNOWN, seen: 0, of: 0,
    slots: [], idle: 0, leased: 0,
    rate: null, leases: 0, failures: 0,
    times: noCounts(), parts: [],
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
    row.age = server.at === null ? null : newest.time - server.at;
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
