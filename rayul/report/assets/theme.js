// Light and dark, remembered, and light in print. `drawAll` draws the page's charts.
const label = () => {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-pressed", String(isDark()));
};
try { if (localStorage.getItem("rayul-theme")) root.dataset.theme = localStorage.getItem("rayul-theme"); } catch { /* private mode */ }
byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("rayul-theme", root.dataset.theme); } catch { /* private mode */ }
  label();
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { label(); drawAll(); });
let before;
window.addEventListener("beforeprint", () => {
  before = root.dataset.theme;
  root.dataset.theme = "light";
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  document.querySelector("main").classList.add("paper");
  drawAll();
});
window.addEventListener("afterprint", () => {
  if (before) root.dataset.theme = before; else delete root.dataset.theme;
  document.querySelector("main").classList.remove("paper");
  drawAll();
  document.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.Plots.resize(chart));
});
label();
