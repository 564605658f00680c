// What workers say, read with care: whatever it is, something harmless comes of it.
// Nothing here knows the document; one bad line costs only itself.

const STATES = ["up", "slow", "draining", "suspect", "set aside", "error", "unreachable"];
const FINE = new Set(["up", "slow", "draining"]); // an error that is there is over
const BAD = new Set(["error", "unreachable"]);
const UNKNOWN = "unknown"; // no worker that answers knows the server
// Upper bounds of the counts of a histogram, in seconds, as in policy/histogram.py; one more
// is beyond them.
const BOUNDS = [-5, -4, -3, -2, -1, 0, 1]
  .flatMap((decade) => [1, 1.5, 2, 3, 5, 7].map((digits) => Number(`${digits}e${decade}`)))
  .concat(100);

const RATE_SECONDS = 3; // rates are of so many seconds: a death shows at once,
const LATENCY_SECONDS = 10; // and quantiles of so many: a few leases tell little
const FOLD_SECONDS = 60; // a worker that is gone for so long doesn't come back
const FORGET_SECONDS = 3600; // a server that is gone for so long is forgotten

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const asObject = (value) => (isObject(value) ? value : {});
const asList = (value) => (Array.isArray(value) ? value : []);
const asNumber = (value) => (Number.isFinite(value) && value > 0 ? value : 0);
const asText = (value) => (typeof value === "string" ? value : null);
const asInstant = (value) => (Number.isFinite(value) ? value : null);

/** Return what each line says: `{where, snapshot}` or `{where, error}`. */
function readLines(body) {
  return body.split("\n").filter((line) => line.trim()).map(readLine);
}

function readLine(line) {
  let raw;
  try {
    raw = asObject(JSON.parse(line));
  } catch {
    return { where: null, error: "its line isn't JSON" };
  }
  const where = asText(raw.where);
  if (isObject(raw.snapshot)) return { where, snapshot: readSnapshot(raw.snapshot) };
  return { where, error: asText(raw.error) ?? "its line has no snapshot" };
}

const POOL_NUMBERS = [
  "size", "idle", "leased", "preparing", "retired", "candidates", "waiting", "max_slots",
  "leases", "failures", "timeouts", "rejected",
];

function readSnapshot(raw) {
  const worker = asObject(raw.worker);
  const places = placesOf(raw.bounds);
  const pool = isObject(raw.pool) ? readPool(raw.pool, places) : null;
  const servers = new Map();
  for (const each of asList(raw.servers)) {
    if (!isObject(each)) continue;
    const server = readServer(each, pool?.name ?? null, places);
    servers.set(server.key, server);
  }
  return {
    time: asNumber(raw.time),
    worker: asText(worker.id),
    pid: asInstant(worker.pid),
    host: asText(worker.host),
    started: isObject(raw.rover) ? raw.rover.started !== false : null,
    pool,
    servers,
  };
}

function readPool(raw, places) {
  const pool = { name: asText(raw.name) ?? "", closed: raw.closed === true };
  for (const name of POOL_NUMBERS) pool[name] = asNumber(raw[name]);
  pool.waits = readCounts(raw.wait_times, places);
  return pool;
}

function readServer(raw, pool, places) {
  const times = readCounts(raw.lease_times, places);
  const id = raw.id === undefined || isObject(raw.id) ? null : raw.id;
  return {
    key: JSON.stringify([pool, id]),
    pool,
    id: id === null ? null : String(id),
    address: asText(raw.address),
    state: asText(raw.state) ?? UNKNOWN,
    slots: asList(raw.slots).filter((slot) => Array.isArray(slot) && Number.isFinite(slot[0])),
    idle: asNumber(raw.idle),
    leased: asNumber(raw.leased),
    preparing: asNumber(raw.preparing),
    retired: asNumber(raw.retired),
    leases: asNumber(raw.leases),
    failures: asNumber(raw.failures),
    times,
    answered: total(times),
    error: asText(raw.error) || null,
    since: asInstant(raw.error_since),
    at: asInstant(raw.error_at),
  };
}

/** Return which of our counts each of theirs goes to: another version may have others. */
function placesOf(bounds) {
  const theirs = [...asList(bounds).map(asNumber), Infinity];
  if (theirs.length === BOUNDS.length + 1 && BOUNDS.every((bound, i) => bound === theirs[i])) {
    return OURS;
  }
  if (!theirs.every((bound, i) => bound > (theirs[i - 1] ?? 0))) return [];
  const fits = (bound) => BOUNDS.findIndex((ours) => ours >= bound);
  return theirs.map((bound) => (fits(bound) < 0 ? BOUNDS.length : fits(bound)));
}

const OURS = [...BOUNDS.keys(), BOUNDS.length];

/** Return a sparse histogram as `[index, count, index, count, …]`. */
function readCounts(raw, places) {
  const counts = [];
  for (const pair of asList(raw)) {
    const [index, count] = Array.isArray(pair) ? pair : [];
    const place = Number.isInteger(index) ? places[index] : undefined;
    if (place !== undefined && count > 0) counts.push(place, asNumber(count));
  }
  return counts;
}

const noCounts = () => new Float64Array(BOUNDS.length + 1);

/** Add a sparse histogram, `sign` times, to a dense one. */
function addCounts(dense, counts, sign = 1) {
  for (let i = 0; i < counts.length; i += 2) dense[counts[i]] += sign * counts[i + 1];
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
function quantile(dense, share) {
  let wanted = 0;
  for (const count of dense) wanted += count;
  if (!(wanted > 0)) return null;
  wanted *= share;
  let seen = 0;
  for (let i = 0; i < BOUNDS.length; i++) {
    const count = dense[i];
    if (count > 0 && seen + count >= wanted) {
      const lower = i ? BOUNDS[i - 1] : 0;
      return lower + ((BOUNDS[i] - lower) * Math.max(0, wanted - seen)) / count;
    }
    seen += count;
  }
  return BOUNDS.at(-1);
}

/** Say by how much a counter grew; one that fell began again. */
const growth = (now, then) => (now < then ? now : now - then);
