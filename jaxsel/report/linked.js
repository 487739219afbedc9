"use strict";
// What the pages of jaxsel share: tables, charts that Vega draws, and brushes that choose bins of P(mixed) and steps.
const linked = {
  percent: share => (share * 100).toFixed(share < 0.0995 ? 1 : 0) + "%",
  count: number => number.toLocaleString("en-US"),

  rowsOf: ({ length, columns }) =>
    Array.from({ length }, (_, i) =>
      Object.fromEntries(Object.entries(columns).map(([name, { values, levels }]) => [name, levels ? levels[values[i]] : values[i]]))),

  // the names of the tables that a chart reads
  tablesOf: spec => [...new Set((JSON.stringify(spec).match(/"data":\{"name":"[^"]+"/g) || []).map(found => found.slice(16, -1)))],

  // rows of its own for each chart, because Vega writes into them
  copies: rows => rows.map(row => ({ ...row })),

  async embed(element, spec, tables) {
    const used = linked.tablesOf(spec).filter(name => tables[name]);
    const datasets = Object.fromEntries(used.map(name => [name, linked.copies(tables[name])]));
    // logLevel 1: errors alone. A selection without groups is no reason for a warning
    const options = { actions: false, renderer: "canvas", tooltip: { theme: "light" }, logLevel: 1 };
    return (await vegaEmbed(element, { ...spec, datasets: { ...spec.datasets, ...datasets } }, options)).view;
  },

  // Calls `chose` with the ranges of a brush; with a `field`, a click chooses the nearest value, and a drag ends in one, too.
  listen(view, element, brush, field, chose) {
    if (field) {
      view.addEventListener("click", event => {
        const [from, to] = Object.values(view.signal(brush) || {})[0] || [0, 0];
        if (from !== to) return;
        const x = event.clientX - element.querySelector("canvas").getBoundingClientRect().left - view.origin()[0];
        const at = view.scale("x").invert(x);
        chose({ [field]: [at, at] });
      });
    }
    // Vega starts a brush in the chart over which the pointer has moved before, and a finger has not moved before it presses.
    element.addEventListener("pointerdown", ({ pointerType, target, clientX, clientY }) => {
      if (pointerType === "touch") target.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
    }, true);
    view.addSignalListener(brush, (_, value) => chose(value || {}));
  },

  // The signals with the place of a brush in pixels. A brush over a field "x" has the suffix _1, because Vega-Lite gives
  // the name without it to the brushed values.
  places(view, brush) {
    const names = Object.keys(view.getState().signals);
    const named = axis => [`${brush}_${axis}_1`, `${brush}_${axis}`].find(name => names.includes(name));
    return ["x", "y"].map(named).filter(name => name);
  },

  async setBack(view, brush) {
    for (const name of linked.places(view, brush)) view.signal(name, [0, 0]);
    await view.runAsync();
  },

  // A bin is chosen with its middle, and a short range chooses the bin around it.
  within(range, last) {
    if (!range) return [0, last];
    const [low, high] = range.map(value => Math.min(Math.max(value, 0), 0.9999));
    const bin = Math.floor((low + high) / 2 * (last + 1));
    const from = Math.max(Math.ceil(low * (last + 1) - 0.5), 0), to = Math.floor(high * (last + 1) - 0.5);
    return from <= to ? [from, to] : [bin, bin];
  },

  bins(range, last) {
    const [first_bin, last_bin] = linked.within(range, last);
    return { first_bin, last_bin };
  },

  // The steps in a range; a short range chooses the nearest step.
  steps([low, high], all) {
    const steps = [...new Set(all)].sort((a, b) => a - b);
    const within = steps.filter(step => step >= low && step <= high);
    if (within.length) return { first_step: within[0], last_step: within[within.length - 1] };
    const near = steps.reduce((a, b) => (Math.abs(b - low) < Math.abs(a - low) ? b : a));
    return { first_step: near, last_step: near };
  },

  // What the page shows in words of the chosen groups.
  said(rows, method) {
    const said = [];
    const sum = name => rows.reduce((total, row) => total + row[name], 0);
    const groups = sum("groups");
    said.push(`${linked.count(groups)} groups`);
    if (groups) {
      const [expected, mixed] = ["predicted", "mixed"].map(name => linked.percent(sum(name) / groups));
      said.push(`${method} expected ${expected} of them to be mixed, ${mixed} were`);
    }
    return said;
  },

  choseBins: (state, first) => state.first_bin > first.first_bin || state.last_bin < first.last_bin,

  chosen(state, first) {
    const said = [];
    const label = document.querySelector(`#part option[value="${state.part}"]`);
    if (linked.choseBins(state, first)) said.push(`predicted probability ${state.first_bin * 10} to ${state.last_bin * 10 + 10}%`);
    if (state.first_step > first.first_step || state.last_step < first.last_step) {
      const [from, to] = [state.first_step, state.last_step].map(linked.count);
      said.push(from === to ? `step ${from}` : `steps ${from} to ${to}`);
    }
    if (state.part >= 0 && label) said.push(`prompts ${label.textContent}`);
    return said;
  },

  // Calls `draw` at most once per frame, because a drag makes many changes.
  oncePerFrame(draw) {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; draw(); });
    };
  },

  // Sets the parameters of all charts and draws them, and counts the drawings for the tests.
  async show(views, state, names) {
    for (const view of Object.values(views)) {
      for (const name of names) view.signal(name, state[name]);
    }
    await Promise.all(Object.values(views).map(view => view.runAsync()));
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  },
};
