// Draws the figures that charts.py wrote as data, gives them the page's theme, and connects the controls.
const root = document.documentElement;
window.addEventListener("error", (event) => { root.dataset.error = event.message; });
window.addEventListener("unhandledrejection", (event) => { root.dataset.error = String(event.reason); });

const data = JSON.parse(document.getElementById("data").textContent);
const { figures, rows, trials, params } = data;
const byId = (id) => document.getElementById(id);
const drawn = {}; // figure name -> its element
let colourBy = "";

// ---- theme: CSS holds the colours; a probe element resolves them for Plotly ------------------------------------
const probe = document.body.appendChild(document.createElement("span"));
probe.hidden = true;
const css = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
const isDark = () => getComputedStyle(root).colorScheme === "dark"
  || (getComputedStyle(root).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

// The more trials, the fainter each one's line, or a thousand of them are one block of colour.
const thin = (name) => {
  const alpha = Math.min(0.6, Math.max(0.1, 4 / Math.sqrt(trials.length)));
  return { marker: { color: css(name), size: 6 }, line: { color: css(name).replace(/rgba?\(([^,]+,[^,]+,[^,)]+).*/, `rgba($1, ${alpha})`), width: 1.2 } };
};

// ---- the look of each role --------------------------------------------------------------------------------------
const LOOKS = {
  broken: () => ({ marker: { color: css("broken"), size: 6, symbol: "circle-open", line: { width: 1 } }, opacity: 0.9 }),
  kept: () => ({ marker: { color: css("kept"), size: 6.5, line: { width: 0 } }, opacity: 0.8 }),
  front: () => ({
    line: { color: css("accent"), width: 2 }, marker: { color: css("accent"), size: 9, line: { color: css("panel"), width: 1.5 } },
    error_x: { color: css("bars") }, error_y: { color: css("bars") } }),
  baseline: () => ({ marker: { color: css("text"), size: 12, symbol: "diamond", line: { color: css("panel"), width: 1 } } }),
  oracle: () => ({ marker: { color: css("oracle"), size: 15, symbol: "star", line: { color: css("panel"), width: 1 } } }),
  report: () => ({ marker: { color: css("panel"), size: 7, symbol: "square", line: { color: css("limit"), width: 1.6 } } }),
  "report-gap": () => ({ line: { color: css("limit"), width: 1, dash: "dot" }, hoverinfo: "skip" }),
  certified: () => ({ marker: { color: css("best"), size: 12, symbol: "circle", line: { color: css("panel"), width: 1.5 } }, error_y: { color: css("best"), thickness: 2, width: 5 } }),
  best: () => ({ marker: { color: "rgba(0,0,0,0)", size: 18, symbol: "circle", line: { color: css("best"), width: 2.5 } } }),
  completed: () => thin("completed"),
  pruned: () => thin("pruned"),
  failed: () => thin("failed"),
  running: () => thin("running"),
  // The legend's swatches: a line as faint as a thousand trials need could not be seen there.
  "key-completed": () => ({ line: { color: css("completed"), width: 2 } }),
  "key-pruned": () => ({ line: { color: css("pruned"), width: 2 } }),
  "key-failed": () => ({ line: { color: css("failed"), width: 2 } }),
  "key-running": () => ({ line: { color: css("running"), width: 2 } }),
  "pruned-at": () => ({ marker: { color: css("pruned-at"), size: 7, symbol: "x-thin", line: { color: css("pruned-at"), width: 1.8 } } }),
  focus: () => ({ line: { color: css("best"), width: 2.5 }, marker: { color: css("best"), size: 6 } }),
  mixed: () => ({ line: { color: css("completed"), width: 1.4 }, marker: { color: css("completed"), size: 4 } }),
  chosen: () => ({ marker: { color: "rgba(0,0,0,0)", size: 11, line: { color: css("best"), width: 2 } } }),
  "recovery-own": () => ({ line: { color: css("text"), width: 2.5 }, marker: { color: css("text"), size: 6 } }),
  "recovery-related": () => ({ line: { color: css("accent"), width: 2.5 }, marker: { color: css("accent"), size: 6 } }),
  "recovery-unrelated": () => ({ line: { color: css("oracle"), width: 2.5 }, marker: { color: css("oracle"), size: 6 } }),
  "recovery-other": () => thin("broken"),
  history: () => ({ line: { color: css("accent"), width: 2.5 }, fill: "tozeroy", fillcolor: css("tint-accent") }),
  reached: () => ({ marker: { color: css("accent"), size: 8, line: { color: css("panel"), width: 1 } } }),
  missed: () => ({ marker: { color: css("broken"), size: 7, symbol: "circle-open", line: { width: 1.2 } } }),
};
const merge = (a, b) => {
  const out = { ...a };
  for (const [key, value] of Object.entries(b)) {
    const nested = value && typeof value === "object" && !Array.isArray(value);
    out[key] = nested ? merge(out[key] || {}, value) : value;
  }
  return out;
};

// ---- hover: what a row is, in words -------------------------------------------------------------------------------
const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const clip = (text, length = 60) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const show = (value) => (typeof value === "number" ? String(+value.toPrecision(4)) : clip(String(value)));
const settings = (trials || []).map((trial) => trial.params
  .map((value, i) => (value === null ? "" : `<br>${escape(clip(params[i].name))}: <b>${escape(show(value))}</b>`)).join(""));
let reference = 0;
const referenceOf = {};
(rows.trial || []).forEach((trial, row) => { if (trial < 0) referenceOf[row] = rows.id[reference++]; });
const value = (metric, at, error) => `<br>${escape(clip(metric))}: <b>${at === null ? "not a number" : show(at)}</b>`
  + (error === null ? "" : ` ± ${show(+error.toPrecision(2))}`);
const describe = (row) => {
  if (row === null || row === undefined) return "";
  const trial = rows.trial[row];
  const name = trial < 0 ? referenceOf[row] : `Trial ${clip(trials[trial].id)}, step ${rows.step[row]}`;
  return `<b>${escape(name)}</b>` + (rows.mixing[row] === 1 ? "" : `, mixing ${show(rows.mixing[row])}`)
    + value(data.axes[0].metric, rows.x[row], rows.ex[row]) + value(data.axes[1].metric, rows.y[row], rows.ey[row])
    + (trial < 0 ? "" : settings[trial]);
};

// ---- colour by a setting -------------------------------------------------------------------------------------------
const CIVIDIS = [[0, 34, 78], [35, 62, 108], [87, 93, 109], [124, 123, 120], [165, 156, 116], [211, 193, 100], [254, 232, 56]];
const OKABE_ITO = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8ac00", "#777777"];
// The end that the page's ground would swallow is left out: yellow on white, navy on black.
const ramp = (share) => {
  const [from, to] = isDark() ? [0.22, 1] : [0, 0.86];
  const place = (from + Math.min(Math.max(share, 0), 1) * (to - from)) * (CIVIDIS.length - 1);
  const i = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return `rgb(${CIVIDIS[i].map((c, k) => Math.round(c + (place - i) * (CIVIDIS[i + 1][k] - c))).join(",")})`;
};
const settingOf = (row) => {
  const trial = rows.trial[row];
  if (colourBy === "step") return rows.step[row];
  if (colourBy === "state") return trials[trial].state;
  return trials[trial].params[+colourBy];
};
const scaleFor = (values, log) => {
  const numbers = values.filter((v) => typeof v === "number");
  if (numbers.length && numbers.length === values.length && new Set(numbers).size > 6) {
    const at = log ? Math.log : (v) => v;
    const low = numbers.reduce((a, b) => Math.min(a, b)), high = numbers.reduce((a, b) => Math.max(a, b));
    return { low, high, colour: (v) => ramp((at(v) - at(low)) / ((at(high) - at(low)) || 1)) };
  }
  const kinds = [...new Set(values)].sort((a, b) => (a > b ? 1 : -1));
  return { kinds, low: 0, high: kinds.length - 1, colour: (v) => OKABE_ITO[Math.min(kinds.indexOf(v), OKABE_ITO.length - 1)] };
};
const key = (colour, text) => {
  const item = document.createElement("span");
  item.className = "key";
  item.style.setProperty("--key", colour);
  item.textContent = text;
  return item;
};
const legendOf = (kinds, low, high, colour, text = (v) => show(v)) => {
  if (kinds) {
    const shown = kinds.slice(0, 7).map((kind) => key(colour(kind), clip(text(kind), 24)));
    return kinds.length > 7 ? [...shown, key(OKABE_ITO[7], `${kinds.length - 7} more`)] : shown;
  }
  const bar = document.createElement("span");
  bar.className = "ramp";
  bar.style.background = `linear-gradient(90deg, ${[0, .2, .4, .6, .8, 1].map(ramp).join(",")})`;
  return [text(low), bar, text(high)];
};
const paint = () => {
  const chart = drawn.front, scale = byId("scale");
  scale.replaceChildren();
  const coloured = chart.data.map((trace, i) => i).filter((i) => ["broken", "kept", "front"].includes(chart.data[i].meta));
  if (colourBy === "") {
    Plotly.restyle(chart, { "marker.color": coloured.map((i) => LOOKS[chart.data[i].meta]().marker.color) }, coloured);
    return;
  }
  const known = coloured.flatMap((i) => chart.data[i].customdata).map(settingOf).filter((v) => v !== null);
  const { low, high, kinds, colour } = scaleFor(known, (params[+colourBy] || {}).log && colourBy !== "step");
  const missing = css("broken");
  Plotly.restyle(chart, { "marker.color": coloured.map((i) => chart.data[i].customdata.map((row) => {
    const at = settingOf(row);
    return at === null ? missing : colour(at);
  })) }, coloured);
  scale.append(...legendOf(kinds, low, high, colour));
};

// ---- drawing ---------------------------------------------------------------------------------------------------------
const narrow = () => window.innerWidth < 600;
const layoutOf = (layout) => {
  const axis = { gridcolor: css("grid"), linecolor: css("line"), tickcolor: css("line"), automargin: true, title: { standoff: 10 } };
  const themed = merge({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 12, r: 12, t: 30, b: 12 }, hoverlabel: {
      bgcolor: css("panel"), bordercolor: css("line"), align: "left", font: { color: css("text"), size: 12.5 } },
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13, color: css("muted") },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("muted"), activecolor: css("accent") },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", itemsizing: "constant", font: { color: css("text") } },
    xaxis: axis, yaxis: axis, dragmode: narrow() ? false : "zoom",
  }, layout);
  if (layout.yaxis2) themed.yaxis2 = merge(axis, layout.yaxis2);
  themed.shapes = (layout.shapes || []).map((shape) => (shape.name === "tint"
    ? { ...shape, fillcolor: css("tint") } : { ...shape, line: { ...shape.line, color: css("limit") } }));
  themed.annotations = (layout.annotations || []).map((note) => ({ ...note, font: { color: css("limit"), size: 12 } }));
  return themed;
};
const dress = (trace) => {
  if (!LOOKS[trace.meta]) return trace;
  const dressed = merge(trace, LOOKS[trace.meta]());
  if (trace.customdata && !trace.text) Object.assign(dressed, { text: trace.customdata.map(describe), hoverinfo: "text" });
  return dressed;
};
const view = () => (document.querySelector("input[name=view]:checked") || { value: "all" }).value;
const draw = (name) => {
  const element = byId(`chart-${name}`), figure = figures[name];
  if (!element || !figure) return;
  const layout = layoutOf(figure.layout);
  if (document.querySelector("main.paper")) layout.width = element.clientWidth;
  if (figure.views) for (const axis of ["xaxis", "yaxis"]) layout[axis].range = figure.views[view()][axis].slice();
  Plotly.react(element, figure.data.map(dress), layout, {
    responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
    // Plotly's "Share chart" uploads the data to its cloud: a report must not.
    plotlyServerURL: "", modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: `rayul-${name}` } });
  drawn[name] = element;
};
const drawAll = () => {
  Object.keys(figures).forEach(draw);
  if (drawn.front) paint();
};

// ---- following one trial ----------------------------------------------------------------------------------------------
const follow = (trial) => {
  for (const name of ["front", "trajectories"]) {
    for (const target of figures[name].data.filter((trace) => trace.meta === "focus")) {
      const sources = figures[name].data.filter((trace) => trace.meta !== "focus" && (name === "front"
        ? ["broken", "kept"].includes(trace.meta) : trace.mode.startsWith("lines") && trace.yaxis === target.yaxis));
      const points = sources.flatMap((trace) => trace.customdata.map((row, i) => [row, trace.x[i], trace.y[i]]))
        .filter(([row]) => row !== null && rows.trial[row] === trial)
        .sort((a, b) => rows.step[a[0]] - rows.step[b[0]] || rows.mixing[a[0]] - rows.mixing[b[0]]);
      target.customdata = points.map((p) => p[0]);
      target.x = points.map((p) => p[1]);
      target.y = points.map((p) => p[2]);
    }
    draw(name);
  }
  paint();
  byId("follow").value = trials[trial].id;
  byId("followed").textContent = trials[trial].state;
};


// ---- controls ---------------------------------------------------------------------------------------------------------
const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: clip(text) });
if (figures.front) {
  const colour = byId("colour");
  colour.append(option("", "limits kept or broken"), option("step", "step"), option("state", "how the trial ended"));
  params.forEach((param, i) => colour.append(option(String(i), param.name)));
  colour.addEventListener("change", () => { colourBy = colour.value; paint(); });
  document.querySelectorAll("input[name=view]").forEach((radio) => radio.addEventListener("change", () => {
    const ranges = figures.front.views[view()];
    Plotly.relayout(drawn.front, { "xaxis.range": ranges.xaxis.slice(), "yaxis.range": ranges.yaxis.slice() });
  }));
  if (byId("follow")) byId("follow").addEventListener("change", (event) => {
    const trial = trials.findIndex((t) => t.id === event.target.value.trim());
    if (trial >= 0) follow(trial); else byId("followed").textContent = "there is no such trial";
  });
}
