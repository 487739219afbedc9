// Draws the runs and their charts, and refreshes the data of the charts. What the reader has chosen stays chosen.
(async () => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const element = id => document.getElementById(id);
  const live = page.every !== null;
  const ofGroups = ["reliability", "shares", "scores", "pit", "coverage"];
  const menus = ["at", "smooth", "metric", "probe", "kind", "method", "part", "score"];
  let drawn = page.drawn;  // what depends on the names of the runs
  let latest = page.snapshot;
  let receivedAt = performance.now();
  const first = { ...drawn.parameters };
  const state = { ...first };
  const hidden = new Set();
  const rows = Object.create(null);  // rows by run and table; a run may have the name "constructor"
  let views = {};

  const visible = () => drawn.names.filter(name => !hidden.has(name));
  const tableOf = name => visible().flatMap(run => rows[run]?.[name] || []);
  const tables = () => Object.fromEntries(["training", "probes", "cells", "curve"].map(name => [name, tableOf(name)]));

  function take(snapshot) {
    latest = snapshot;
    receivedAt = performance.now();
    for (const [run, found] of Object.entries(snapshot.tables)) {
      rows[run] ??= {};
      for (const [name, table] of Object.entries(found)) {
        if (table) rows[run][name] = linked.rowsOf(table).map(row => ({ ...row, method: run }));
        else delete rows[run][name];
      }
    }
    for (const run of Object.keys(rows)) if (!(run in snapshot.runs)) delete rows[run];
    snapshot.tables = {};
  }

  // the runs

  function duration(seconds) {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} days`;
  }

  function made(tag, className, text) {
    const element = document.createElement(tag);
    element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function swatch(run) {
    const [colour, dashes] = drawn.looks[run];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ width: 36, height: 10, "aria-hidden": true })) svg.setAttribute(name, value);
    const looks = { x1: 1, x2: 35, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dashes.join(" ") };
    for (const [name, value] of Object.entries(looks)) line.setAttribute(name, value);
    svg.append(line);
    return svg;
  }

  function makeRuns() {
    element("runs").replaceChildren(...drawn.names.map(run => {
      const item = made("li", "");
      const label = made("label", "");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hidden.has(run);
      box.addEventListener("change", () => toggle([run], box.checked));
      const name = made("span", "");
      for (const part of run.split(/(?<=[,/])/)) name.append(part, document.createElement("wbr"));  // a long name breaks after commas
      label.append(box, swatch(run), name);
      label.title = latest.runs[run].folder;
      item.append(label, made("div", "progress"), made("div", "numbers"), made("div", "link"));
      item.dataset.run = run;
      return item;
    }));
    element("shown").hidden = drawn.names.length < 3;
  }

  function drawRuns() {
    const waited = live ? (performance.now() - receivedAt) / 1000 : 0;
    for (const item of element("runs").children) {
      const run = item.dataset.run;
      const now = latest.runs[run];
      item.classList.toggle("off", hidden.has(run));
      const said = [];
      if (now.steps) said.push(now.of === null ? `last step ${linked.count(now.steps)}` : `last step ${linked.count(now.steps)} of ${linked.count(now.of)}`);
      if (now.steps && now.age !== null) said.push(`${duration(now.age + waited)} ago`);
      if (now.left !== null) said.push(`about ${duration(now.left)} left`);
      const progress = item.querySelector(".progress");
      if (!progress.firstChild) progress.append(made("span", "state"), made("span", "rest"));
      progress.firstChild.textContent = now.state;
      progress.childNodes[1].textContent = said.length ? `: ${said.join(", ")}` : "";
      let bar = progress.querySelector("progress");
      if (now.steps && now.of && !bar) {
        bar = document.createElement("progress");
        bar.setAttribute("aria-label", "steps that are done");
        progress.append(bar);
      }
      if (bar) [bar.max, bar.value] = [now.of || 1, now.steps];
      const numbers = [];
      if (now.held_out !== null) numbers.push(`held-out accuracy ${now.held_out.toFixed(3)}`);
      if (now.reward !== null) numbers.push(`reward ${now.reward.toFixed(3)}`);
      item.querySelector(".numbers").textContent = numbers.join(", ");
      const link = item.querySelector(".link");
      if (now.history && live && !link.firstChild) {
        const report = made("a", "", "full report");
        report.href = `report?run=${encodeURIComponent(run)}`;
        report.target = "_blank";
        report.title = "A verdict in words, the map of the pool and single prompts; it takes some seconds";
        link.append(report);
      }
      for (const old of item.querySelectorAll(".note")) old.remove();
      item.append(...now.notes.map(note => made("div", "note", note)));
    }
  }

  // one after the other: a chart that is being made has no data to replace yet
  let work = Promise.resolve();
  const inTurn = task => (work = work.then(task, task));

  async function toggle(runs, isShown) {
    for (const run of runs) isShown ? hidden.delete(run) : hidden.add(run);
    for (const item of element("runs").children) item.querySelector("input").checked = !hidden.has(item.dataset.run);
    drawRuns();
    await inTurn(update);
  }

  // the charts

  function fill(id, options) {
    const menu = element(id);
    const before = Array.from(menu.options, option => [option.value, option.text].join("\n")).join("\n");
    const wanted = Object.entries(options);
    if (wanted.flat().join("\n") === before) return;
    menu.replaceChildren(...wanted.map(([value, text]) => new Option(text, value)));
  }

  function fillMenus() {
    for (const [id, options] of Object.entries(latest.menus)) fill(id, options);
    const recorded = visible().filter(run => rows[run]?.cells);
    fill("method", Object.fromEntries(recorded.map(run => [run, run])));
    if (!recorded.includes(state.method)) state.method = recorded[0] || "";
    const kinds = new Set(tableOf("cells").map(row => row.kind));
    if (kinds.size && !kinds.has(state.kind)) state.kind = kinds.has("probes") ? "probes" : "ahead";
    for (const id of menus) element(id).value = String(state[id]);
  }

  function drawStatus() {
    fillMenus();
    const chosen = tableOf("cells").filter(row =>
      row.method === state.method && row.kind === state.kind && (state.part < 0 || row.part === state.part) &&
      row.bin >= state.first_bin && row.bin <= state.last_bin && row.step >= state.first_step && row.step <= state.last_step);
    element("status").textContent = [...linked.said(chosen, state.method), ...linked.chosen(state, first)].join("; ");
    for (const said of document.querySelectorAll("[data-method]")) said.textContent = state.method;
    for (const said of document.querySelectorAll("[data-score]")) said.textContent = page.scores[state.score];
  }

  const show = async () => {
    drawStatus();
    await linked.show(views, state, Object.keys(drawn.parameters));
  };
  const redraw = linked.oncePerFrame(show);
  function set(changes) {
    Object.assign(state, changes);
    redraw();
  }

  function choseSteps(range) {
    const steps = tableOf("cells").filter(row => row.kind === state.kind).map(row => row.step);
    const all = { first_step: first.first_step, last_step: first.last_step };
    set(range && steps.length ? linked.steps(range, steps) : all);
  }

  const brushes = {
    reliability: ["chosen_bins", "x", value => set(linked.bins(value.x, first.last_bin))],
    scores: ["chosen_steps", "step", value => choseSteps(value.step)],
  };
  let still = false;  // while the page itself moves a brush, or draws new data under it, the brush chooses nothing

  // only charts that can be seen have a width
  function wanted() {
    const some = Object.values(rows).some(of => of.cells);
    element("predictions").hidden = !some;
    element("without").hidden = some;
    return Object.keys(drawn.charts).filter(name => some || !ofGroups.includes(name));
  }

  async function drawAll(names) {
    const moved = Object.fromEntries(Object.entries(brushes).filter(([name]) => views[name])
      .map(([name, [brush]]) => [name, views[name].signal(linked.places(views[name], brush)[0])]));
    for (const view of Object.values(views)) view.finalize();
    views = {};
    const data = tables();
    for (const name of names) {
      views[name] = await linked.embed(element(name), drawn.charts[name], data);
      if (!brushes[name]) continue;
      const [brush, field, chose] = brushes[name];
      if (moved[name]) await views[name].signal(linked.places(views[name], brush)[0], moved[name]).runAsync();
      linked.listen(views[name], element(name), brush, field, value => { if (!still) chose(value); });
    }
    window.watch.views = views;
    await show();
  }

  // Gives the charts their data: no chart is made anew unless there are other runs, or the first predictions.
  async function update() {
    const names = wanted();
    if (names.join() !== Object.keys(views).join()) return drawAll(names);
    const data = tables();
    still = true;
    for (const [name, view] of Object.entries(views)) {
      for (const table of linked.tablesOf(drawn.charts[name])) if (data[table]) view.data(table, linked.copies(data[table]));
    }
    await show();
    still = false;
  }

  async function clear() {
    still = true;
    for (const [name, [brush]] of Object.entries(brushes)) if (views[name]) await linked.setBack(views[name], brush);
    still = false;
    const kept = ["method", "kind", "score", "at", "smooth", "metric", "probe"];
    set({ ...first, ...Object.fromEntries(kept.map(name => [name, state[name]])) });
  }

  // the refreshes

  let timer = null, paused = false, ended = "", busy = false;

  function drawNews() {
    const at = latest.at.slice(11);
    element("said").classList.toggle("ended", Boolean(ended));
    if (!live) element("said").textContent = `A snapshot of ${latest.at}.`;
    else if (ended) element("said").textContent = `${ended} The page shows what it read at ${at}${paused ? "" : `, and asks again every ${duration(page.every)}`}.`;
    else if (paused) element("said").textContent = `Paused. The page shows what it read at ${at}.`;
    else element("said").textContent = `Read at ${at}, and again every ${duration(page.every)}.`;
    element("buttons").hidden = !live;
    element("now").textContent = ended ? "Try again" : "Read now";
    element("pause").hidden = Boolean(ended);
    element("pause").textContent = paused ? "Go on" : "Pause";
  }

  async function asked(address) {
    const response = await fetch(address, { cache: "no-store" });
    if (!response.ok) throw new Error(await response.text());
    return response.json();
  }

  async function refresh() {
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    try {
      const snapshot = await asked(`data?since=${latest.version}`);
      const changed = Object.keys(snapshot.tables).length > 0;
      ended = "";
      take(snapshot);
      if (snapshot.drawn) {  // there are other runs
        drawn = snapshot.drawn;
        makeRuns();
        await inTurn(() => drawAll(wanted()));
      } else if (changed) await inTurn(update);
    } catch (error) {
      const gone = error instanceof TypeError;  // fetch itself failed
      ended = gone ? "The server has ended, or cannot be reached." : `The server could not read the runs: ${error.message}.`;
    }
    busy = false;
    drawNews();
    drawRuns();
    document.body.dataset.refreshed = String(Number(document.body.dataset.refreshed || 0) + 1);
    later();
  }

  function later() {
    clearTimeout(timer);
    if (live && !paused) timer = setTimeout(() => (document.hidden ? later() : refresh()), latest.behind && !ended ? 200 : page.every * 1000);
  }

  element("now").addEventListener("click", refresh);
  element("pause").addEventListener("click", () => { paused = !paused; paused ? clearTimeout(timer) : refresh(); drawNews(); });
  element("everyone").addEventListener("click", () => toggle(drawn.names, true));
  element("nobody").addEventListener("click", () => toggle(drawn.names, false));
  element("clear").addEventListener("click", clear);
  for (const id of menus) {
    element(id).addEventListener("change", event => set({ [id]: id === "part" ? Number(event.target.value) : event.target.value }));
  }
  document.addEventListener("visibilitychange", () => { if (live && !document.hidden && !paused) refresh(); });

  window.watch = { state, hidden, rows, views, refresh, version: () => latest.version };  // for the tests, and for curious readers
  element("footer").textContent = live
    ? "Made by experiments.watch. Pages without a server: python -m experiments.watch RUN... --out page.html"
    : "Made by experiments.watch. The file holds its data and scripts, and works offline.";
  take(latest);
  makeRuns();
  drawRuns();
  drawNews();
  await drawAll(wanted());
  if (live) setInterval(drawRuns, 1000);
  later();
  document.body.dataset.ready = "true";
})();
