// The table: the front or every trial, sorted by any heading, filtered by text and by each column's range.
const rowsTable = byId("rows");
const ownRows = rowsTable && { head: rowsTable.tHead.rows[0], body: rowsTable.tBodies[0] };

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("button.copy, button.follow");
  if (!button) return;
  if (button.classList.contains("follow")) {
    follow(trials.findIndex((t) => t.id === button.dataset.trial));
    byId("front").scrollIntoView();
    return;
  }
  const text = button.dataset.yaml ?? button.dataset.copy, label = button.textContent;
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
});

// ---- every trial: as many elements as rows, so made only when asked for ---------------------------------------------
const element = (name, attributes, ...children) => {
  const made = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  made.append(...children);
  return made;
};
const everyTrial = () => {
  const head = element("tr", {}, ...data.listing.head.map(([name, full, kind]) => element("th", { scope: "col", "data-kind": kind },
    element("button", { type: "button", title: full }, name))), ownRows.head.lastElementChild.cloneNode(true));
  const body = element("tbody", {}, ...data.listing.rows.map(([trial, yaml, cells]) => element("tr", {},
    ...cells.map(([text, at, mark]) => element("td", { "data-key": at, ...(mark ? { class: mark, title: "breaks the limit" } : {}) }, text)),
    element("td", { class: "actions" },
      element("button", { type: "button", class: "copy", "data-yaml": yaml, "aria-label": `Copy the settings of trial ${trial} as YAML` }, "Copy"),
      ...(figures.front ? [" ", element("button", { type: "button", class: "follow", "data-trial": trial,
        "aria-label": `Follow trial ${trial} in the charts` }, "Follow")] : [])))));
  return { head, body };
};
let trialRows = null;
const list = (which) => {
  if (which === "trials" && !trialRows) trialRows = everyTrial();
  const shown = which === "trials" ? trialRows : ownRows;
  rowsTable.tHead.replaceChildren(shown.head);
  rowsTable.tBodies[0].replaceWith(shown.body);
  byId("left-out").hidden = which !== "trials";
  if (byId("filters").getAttribute("aria-pressed") === "true") rangeRow();
  filter();
};

// ---- sort ---------------------------------------------------------------------------------------------------------------
const sort = (heading) => {
  const body = rowsTable.tBodies[0], column = heading.cellIndex, descending = heading.getAttribute("aria-sort") === "ascending";
  rowsTable.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keyOf = (row) => row.cells[column].dataset.key;
  const order = (a, b) => {
    const [x, y] = [keyOf(a), keyOf(b)], [m, n] = [Number(x), Number(y)];
    if (x === "" || y === "") return (x === "") - (y === "") || 0; // what is not known comes last, either way
    return (descending ? -1 : 1) * (!Number.isNaN(m) && !Number.isNaN(n) ? m - n : x.localeCompare(y));
  };
  body.append(...[...body.rows].sort(order));
};

// ---- filter ---------------------------------------------------------------------------------------------------------------
const rangeRow = () => {
  const old = rowsTable.tHead.querySelector(".ranges");
  if (old) old.remove();
  const box = (name, of, what) => element("input", { type: "text", "aria-label": `${what} ${of}`, placeholder: name, "data-end": name,
    autocomplete: "off", size: "5" });
  rowsTable.tHead.append(element("tr", { class: "ranges" }, ...[...rowsTable.tHead.rows[0].cells].map((th) => {
    const name = th.textContent, kind = th.dataset.kind, unit = kind === "percent" ? ", in percent," : "";
    if (!kind) return element("td", {});
    return kind === "text" ? element("td", {}, box("text", name, "Text in"))
      : element("td", {}, box("min", name, `Smallest${unit}`), box("max", name, `Largest${unit}`));
  })));
};
const filter = () => {
  const search = byId("search").value.trim().toLowerCase(), body = rowsTable.tBodies[0], tests = [];
  for (const input of rowsTable.tHead.querySelectorAll(".ranges input")) {
    const column = input.parentElement.cellIndex, typed = input.value.trim();
    const percent = rowsTable.tHead.rows[0].cells[column].dataset.kind === "percent";
    const at = Number(typed.replace(/%$/, "")) / (percent ? 100 : 1);
    const { end } = input.dataset, wrong = end !== "text" && typed !== "" && Number.isNaN(at);
    input.setAttribute("aria-invalid", String(wrong));
    if (typed === "" || wrong) continue;
    tests.push(({ cells }) => {
      const { key } = cells[column].dataset;
      if (end === "text") return cells[column].textContent.toLowerCase().includes(typed.toLowerCase());
      return key !== "" && (end === "min" ? Number(key) >= at : Number(key) <= at);
    });
  }
  let count = 0;
  for (const row of body.rows) {
    row.hidden = !((!search || [...row.cells].slice(0, -1).some((cell) => cell.textContent.toLowerCase().includes(search)))
      && tests.every((test) => test(row)));
    count += !row.hidden;
  }
  const narrowed = search !== "" || tests.length > 0;
  byId("counted").textContent = narrowed ? `${count} of ${body.rows.length} rows` : `${body.rows.length} rows`;
  byId("clear").hidden = !narrowed;
};
if (rowsTable) {
  rowsTable.tHead.addEventListener("click", ({ target }) => { if (target.closest("th button")) sort(target.closest("th")); });
  rowsTable.tHead.addEventListener("input", filter);
  byId("search").addEventListener("input", filter);
  byId("filters").addEventListener("click", ({ currentTarget }) => {
    const on = currentTarget.getAttribute("aria-pressed") !== "true";
    currentTarget.setAttribute("aria-pressed", String(on));
    if (on) rangeRow(); else rowsTable.tHead.querySelector(".ranges").remove();
    filter();
  });
  byId("clear").addEventListener("click", () => {
    byId("search").value = "";
    rowsTable.tHead.querySelectorAll(".ranges input").forEach((input) => { input.value = ""; });
    filter();
  });
  document.querySelectorAll("input[name=listed]").forEach((radio) => radio.addEventListener("change", () => list(radio.value)));
  filter();
}
