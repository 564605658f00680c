// Filters, sorting, keys.

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
    const number = element("span", { class: "count" }, "0");
    const label = element("label", { class: "chip", "data-state": state });
    label.append(box, shape(state), `${state} `, number);
    byId("states").append(label);
    box.addEventListener("change", () => this.changed());
    return { box, label, number: number };
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
      const all = [row.id ?? "(unknown)", row.address, row.error].join("\n").toLowerCase();
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

function placeTip(words, box) {
  say(tip, words);
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
  const focused = () => document.activeElement?.closest(".clip");
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
