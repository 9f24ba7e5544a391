// Theme, print and the first drawing: runs last.
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
drawAll();
startSettings();
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
