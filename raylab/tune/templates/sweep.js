"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
for (const [name, figure] of Object.entries(figures)) {
  const place = document.getElementById(name);
  Plotly.newPlot(place, figure.data, figure.layout, config).catch(function (error) {
    place.textContent = "This plot could not be drawn: " + error;
  });
}
