// The comparison's own looks and controls; the drawing is report.js's.
const faint = (name, alpha) => css(name).replace(/rgba?\(([^,]+,[^,]+,[^,)]+).*/, `rgba($1, ${alpha})`);
for (let i = 0; i < 8; i += 1) {
  const name = `series-${i}`;
  LOOKS[name] = () => ({
    line: { color: css(name), width: 2 }, marker: { color: css(name), size: 8, line: { color: css("panel"), width: 1 } },
    error_x: { color: faint(name, 0.4) }, error_y: { color: faint(name, 0.4) } });
  LOOKS[`worst-${i}`] = () => ({ line: { color: css(name), width: 1.2, dash: "dot" } });
  LOOKS[`best-${i}`] = () => ({ line: { color: css(name), width: 1.2, dash: "dash" }, fillcolor: faint(name, 0.16) });
  LOOKS[`median-${i}`] = () => ({ line: { color: css(name), width: 2.5 } });
}

document.querySelectorAll("table.sortable th button").forEach((button) => button.addEventListener("click", () => {
  const heading = button.closest("th"), table = heading.closest("table"), column = heading.cellIndex;
  const descending = heading.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keyOf = (row) => row.cells[column].dataset.key;
  const order = (a, b) => {
    const [x, y] = [keyOf(a), keyOf(b)], [m, n] = [Number(x), Number(y)];
    return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (descending ? -order(a, b) : order(a, b))));
}));

drawAll();
root.dataset.charts = String(Object.keys(drawn).length);
