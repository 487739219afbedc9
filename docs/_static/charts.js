// Draws the interactive charts of the notebooks, as wide as the text. vega.js, which the build writes, defines vegaEmbed.
for (const place of document.querySelectorAll("div.vega-chart")) {
  const spec = JSON.parse(place.querySelector("script").textContent);
  const fitted = { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" } };
  vegaEmbed(place, fitted, { actions: false, tooltip: { theme: "light" }, logLevel: 1 });  // 1: errors alone
}
