// Numbers and times as text.

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
const many = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const minutes = (seconds) => (seconds === 60 ? "minute" : `${seconds / 60} minutes`);
const parenthesized = (words, when) => (when && words !== NONE ? `(${words})` : words);
