"use strict";
// Queries with their nearest rows; the search looks into both.
if (near.data.browser) {
  const { queries, rows, of, embedder } = near.data.browser;
  const list = document.getElementById("query-list"), shown = document.getElementById("query");
  const search = document.getElementById("search"), only = document.getElementById("only"), count = document.getElementById("count");
  const low = { queries: queries.map((q) => q[1].toLowerCase()), rows: {} };
  for (const [id, row] of Object.entries(rows)) low.rows[id] = row[0].toLowerCase();
  let current = 0;

  document.getElementById("queries").hidden = false;
  const words = () => search.value.trim().toLowerCase();
  const fits = (id) => low.rows[id].includes(words()) && (!only.checked || rows[id][2].length > 0);
  const show = (at) => {
    current = at;
    for (const item of list.children) item.setAttribute("aria-selected", item.at === at);
    list.setAttribute("aria-activedescendant", `query-${at}`);
    const [id, text, near_rows, scores] = queries[at], inQuery = low.queries[at].includes(words());
    const matches = near_rows.map((row, rank) => [row, rank]).filter(([row]) => fits(row) || (inQuery && (!only.checked || rows[row][2].length)));
    shown.replaceChildren(
      near.element("div", { className: "row quote" }, near.element("div", { className: "head" }, `query ${id}`), near.element("p", {}, ...near.marked(text, words()))),
      ...matches.map(([row, rank]) => near.element("div", { className: "row" },
        near.element("div", { className: "head" }, `${rank + 1}. similarity ${scores[rank].toFixed(4)}, row ${row}, ${rows[row][1]}`, ...near.badges(rows[row][2], rows[row][3])),
        near.element("p", {}, ...near.marked(rows[row][0], words())))),
    );
  };
  const fill = () => {
    const matches = queries.map((q, at) => at).filter((at) => (!words() && !only.checked) || (low.queries[at].includes(words()) && !only.checked) || queries[at][2].some(fits));
    list.replaceChildren(...matches.map((at) => {
      const item = near.element("li", { id: `query-${at}`, role: "option" }, queries[at][4]);
      item.at = at;
      item.addEventListener("click", () => show(at));
      return item;
    }));
    const cut = queries.length < of ? `, the first of ${of}` : "";
    count.textContent = `${matches.length} of ${queries.length} queries${cut}; similarities by ${embedder}`;
    if (matches.length) show(matches.includes(current) ? current : matches[0]);
    else shown.replaceChildren();
  };
  list.addEventListener("keydown", (e) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (!by) return;
    e.preventDefault();
    const items = [...list.children], at = items.findIndex((item) => item.at === current);
    const next = items[Math.max(0, Math.min(items.length - 1, at + by))];
    if (next) { show(next.at); next.scrollIntoView({ block: "nearest" }); }
  });
  search.addEventListener("input", fill);
  only.addEventListener("change", fill);
  fill();
}
