"use strict";
// What all parts of the page share: the data, the theme, and how texts get onto the page (never as markup).
const near = { data: JSON.parse(document.getElementById("data").textContent), themed: [] };

near.element = (tag, properties = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.assign(node.style, value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};

near.css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

near.unpacked = (text, Kind) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer); // little-endian, as every browser's machine is
};

// A badge of the selections that trained a row: by = [[group, runs, rounds], ...]
near.badges = (by, warm) => [
  ...by.map(([group, runs]) => {
    const { label, colour, runs: all } = near.data.groups[group];
    return near.element("span", { className: "badge", style: { color: colour } }, all > 1 ? `${label} ${runs}/${all} seeds` : label);
  }),
  ...(warm.length ? [near.element("span", { className: "badge" }, "warm-up only")] : []),
];

// `text` with every occurrence of `words` marked
near.marked = (text, words) => {
  if (!words) return [text];
  const parts = [], low = text.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(words); at >= 0; at = low.indexOf(words, from)) {
    parts.push(text.slice(from, at), near.element("mark", {}, text.slice(at, at + words.length)));
    from = at + words.length;
  }
  return [...parts, text.slice(from)];
};

{
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const apply = (theme) => { root.dataset.theme = theme; near.themed.forEach((f) => f()); };
  apply(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => apply(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => apply(root.dataset.theme === "dark" ? "light" : "dark"));
}
