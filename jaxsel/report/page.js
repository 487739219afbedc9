// Links the charts: a choice in one of them, or in a menu, sets the same parameter in all. Vega aggregates the cells.
(async () => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const element = id => document.getElementById(id);
  const { percent, count, rowsOf } = linked;
  const tables = Object.fromEntries(Object.entries(page.tables).map(([name, table]) => [name, rowsOf(table)]));
  const first = { ...page.parameters, search: "" };
  const state = { ...first };
  const views = {};
  const texts = new Map(tables.prompts.map(row => [row.prompt, row.text]));
  const inside = (value, [low, high]) => value >= low && value <= high;

  const ofMethod = method => row =>
    row.method === method && (row.kind === undefined || row.kind === state.kind) &&
    (state.part < 0 || row.part === state.part) && row.bin >= state.first_bin && row.bin <= state.last_bin &&
    inside(row.rate_bin, state.rates) && inside(row.deviation_bin, state.deviations) &&
    (row.step === undefined || (row.step >= state.first_step && row.step <= state.last_step));

  const ofRow = row => ofMethod(state.method)(row);

  // Each method is shown where its own prediction is in the chosen range, so that their groups differ.
  function ofOthers() {
    const others = [...new Set(tables.cells.map(row => row.method))].filter(method => method !== state.method);
    const groups = method => tables.cells.filter(ofMethod(method)).reduce((total, row) => total + row.groups, 0);
    const said = others.map(method => `${count(groups(method))} of ${method}`).join(", ");
    return said && `other methods are shown by their own predictions in this range (${said})`;
  }

  // What is chosen on the map of the pool, in words.
  function ofMap() {
    const said = [];
    const chosen = name => state[name][0] > first[name][0] || state[name][1] < first[name][1];
    const from_to = ([low, high]) => `${10 * low} to ${10 * high + 10}%`;
    if (chosen("rates")) said.push(`predicted success rate ${from_to(state.rates)}`);
    if (chosen("deviations")) said.push(`its standard deviation ${from_to(state.deviations)}`);
    return said;
  }

  function ofSearch(prompt) {
    const word = state.search.trim().toLowerCase();
    if (texts.has(Number(word)) && word) return prompt === Number(word);
    return !word || (texts.get(prompt) || "").toLowerCase().includes(word);
  }

  const columns = page.judged
    ? [
        ["prompt", row => row.prompt], ["text", row => texts.get(row.prompt)],
        ["predicted probability of a mixed group", row => percent(row.mixed)], ["predicted success rate", row => percent(row.rate)],
        ["correct rollouts", row => `${row.successes} of ${row.rollouts}`], ["step", row => count(row.step)],
        ["surprise (nats)", row => row.surprise.toFixed(2)],
      ]
    : [
        ["prompt", row => row.prompt], ["text", row => texts.get(row.prompt)],
        ["predicted probability of a mixed group", row => percent(row.mixed)], ["predicted success rate", row => percent(row.rate)],
        ["visits", row => count(row.visits)],
      ];
  const shownColumns = page.texts ? columns : columns.filter(([title]) => title !== "text");
  const kindOf = title => (title === "text" || title === "prompt" ? title : "number");

  function cell(tag, title, content) {
    const made = document.createElement(tag);
    made.className = kindOf(title);
    made.dataset.title = title;  // a phone shows it beside the content
    made.append(content);
    return made;
  }

  function drawTable() {
    const all = (page.judged ? tables.groups : tables.present).filter(ofRow);
    const found = all.filter(row => ofSearch(row.prompt));
    const surprise = row => row.surprise ?? row.mixed;
    found.sort((a, b) => surprise(b) - surprise(a));
    const some = found.slice(0, 60);
    element("table").tBodies[0].replaceChildren(...some.map(row => {
      const made = document.createElement("tr");
      made.className = row.prompt === state.prompt ? "chosen" : "";
      made.append(...shownColumns.map(([title, value]) => {
        if (title !== "prompt") return cell("td", title, value(row) ?? "");
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = row.prompt;
        button.title = "Follow this prompt";
        button.addEventListener("click", () => {
          set({ prompt: row.prompt });
          (element("trajectory") || element("map")).scrollIntoView({ behavior: "smooth", block: "center" });
        });
        return cell("td", title, button);
      }));
      return made;
    }));
    if (!found.length && all.length && state.search.trim()) {
      element("shown").textContent = `None of the ${count(tables.prompts.length)} prompts that the page follows has this ` +
        "number or text among the chosen groups.";
      return;
    }
    const sample = `The page follows ${count(tables.prompts.length)} of ${count(page.num_prompts)} prompts.`;
    const what = page.judged ? "groups" : "prompts";
    const order = page.judged ? "the most surprising first" : "the likeliest to be mixed first";
    element("shown").textContent =
      `${sample} These are ${count(some.length)} of their ${count(found.length)} chosen ${what}, ${order}. ` +
      "Press a prompt's number to follow it.";
  }

  function drawStatus() {
    const said = page.judged ? linked.said(tables.cells.filter(ofRow), state.method) : [];
    said.push(...linked.chosen(state, first));
    said.push(...ofMap());
    const others = page.judged && (linked.choseBins(state, first) || ofMap().length) && ofOthers();
    if (others) said.push(others);
    element("status").textContent = said.join("; ");
    const heading = element("trajectory-title");
    const text = texts.get(state.prompt);
    if (heading) heading.textContent = `Prompt ${state.prompt}` + (text ? `: ${text}` : "");
    for (const said of document.querySelectorAll("[data-method]")) said.textContent = state.method;
    for (const said of document.querySelectorAll("[data-score]")) said.textContent = page.scores[state.score];
    for (const name of ["colour", "meaning_colour"]) {
      const number = page.colours[state[name]];
      const text = number ? `${number}: the darker, the more` : "commonest label";
      for (const said of document.querySelectorAll(`[data-${name}]`)) said.textContent = text;
    }
  }

  const redraw = linked.oncePerFrame(async () => {
    for (const id of ["kind", "method", "part", "score", "colour", "meaning_colour"]) {
      if (element(id)) element(id).value = String(state[id]);
    }
    drawStatus();
    drawTable();
    await linked.show(views, state, Object.keys(page.parameters));
  });
  function set(changes) {
    Object.assign(state, changes);
    redraw();
  }

  function choseSteps(range) {
    if (!range) return set({ first_step: first.first_step, last_step: first.last_step });
    set(linked.steps(range, tables.cells.filter(row => row.kind === state.kind).map(row => row.step)));
  }

  const brushes = {
    reliability: ["chosen_bins", "x", value => set(linked.bins(value.x, first.last_bin))],
    scores: ["chosen_steps", "step", value => choseSteps(value.step)],
    map: ["chosen_beliefs", null, value => set({
      rates: linked.within(value.left, first.rates[1]),
      deviations: linked.within(value.low && value.low.map(deviation => 2 * deviation), first.deviations[1]),  // at most 1/2
    })],
  };

  async function draw(name, spec) {
    views[name] = await linked.embed(element(name), spec, tables);
    if (!brushes[name]) return;
    const [brush, field, chose] = brushes[name];
    linked.listen(views[name], element(name), brush, field, value => { if (!clearing) chose(value); });
  }

  let clearing = false;  // while the brushes are set back, they choose nothing
  async function clear() {
    clearing = true;
    for (const [name, [brush]] of Object.entries(brushes)) if (views[name]) await linked.setBack(views[name], brush);
    clearing = false;
    element("search").value = "";
    const kept = ["method", "kind", "score", "colour", "meaning_colour", "prompt"];
    set({ ...first, ...Object.fromEntries(kept.map(name => [name, state[name]])) });
  }

  element("table").tHead.append(document.createElement("tr"));
  element("table").tHead.rows[0].append(...shownColumns.map(([title]) => cell("th", title, title)));
  element("clear").addEventListener("click", clear);
  element("search").addEventListener("input", event => set({ search: event.target.value }));
  for (const select of document.querySelectorAll("select")) {
    select.addEventListener("change", () => set({ [select.id]: select.id === "part" ? Number(select.value) : select.value }));
  }
  for (const [name, spec] of Object.entries(page.charts)) await draw(name, spec);
  window.report = { state, views, set };  // for the tests, and for curious readers
  set({});
  document.body.dataset.ready = "true";
  const frame = window.frameElement;  // in a notebook: as high as the page
  if (frame) frame.style.height = `${document.documentElement.scrollHeight + 20}px`;
})();
