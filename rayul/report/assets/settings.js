// What each setting did: the trials against one setting, and against all of them at once.
const setting = byId("setting");
const percentage = (v) => `${(100 * v).toFixed(1)}%`;
const outcomeText = (trial) => data.axes.map((axis, k) => `<br>${escape(axis.short)}: <b>${
  trial.outcome[k] === null ? "not a number" : percentage(trial.outcome[k])}</b>`).join("");

const slice = (i) => {
  const points = trials.map((trial, n) => ({ x: trial.params[i], trial, n })).filter((point) => point.x !== null && point.trial.outcome);
  // A setting with a few kinds of values is drawn as columns, its marks spread so that they do not hide each other.
  const { kinds } = scaleFor(points.map((p) => p.x));
  if (kinds) points.forEach((p, n) => { p.x = kinds.indexOf(p.x) + 0.36 * (((n * 0.618034) % 1) - 0.5); });
  const trace = (meta, name, shown, k) => ({ meta, name, type: "scatter", mode: "markers", hoverinfo: "text",
    legendgroup: meta, showlegend: k === 0, yaxis: k ? "y2" : "y",
    x: shown.map((p) => p.x), y: shown.map((p) => p.trial.outcome[k]),
    text: shown.map((p) => `<b>Trial ${escape(clip(p.trial.id))}</b>, ${escape(p.trial.state)}${outcomeText(p.trial)}${settings[p.n]}`) });
  const ticks = kinds ? { tickvals: kinds.map((_, k) => k), ticktext: kinds.map((kind) => escape(clip(show(kind), 24))),
    range: [-0.5, kinds.length - 0.5] } : (params[i].log
    ? { type: "log", tickvals: logTicks(points.map((p) => p.x)), tickformat: "~g" } : { type: "linear" });
  const flat = points.every((p) => !p.trial.outcome[0]);
  const measure = (k, domain) => ({ ...(k ? {} : flat ? { range: [-0.05, 1] } : { rangemode: "tozero" }), title: { text: escape(data.axes[k].short) }, domain, tickformat: ".1~%", zeroline: false });
  figures.slices = {
    data: [0, 1].flatMap((k) => [trace("reached", "Found a solution", points.filter((p) => p.trial.best), k),
      trace("missed", "No solution", points.filter((p) => !p.trial.best), k)]),
    layout: { hovermode: "closest", yaxis: measure(0, [0.54, 1]), yaxis2: measure(1, [0, 0.46]),
      xaxis: { title: { text: escape(clip(params[i].name)) }, zeroline: false, anchor: "y2", ...ticks } } };
  draw("slices");
};

// 1, 2, 5 of each decade; where that is fewer than two, every tenth of the range.
const logTicks = (values) => {
  const low = Math.min(...values), high = Math.max(...values), ticks = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++)
    for (const digit of [1, 2, 5]) {
      const tick = Number(`${digit}e${decade}`);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  const step = Math.max(1, Math.ceil(ticks.length / 9));
  return ticks.length > 1 ? ticks.filter((_, k) => k % step === 0) : [low, high];
};

const evenTicks = (low, high) => {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= rough), ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step);
  return ticks;
};

// ---- parallel coordinates ------------------------------------------------------------------------------------------
const LINE_COLOURS = {
  forgotten: { text: "forgotten within the limits", of: (trial) => trial.outcome[0] },
  solution: { text: "solution found or not", of: (trial) => (trial.best ? "found a solution" : "no solution") },
  state: { text: "how the trial ended", of: (trial) => trial.state },
};
const shortName = (name) => {
  const leaf = (text) => text.replace(/\.name$/, "").split(".").pop();
  return params.filter((p) => leaf(p.name) === leaf(name)).length > 1 ? name : leaf(name);
};
const compared = trials.filter((trial) => trial.outcome && trial.outcome.every((v) => v !== null));
const dimension = (param, i) => {
  const values = compared.map((trial) => trial.params[i]), known = values.filter((v) => v !== null);
  if (new Set(known).size < 2) return null;
  const { kinds, low, high } = scaleFor(known, param.log);
  const at = kinds ? (v) => kinds.indexOf(v) : param.log ? Math.log10 : (v) => v;
  const [from, to] = kinds ? [0, kinds.length - 1] : [at(low), at(high)];
  // Trials that do not have the setting meet under the axis, at a tick of their own.
  const absent = known.length < values.length ? from - 0.14 * (to - from) : null;
  let places = kinds ? kinds.map((_, k) => k) : param.log ? logTicks(known).map(Math.log10)
    : evenTicks(low, high);
  if (kinds && kinds.length > 12) places = places.filter((_, k) => k % Math.ceil(kinds.length / 12) === 0);
  const texts = places.map((place) => clip(show(kinds ? kinds[place] : +(param.log ? 10 ** place : place).toPrecision(3)), 14));
  return { label: clip(shortName(param.name), 18), values: values.map((v) => (v === null ? absent : at(v))),
    range: [absent === null ? from : absent, to],
    tickvals: absent === null ? places : [absent, ...places], ticktext: absent === null ? texts : ["not set", ...texts] };
};
const parallel = () => {
  const chosen = LINE_COLOURS[byId("line-colour").value];
  const values = compared.map(chosen.of);
  const { kinds, low, high, colour } = typeof values[0] === "number"
    ? { low: Math.min(...values), high: Math.max(...values) } : scaleFor(values);
  const text = (v) => (typeof v === "number" ? percentage(v) : v);
  byId("line-scale").replaceChildren(...legendOf(kinds, low, high, colour, text));
  const steps = kinds ? kinds.map((kind, k) => [kinds.length > 1 ? k / (kinds.length - 1) : 0, colour(kind)])
    : [0, .25, .5, .75, 1].map((share) => [share, ramp(share)]);
  if (steps.length === 1) steps.push([1, steps[0][1]]);
  const kept = figures.parallel ? figures.parallel.data[0].dimensions : [];
  const wide = (values) => (Math.min(...values) < Math.max(...values) ? {} : { range: [Math.min(0, values[0]), Math.max(1, values[0])] });
  const outcome = (k) => ({ ...wide(compared.map((trial) => trial.outcome[k])), label: data.axes[k].short, values: compared.map((trial) => trial.outcome[k]), tickformat: ".0%" });
  const dimensions = [...params.map(dimension).filter(Boolean), outcome(0), outcome(1)];
  dimensions.forEach((d, i) => { if (kept[i] && kept[i].constraintrange) d.constraintrange = kept[i].constraintrange; });
  byId("chart-parallel").style.minWidth = `${Math.max(0, 92 * dimensions.length)}px`;
  figures.parallel = {
    data: [{ type: "parcoords", meta: "parallel", dimensions,
      line: { color: values.map((v) => (kinds ? kinds.indexOf(v) : v)), cmin: low, cmax: high > low ? high : low + 1, colorscale: steps } }],
    layout: { margin: { l: 50, r: 50, t: 52, b: 24 } } };
  const first = !drawn.parallel;
  draw("parallel");
  if (!first) return;
  drawn.parallel.on("plotly_restyle", () => {
    figures.parallel.data[0].dimensions = drawn.parallel.data[0].dimensions;
    countBrushed();
  });
};
const countBrushed = () => {
  const chart = drawn.parallel, { dimensions } = chart.data[0];
  const inside = (d, v) => !d.constraintrange || (Array.isArray(d.constraintrange[0]) ? d.constraintrange : [d.constraintrange])
    .some(([low, high]) => v >= low && v <= high);
  const brushed = dimensions.some((d) => d.constraintrange);
  const left = compared.filter((_, n) => dimensions.every((d) => inside(d, d.values[n])));
  const best = left.filter((trial) => trial.best).sort((a, b) => b.outcome[0] - a.outcome[0]).slice(0, 3).map((trial) => trial.id);
  byId("brushed").textContent = brushed ? `${left.length} of ${compared.length} trials selected`
    + (best.length ? `, best: ${best.join(", ")}` : "") : "";
  byId("unbrush").hidden = !brushed;
};
LOOKS.parallel = () => ({ labelfont: { color: css("text"), size: 12 }, tickfont: { color: css("text"), size: 11, weight: 600,
    shadow: Array(4).fill(`0 0 3px ${css("panel")}`).join(",") },
  rangefont: { color: "rgba(0,0,0,0)", size: 1 }, unselected: { line: { color: css("muted"), opacity: 0.08 } } });

const startSettings = () => {
  if (!setting || !figures.front) return;
  params.forEach((param, i) => setting.append(option(String(i), param.name)));
  setting.addEventListener("change", () => slice(+setting.value));
  const first = document.querySelector("button.setting");
  const variety = params.map((_, i) => new Set(trials.map((t) => t.params[i])).size);
  setting.value = String(first ? params.findIndex((p) => p.name === first.dataset.setting) : variety.indexOf(Math.max(...variety)));
  document.querySelectorAll("button.setting").forEach((button) => button.addEventListener("click", () => {
    setting.value = String(params.findIndex((p) => p.name === button.dataset.setting));
    slice(+setting.value);
    byId("chart-slices").scrollIntoView({ block: "center" });
  }));
  slice(+setting.value);
  if (compared.length < 2) { byId("parallel").hidden = true; return; }
  for (const [name, { text }] of Object.entries(LINE_COLOURS)) byId("line-colour").append(option(name, text));
  byId("line-colour").addEventListener("change", parallel);
  byId("unbrush").addEventListener("click", () => {
    figures.parallel.data[0].dimensions.forEach((d) => { delete d.constraintrange; });
    parallel();
    countBrushed();
  });
  // Without a GPU, many lines take seconds: only when they are about to be seen.
  if (compared.length <= 300) { parallel(); return; }
  const seen = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); if (!drawn.parallel) parallel(); }
  }, { rootMargin: "300px" });
  seen.observe(byId("parallel"));
  window.addEventListener("beforeprint", () => { if (!drawn.parallel) parallel(); });
};
