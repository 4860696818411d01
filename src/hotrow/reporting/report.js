// Draws the report: charts by plotly from the data in the page, sorting and finding in its table of tables.
// Texts reach the page through textContent alone, so no name in the data is ever markup.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const tables = data.tables;
  const WHERE = ["hbm", "dram", "pinned", "ssd"];
  const NAMES = {
    hbm: "hbm: GPU memory", dram: "dram: memory", pinned: "pinned: on ssd, with a copy in memory for ever",
    ssd: "ssd: behind the cache",
  };
  let open = 0;
  let scale = "log";
  const byId = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const isKnown = (where) => WHERE.includes(where);
  const colorOf = (where) => color(isKnown(where) ? where : "other");
  const percent = (share) => (100 * share).toFixed(1) + " %";
  const count = (value) => Math.round(value).toLocaleString("en-US");
  const digits = (value) => (value >= 99.95 ? count(value) : value.toFixed(value >= 9.995 ? 1 : 2));
  const seconds = (value) => {
    for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]]) {
      if (value >= size) return digits(value / size) + " " + unit;
    }
    return value === 0 ? "0 ms" : digits(value * 1e9) + " ns";
  };

  function element(tag, attributes, text) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) found.setAttribute(name, value);
    if (text !== undefined) found.textContent = text;
    return found;
  }

  function layout(x, y, more) {
    const axis = { gridcolor: color("grid"), linecolor: color("line"), zerolinecolor: color("line"), automargin: true };
    return Object.assign({
      margin: { l: 10, r: 16, t: 12, b: 10 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("text"), family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("text") }, align: "left" },
      legend: { orientation: "h", yref: "paper", y: -0.2, yanchor: "top", x: 0 },
      xaxis: Object.assign({}, axis, x, { title: Object.assign({ standoff: 8 }, x.title) }), yaxis: Object.assign({}, axis, y),
    }, more || {});
  }

  function draw(id, traces, chart) {
    const place = byId(id);
    place.classList.remove("empty");
    if (!place.querySelector(".plotly")) place.textContent = "";
    Plotly.react(place, traces, chart, { displayModeBar: false, responsive: true });
  }

  function blank(id, text) {
    const place = byId(id);
    Plotly.purge(place);
    place.classList.add("empty");
    place.textContent = text;
  }

  // ---- a step, and ranks -------------------------------------------------------------------------------------------

  function drawParts() {
    if (!byId("parts") || data.parts.length === 0) return;
    const parts = data.parts.slice().reverse();
    const bar = (name, key, fill) => ({
      type: "bar", orientation: "h", name: name, y: parts.map((part) => part.name), x: parts.map((part) => part[key]),
      marker: { color: fill }, text: parts.map((part) => (part[key] === null ? "" : seconds(part[key]))),
      textposition: "outside", cliponaxis: false, hovertemplate: "%{y}, " + name + ": %{text}<extra></extra>",
    });
    const traces = [];
    if (parts.some((part) => part.measured !== null)) traces.push(bar("measured", "measured", color("measured")));
    if (parts.some((part) => part.predicted !== null)) traces.push(bar("predicted", "predicted", color("predicted")));
    const most = Math.max(...parts.map((part) => Math.max(part.predicted || 0, part.measured || 0)));
    const unit = most >= 1 ? ["s", 1] : most >= 1e-3 ? ["ms", 1e3] : ["us", 1e6];
    for (const trace of traces) trace.x = trace.x.map((x) => (x === null ? null : x * unit[1]));
    draw("parts", traces, layout(
      { title: { text: unit[0] }, rangemode: "tozero", range: [0, most * unit[1] * 1.18] }, { type: "category" },
      { barmode: "group", bargap: 0.3, height: 90 + 46 * parts.length, legend: { orientation: "h", traceorder: "reversed", x: 0, y: 1.02, yanchor: "bottom" } },
    ));
  }

  function drawRanks() {
    const tiers = Object.keys(data.ranks);
    if (tiers.length === 0 || !byId("ranks")) return;
    byId("ranks").hidden = false;
    const traces = tiers.map((tier) => ({
      type: "bar", name: tier, x: data.ranks[tier].map((_, rank) => rank), y: data.ranks[tier],
      marker: { color: colorOf(tier) }, hovertemplate: "rank %{x}: %{y:.1f} % of its " + tier + "<extra></extra>",
    }));
    draw("ranks", traces, layout(
      { title: { text: "rank" } }, { title: { text: "% of the budget" }, rangemode: "tozero" },
      { barmode: "group", height: 280, shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 100, y1: 100, line: { color: color("text"), width: 1, dash: "dash" } }] },
    ));
  }

  // ---- one table ---------------------------------------------------------------------------------------------------

  function line(points, name, extra) {
    return Object.assign({ type: "scatter", mode: "lines", name: name, x: points.map((p) => p[0]), y: points.map((p) => p[1]) }, extra);
  }

  function stretchHover(stretch) {
    const share = stretch.share === null ? "" : ", " + percent(stretch.share) + " of accesses";
    return stretch.label + "<br>" + stretch.rows + " rows, " + stretch.bytes + share;
  }

  function drawHeat(table) {
    const isDrawn = table.stretches.some((stretch) => stretch.points && stretch.points.length);
    if (!isDrawn) {
      blank("heat", data.has_profile ? "The profile has this table in another order than the plan." : "No profile was given: --profile draws how hot the rows are.");
      return;
    }
    const traces = [];
    let last = [];
    for (const stretch of table.stretches) {
      if (!stretch.points || stretch.points.length === 0) continue;
      const points = last.concat(stretch.points.filter((p) => last.length === 0 || p[0] > last[0][0]));
      last = stretch.points.slice(-1);
      const shade = colorOf(stretch.where);
      traces.push(line(points, stretch.where, {
        fill: "tozeroy", line: { color: shade, width: 3 }, fillcolor: shade + "55", showlegend: false,
        mode: points.length < 3 ? "lines+markers" : "lines", text: points.map(() => stretchHover(stretch)),
        hovertemplate: "%{y:.1%} of accesses<br>%{text}<extra></extra>",
      }));
    }
    const other = (points, name, dash) => points && points.length && traces.push(line(points, name, {
      line: { color: color("text"), width: 1.3, dash: dash }, hovertemplate: "%{y:.1%} " + name + "<extra></extra>",
    }));
    other(table.by_heat, "if the hottest rows came first", "dot");
    other(table.late, "in the last quarter of the pass", "dash");
    draw("heat", traces, layout(
      Object.assign({ title: { text: "places" }, unifiedhovertitle: { text: "the first %{x:,.0f} rows" } }, places(scale, table.rows)),
      { title: { text: "share of accesses" }, tickformat: ".0%", range: [0, 1.03] },
      { hovermode: "x unified", hoverdistance: 30, height: 340, annotations: regionLabels(table) },
    ));
  }

  // An axis of places or rows: decades alone where there are enough of them.
  function places(type, most) {
    const axis = { type: type, tickformat: "~s", rangemode: type === "linear" ? "tozero" : "normal" };
    return type === "log" && most > 1000 ? Object.assign(axis, { dtick: 1 }) : axis;
  }

  function regionLabels(table) {
    const onAxis = (x) => (scale === "log" ? Math.log10(Math.max(x, 1)) : x);
    const whole = onAxis(table.rows) || 1;
    return table.stretches.filter((s) => (onAxis(s.end) - onAxis(s.begin)) / whole > 0.09).map((s) => ({
      x: (onAxis(s.begin) + onAxis(s.end)) / 2, y: 0.02, yref: "y", yanchor: "bottom", showarrow: false,
      text: s.where + (s.share === null ? "" : "<br>" + percent(s.share)), font: { size: 12, color: color("text") },
    }));
  }

  function drawMisses(table) {
    const curves = (table.misses || []).filter((curve) => curve.points.length);
    if (curves.length === 0) {
      blank("misses", data.has_profile ? "The profile or this page has no miss curves of this table." : "No profile was given.");
      return;
    }
    const traces = curves.map((curve) => line(curve.points, curve.policy + " behind " + count(curve.pinned) + " pinned", {
      x: curve.points.map((p) => p[0] + curve.pinned), mode: "lines+markers", marker: { size: curve.is_chosen ? 6 : 4 },
      line: { color: curve.is_chosen ? color("ssd") : color("other"), width: curve.is_chosen ? 3 : 1.2, dash: curve.policy === "lru" ? "solid" : "dash" },
      opacity: curve.is_chosen ? 1 : 0.65, showlegend: curve.is_chosen,
      error_y: curve.error > 0 ? { type: "constant", value: curve.error, width: 2, thickness: 1 } : undefined,
      hovertemplate: curve.policy + ", " + count(curve.pinned) + " pinned, %{x:,.0f} rows in memory<br>%{y:.1%} of lookups read a row<extra></extra>",
    }));
    if (table.chosen) {
      traces.push({
        type: "scatter", mode: "markers", name: "the plan", x: [table.chosen.x], y: [table.chosen.y],
        marker: { symbol: "star-diamond", size: 15, color: color("dram"), line: { color: color("text"), width: 1 } },
        hovertemplate: "the plan: " + table.chosen.policy + ", about %{x:,.0f} rows in memory<br>%{y:.1%} of lookups read a row<extra></extra>",
      });
    }
    draw("misses", traces, layout(
      Object.assign({ title: { text: "rows in memory" } }, places("log", table.rows)), { title: { text: "rows read per lookup" }, tickformat: ".0%", rangemode: "tozero" },
      { hovermode: "closest", height: 340, showlegend: true },
    ));
  }

  function drawDrift(table) {
    const lines = table.drift || [];
    if (lines.length === 0) {
      blank("drift", data.has_profile ? "The profile or this page has no drift of this table." : "No profile was given.");
      return;
    }
    const traces = lines.map((one, i) => ({
      type: "scatter", mode: "lines+markers", name: one.rows + " rows", x: one.shares.map((_, windows) => windows), y: one.shares,
      line: { color: color("ssd"), width: 1.5 + (2 * i) / lines.length }, opacity: 0.45 + (0.55 * (i + 1)) / lines.length, showlegend: false,
      hovertemplate: "the " + one.rows + " hottest rows, %{x} windows later: %{y:.1%} of accesses<extra></extra>",
    }));
    const ends = lines.map((one) => ({
      x: one.shares.length - 1, y: one.shares[one.shares.length - 1], xanchor: "left", showarrow: false, xshift: 6,
      text: one.rows, font: { size: 11, color: color("soft") },
    }));
    draw("drift", traces, layout(
      { title: { text: "windows later" }, dtick: 1 }, { title: { text: "share of accesses" }, tickformat: ".0%", rangemode: "tozero" },
      { hovermode: "closest", height: 340, margin: { l: 10, r: 80, t: 12, b: 10 }, annotations: apart(ends, lines) },
    ));
  }

  // Labels of lines that end close to each other: only the first of them is kept.
  function apart(labels, lines) {
    const most = Math.max(...lines.flatMap((one) => one.shares));
    const kept = [];
    for (const label of labels.slice().sort((a, b) => a.y - b.y)) {
      if (kept.every((other) => Math.abs(other.y - label.y) > 0.05 * most)) kept.push(label);
    }
    return kept;
  }

  function showFacts(table) {
    byId("why").textContent = table.why || "";
    const legend = byId("legend");
    legend.textContent = "";
    for (const where of WHERE.filter((w) => table.stretches.some((s) => s.where === w))) {
      legend.append(element("span", { class: "w-" + where }, NAMES[where]));
    }
    const list = byId("stretches");
    list.textContent = "";
    const head = element("tr");
    for (const text of ["segment", "rows", "bytes", "accesses"]) head.append(element("th", { scope: "col" }, text));
    list.append(element("thead"));
    list.lastChild.append(head);
    list.append(element("tbody"));
    for (const stretch of table.stretches) {
      const row = element("tr"), name = element("th", { scope: "row" });
      name.append(element("span", { class: "swatch w-" + (isKnown(stretch.where) ? stretch.where : "ssd") }), stretch.label);
      row.append(name, element("td", {}, stretch.rows), element("td", {}, stretch.bytes), element("td", {}, stretch.share === null ? "" : percent(stretch.share)));
      list.lastChild.append(row);
    }
    const remarks = byId("remarks");
    remarks.textContent = "";
    for (const [what, finding] of table.facts.concat(table.remarks || [])) {
      remarks.append(element("dt", {}, what), element("dd", {}, finding));
    }
  }

  function show(index) {
    open = index;
    const table = tables[index];
    byId("choose").value = String(index);
    for (const row of document.querySelectorAll("#all tbody tr.is-open")) row.classList.remove("is-open");
    const button = document.querySelector('#all button.open[data-table="' + index + '"]');
    if (button) button.closest("tr").classList.add("is-open");
    showFacts(table);
    drawHeat(table);
    drawMisses(table);
    drawDrift(table);
  }

  // ---- the table of tables -----------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";

  function spark(table) {
    const width = 84, height = 22, all = Math.log10(Math.max(table.rows, 2));
    const x = (place) => (width * Math.log10(Math.max(place, 1))) / all;
    const svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of [["width", width], ["height", height], ["viewBox", "0 0 " + width + " " + height], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    let last = null;
    for (const stretch of table.stretches) {
      const curve = stretch.points && stretch.points.length ? stretch.points : null;
      const path = document.createElementNS(SVG, "path");
      const points = curve ? (last ? [last] : []).concat(curve) : [];
      if (curve) last = curve[curve.length - 1];
      const at = (p) => x(p[0]).toFixed(1) + "," + (height - 2 - (height - 4) * p[1]).toFixed(1);
      const base = height - 1;
      const text = curve
        ? "M" + x(points[0][0]).toFixed(1) + "," + base + "L" + points.map(at).join("L") + "L" + x(points[points.length - 1][0]).toFixed(1) + "," + base + "Z"
        : "M" + x(stretch.begin).toFixed(1) + ",6H" + x(stretch.end).toFixed(1) + "V16H" + x(stretch.begin).toFixed(1) + "Z";
      path.setAttribute("d", text);
      path.setAttribute("style", "fill:var(--" + (isKnown(stretch.where) ? stretch.where : "other") + ")");
      svg.append(path);
    }
    return svg;
  }

  function fillSparks() {
    for (const cell of document.querySelectorAll("#all td.where")) {
      const table = tables[Number(cell.dataset.where)];
      if (!table) continue;
      const text = cell.textContent;
      cell.textContent = "";
      cell.title = table.stretches.map((s) => s.label).join("; ");
      cell.append(spark(table), text);
    }
  }

  function sortBy(head, kind) {
    const all = byId("all"), index = Array.from(head.parentNode.children).indexOf(head);
    const first = kind === "number" ? "descending" : "ascending";
    const isFirst = head.getAttribute("aria-sort") === first;
    const direction = isFirst ? (first === "ascending" ? "descending" : "ascending") : first;
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => {
      const cell = row.children[index];
      return kind === "number" ? (cell.dataset.key === undefined ? null : Number(cell.dataset.key)) : cell.textContent;
    };
    const rows = Array.from(all.tBodies[0].rows, (row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a === b) return 0;
      if (a === null || a === "") return 1; // what is not known comes last either way
      if (b === null || b === "") return -1;
      return sign * (kind === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    all.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function find(text) {
    const wanted = text.trim().toLowerCase();
    let found = 0;
    for (const row of byId("all").tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      found += row.hidden ? 0 : 1;
    }
    byId("found").textContent = found.toLocaleString("en-US") + (found === 1 ? " table" : " tables");
  }

  function listen() {
    const all = byId("all");
    all.addEventListener("click", (event) => {
      const sort = event.target.closest("button.sort"), name = event.target.closest("button.open");
      if (sort) sortBy(sort.closest("th"), sort.dataset.kind);
      if (name) {
        show(Number(name.dataset.table));
        byId("one").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
        byId("choose").focus({ preventScroll: true });
      }
    });
    byId("find").addEventListener("input", (event) => find(event.target.value));
    byId("choose").addEventListener("change", (event) => show(Number(event.target.value)));
    for (const button of document.querySelectorAll("button[data-scale]")) {
      button.addEventListener("click", () => {
        scale = button.dataset.scale;
        for (const other of document.querySelectorAll("button[data-scale]")) other.setAttribute("aria-pressed", String(other === button));
        drawHeat(tables[open]);
      });
    }
  }

  function drawAll() {
    drawParts();
    drawRanks();
    if (tables.length > 0) show(open);
  }

  if (tables.length > 0) {
    byId("choose").append(...tables.map((table, index) => element("option", { value: index }, table.name)));
    fillSparks();
    listen();
  }
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
