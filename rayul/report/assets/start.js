// The first drawing: runs last.
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
