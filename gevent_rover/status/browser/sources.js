// What each worker has counted, and what it leaves when it ends.

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
    const { time } = this.newest;
    const found = this.snapshots.findIndex((each) => each.time >= time - seconds - 0.5);
    // One that didn't answer for long, and perhaps twice then: since its last answer.
    const late = time - this.snapshots[found].time < 0.5;
    return this.snapshots[late && found > 0 ? found - 1 : found];
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
