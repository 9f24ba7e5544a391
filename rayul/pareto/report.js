// Draws the figures that charts.py wrote as data, gives them the page's theme, and connects the controls.
"use strict";
(() => {
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
    return { line: { color: css(name).replace(/rgba?\(([^,]+,[^,]+,[^,)]+).*/, `rgba($1, ${alpha})`), width: 1.2 } };
  };

  // ---- the look of each role --------------------------------------------------------------------------------------
  const LOOKS = {
    broken: () => ({ marker: { color: css("broken"), size: 6, symbol: "circle-open", line: { width: 1 } }, opacity: 0.75 }),
    kept: () => ({ marker: { color: css("kept"), size: 6.5, line: { width: 0 } }, opacity: 0.8 }),
    front: () => ({
      line: { color: css("accent"), width: 2 }, marker: { color: css("accent"), size: 9, line: { color: css("panel"), width: 1.5 } },
      error_x: { color: css("bars") }, error_y: { color: css("bars") } }),
    baseline: () => ({ marker: { color: css("text"), size: 12, symbol: "diamond", line: { color: css("panel"), width: 1 } } }),
    oracle: () => ({ marker: { color: css("oracle"), size: 15, symbol: "star", line: { color: css("panel"), width: 1 } } }),
    best: () => ({ marker: { color: "rgba(0,0,0,0)", size: 18, symbol: "circle", line: { color: css("best"), width: 2.5 } } }),
    completed: () => thin("completed"),
    pruned: () => thin("pruned"),
    failed: () => thin("failed"),
    running: () => thin("running"),
    "pruned-at": () => ({ marker: { color: css("pruned-at"), size: 7, symbol: "x-thin", line: { color: css("pruned-at"), width: 1.8 } } }),
    focus: () => ({ line: { color: css("best"), width: 2.5 }, marker: { color: css("best"), size: 6 } }),
    mixed: () => ({ line: { color: css("completed"), width: 1.4 }, marker: { color: css("completed"), size: 4 } }),
    chosen: () => ({ marker: { color: "rgba(0,0,0,0)", size: 11, line: { color: css("best"), width: 2 } } }),
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
  const ramp = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
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
    return { kinds, colour: (v) => OKABE_ITO[Math.min(kinds.indexOf(v), OKABE_ITO.length - 1)] };
  };
  const key = (colour, text) => {
    const item = document.createElement("span");
    item.className = "key";
    item.style.setProperty("--key", colour);
    item.textContent = text;
    return item;
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
    if (kinds) {
      kinds.slice(0, 7).forEach((kind) => scale.append(key(colour(kind), clip(show(kind), 24))));
      if (kinds.length > 7) scale.append(key(OKABE_ITO[7], `${kinds.length - 7} more`));
    } else {
      const bar = document.createElement("span");
      bar.className = "ramp";
      bar.style.background = `linear-gradient(90deg, ${[0, .2, .4, .6, .8, 1].map(ramp).join(",")})`;
      scale.append(show(low), bar, show(high));
    }
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
    const dressed = merge(trace, LOOKS[trace.meta]());
    if (trace.customdata && !trace.text) Object.assign(dressed, { text: trace.customdata.map(describe), hoverinfo: "text" });
    return dressed;
  };
  const view = () => (document.querySelector("input[name=view]:checked") || { value: "all" }).value;
  const draw = (name) => {
    const element = byId(`chart-${name}`), figure = figures[name];
    if (!element || !figure) return;
    const layout = layoutOf(figure.layout);
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
          ? ["broken", "kept"].includes(trace.meta) : trace.mode === "lines" && trace.yaxis === target.yaxis));
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

  // ---- what each setting did -----------------------------------------------------------------------------------------------
  const slice = (i) => {
    const points = trials.map((trial) => ({ x: trial.params[i], y: trial.best ? trial.best[0] : 0, trial }))
      .filter((point) => point.x !== null);
    // A setting with a few kinds of values is drawn as columns, its marks spread so that they do not hide each other.
    const kinds = scaleFor(points.map((p) => p.x)).kinds;
    if (kinds) points.forEach((p, n) => { p.x = kinds.indexOf(p.x) + 0.36 * (((n * 0.618034) % 1) - 0.5); });
    const trace = (meta, name, shown) => ({ meta, name, type: "scatter", mode: "markers", hoverinfo: "text",
      x: shown.map((p) => p.x), y: shown.map((p) => p.y),
      text: shown.map((p) => `<b>Trial ${escape(clip(p.trial.id))}</b>, ${p.trial.state}` + (p.trial.best
        ? `<br>${data.axes[0].short}: <b>${(100 * p.y).toFixed(1)}%</b> at step ${p.trial.best[2]}` : "<br>no solution")
        + settings[trials.indexOf(p.trial)]) });
    const ticks = kinds ? { tickvals: kinds.map((_, k) => k), ticktext: kinds.map((kind) => escape(clip(show(kind), 24))),
      range: [-0.5, kinds.length - 0.5] } : (params[i].log
      ? { type: "log", dtick: "D2", tickformat: "~g" } : { type: "linear" });
    figures.slices = {
      data: [trace("reached", "Best solution of a trial", points.filter((p) => p.trial.best)),
        trace("missed", "No solution", points.filter((p) => !p.trial.best))],
      layout: { hovermode: "closest",
        xaxis: { title: { text: escape(clip(params[i].name)) }, zeroline: false, ...ticks },
        yaxis: { title: { text: data.axes[0].short }, tickformat: ".1~%", zeroline: false, rangemode: "tozero" } } };
    draw("slices");
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
    byId("follow").addEventListener("change", (event) => {
      const trial = trials.findIndex((t) => t.id === event.target.value.trim());
      if (trial >= 0) follow(trial); else byId("followed").textContent = "there is no such trial";
    });
    document.querySelectorAll("button.follow").forEach((button) => button.addEventListener("click", () => {
      follow(trials.findIndex((t) => t.id === button.dataset.trial));
      byId("front").scrollIntoView();
    }));
    if (params.length && trials.length > 1) {
      const setting = byId("setting");
      params.forEach((param, i) => setting.append(option(String(i), param.name)));
      setting.addEventListener("change", () => slice(+setting.value));
      byId("slices").hidden = false;
      const variety = params.map((_, i) => new Set(trials.map((t) => t.params[i])).size);
      setting.value = String(variety.indexOf(Math.max(...variety)));
    }
  }

  document.querySelectorAll("button.copy").forEach((button) => button.addEventListener("click", async () => {
    const text = button.dataset.yaml, label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a file:// page has no clipboard in some browsers
      const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  }));

  document.querySelectorAll("table.sortable th button").forEach((button) => button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table"), body = table.tBodies[0];
    const column = heading.cellIndex, descending = heading.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyOf = (row) => row.cells[column].dataset.key;
    const order = (a, b) => {
      const [x, y] = [keyOf(a), keyOf(b)], [m, n] = [Number(x), Number(y)];
      return x !== "" && y !== "" && !Number.isNaN(m) && !Number.isNaN(n) ? m - n : x.localeCompare(y);
    };
    body.append(...[...body.rows].sort((a, b) => (descending ? -order(a, b) : order(a, b))));
  }));

  const remember = (theme) => { try { localStorage.setItem("rayul-theme", theme); } catch { /* private mode */ } };
  const label = () => {
    byId("theme").textContent = isDark() ? "Light" : "Dark";
    byId("theme").setAttribute("aria-pressed", String(isDark()));
  };
  try { if (localStorage.getItem("rayul-theme")) root.dataset.theme = localStorage.getItem("rayul-theme"); } catch { /* private mode */ }
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    label();
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { label(); drawAll(); });

  let before;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    drawAll();
  });

  label();
  if (figures.calibration) byId("calibration").hidden = false;
  if (figures.front && params.length && trials.length > 1) slice(+byId("setting").value);
  drawAll();
  for (const name of ["front", "trajectories"]) {
    if (!drawn[name]) continue;
    drawn[name].on("plotly_click", ({ points }) => {
      const row = points[0].customdata;
      if (row !== null && row !== undefined && rows.trial[row] >= 0) follow(rows.trial[row]);
    });
  }
  if (data.best !== undefined && data.best !== null) {
    byId("follow").value = trials[data.best].id;
    byId("followed").textContent = "the best point's trial";
  }
  root.dataset.charts = String(Object.keys(drawn).length);
})();
