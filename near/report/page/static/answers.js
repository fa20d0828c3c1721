"use strict";
// Answers of all selections of one seed, beside the untrained model's and the reference.
if (near.data.answers && near.data.answers.length) {
  const lines = near.data.answers, list = document.getElementById("answer-list"), more = document.getElementById("more-answers");
  const seed = document.getElementById("seed"), search = document.getElementById("answer-search"), PAGE = 12;
  const seeds = [...new Set(lines.flatMap((line) => line.by.map((by) => by[1])).filter((s) => s !== null).map(String))];
  let count = PAGE;

  document.getElementById("answers").hidden = false;
  seed.append(...seeds.map((s) => near.element("option", {}, s)));
  const card = ([label, , answer, loss, scores, nothing], words) => {
    const colour = (near.data.groups.find((g) => g.label === label) || {}).colour;
    const scored = [loss === null ? null : `loss ${loss}`, ...Object.entries(scores).map(([name, s]) => `${name} ${s === null ? "-" : s}${nothing.includes(name) ? " (no answer)" : ""}`)].filter(Boolean).join(", ");
    return near.element("div", {}, near.element("strong", colour ? { style: { color: colour } } : {}, label), near.element("div", { className: "note" }, scored),
      near.element("p", {}, ...(answer === null ? ["(not generated)"] : answer.trim() === "" ? ["(empty)"] : near.marked(answer, words))));
  };
  const fill = () => {
    const words = search.value.trim().toLowerCase();
    const matches = lines.filter((l) => !words || [l.question, l.reference, ...l.by.map((by) => by[2] || "")].some((t) => t.toLowerCase().includes(words)));
    list.replaceChildren(...matches.slice(0, count).map((line) => near.element("div", { className: "row" },
      near.element("div", { className: "head" }, `row ${line.row}`),
      near.element("p", { className: "quote" }, ...near.marked(line.question, words)),
      near.element("div", { className: "answers" },
        near.element("div", {}, near.element("strong", {}, "reference"), near.element("p", {}, ...near.marked(line.reference, words))),
        ...line.by.filter(([, of]) => of === null || String(of) === seed.value).map((by) => card(by, words))))));
    more.hidden = matches.length <= count;
  };
  seed.addEventListener("change", fill);
  search.addEventListener("input", () => { count = PAGE; fill(); });
  more.addEventListener("click", () => { count += PAGE; fill(); });
  fill();
}
