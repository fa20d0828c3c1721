"use strict";
// A chart is drawn when it comes into view. Each also has its values as a table, for screen readers and keyboards.
{
  const themed = () => {
    const axis = { gridcolor: near.css("--line"), zerolinecolor: near.css("--line"), linecolor: near.css("--line"), automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: near.css("--fore"), family: "system-ui, sans-serif" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: near.css("--dot"), activecolor: near.css("--fore") }, hoverlabel: { bgcolor: near.css("--card"), font: { color: near.css("--fore") } }, axis,
    };
  };
  const layout = (figure) => {
    const { axis, ...rest } = themed();
    return {
      ...figure.layout, ...rest, title: { ...figure.layout.title, font: { size: 15 }, x: 0.02, xanchor: "left" },
      shapes: (figure.layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: near.css("--soft") } })),
      xaxis: { ...figure.layout.xaxis, ...axis }, yaxis: { ...figure.layout.yaxis, ...axis },
      margin: { t: 48, r: 16, b: 48, l: 56 }, legend: { ...figure.layout.legend, orientation: "h", y: figure.layout.height ? -0.12 : -0.25 }, autosize: true,
    };
  };
  const decoded = (text) => new DOMParser().parseFromString(String(text), "text/html").documentElement.textContent;
  const table = (figure) => {
    const body = near.element("tbody");
    for (const trace of figure.data) {
      (trace.x || []).forEach((x, i) => {
        const arms = trace.error_x; // a dot with its interval
        const values = arms ? [[`${(x - arms.arrayminus[i]).toFixed(4)} to ${(x + arms.array[i]).toFixed(4)}`, x]] : trace.type === "heatmap" ? trace.z[i].map((z, j) => [`${x}, ${trace.y[j]}`, z]) : trace.orientation === "h" ? [[trace.y[i], x]] : [[x, trace.y[i]]];
        for (const [name, value] of values) {
          const cells = [trace.name || "", name, value === null ? "-" : value];
          body.append(near.element("tr", {}, ...cells.map((c) => near.element("td", {}, decoded(c)))));
        }
      });
    }
    return near.element("div", { className: "wide", tabIndex: 0 }, near.element("table", {}, body));
  };
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting || target.drawn) continue;
      target.drawn = true;
      Plotly.newPlot(target, target.figure.data, layout(target.figure), { displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d"] });
    }
  }, { rootMargin: "300px" });
  for (const place of document.querySelectorAll("[data-charts]")) {
    const figures = near.data.charts[place.dataset.charts];
    if (!figures.length && place.tagName === "SECTION") place.append(near.element("p", { className: "note" }, "These runs recorded nothing to show here."));
    for (const figure of figures) {
      const chart = near.element("div", { className: "chart", role: "img", "aria-label": decoded(figure.layout.title.text) });
      chart.figure = figure;
      if (figure.layout.height) chart.style.minHeight = `${figure.layout.height}px`;
      const details = near.element("details", {}, near.element("summary", {}, "as a table"));
      details.addEventListener("toggle", () => { if (details.children.length === 1) details.append(table(figure)); });
      place.append(near.element("div", {}, chart, details));
      seen.observe(chart);
    }
  }
  near.themed.push(() => {
    for (const chart of document.querySelectorAll(".chart")) if (chart.drawn) Plotly.relayout(chart, layout(chart.figure));
  });
}
