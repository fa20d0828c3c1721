"use strict";
// The map: a canvas that is redrawn for every frame in which something moved.
if (near.data.map) {
  const map = near.data.map, canvas = document.getElementById("map-canvas"), tip = document.getElementById("map-tip");
  const pen = canvas.getContext("2d", { alpha: false });
  const x = near.unpacked(map.x, Int16Array), y = near.unpacked(map.y, Int16Array);
  const source = near.unpacked(map.source, Uint16Array), ids = near.unpacked(map.ids, Int32Array);
  const crosses = { x: near.unpacked(map.queries.x, Int16Array), y: near.unpacked(map.queries.y, Int16Array) };
  const taken = map.taken.map((group) => near.unpacked(group.at, Int32Array));
  const shown = taken.map(() => true), sources = map.sources.map(() => true);
  const order = taken.map((rows, g) => g).sort((a, b) => taken[b].length - taken[a].length); // small ones on top
  const least = Math.max(1.5, Math.min(3, 220 / Math.sqrt(x.length))); // pixels of a row's dot
  const bySource = map.sources.map(() => []);
  source.forEach((s, i) => bySource[s].push(i));
  const view = { x: 0, y: 0, scale: 1 };
  let width = 0, height = 0, ratio = 1, waiting = false, picked = -1;

  document.getElementById("map").hidden = false;
  const placed = ids.length < map.of ? `${ids.length.toLocaleString("en")} of ${map.of.toLocaleString("en")} rows: those that were taken, the queries' nearest, and others at random.` : `All ${map.of.toLocaleString("en")} rows.`;
  document.getElementById("map-note").textContent = `${placed} Rows whose embeddings by ${map.embedder} are alike lie close together. Large dots ${map.marked}, crosses are queries.`;

  const fit = () => Math.min(width, height) * 0.47 / 32000;
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const draw = () => {
    waiting = false;
    const scale = fit() * view.scale, left = width / 2 - view.x * scale, top = height / 2 + view.y * scale;
    const size = Math.max(least, Math.min(4.5, least * Math.sqrt(view.scale)));
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = near.css("--card");
    pen.fillRect(0, 0, width, height);
    bySource.forEach((rows, s) => {
      if (!sources[s]) return;
      pen.fillStyle = map.sources[s][1];
      pen.globalAlpha = 0.6;
      for (const i of rows) {
        const a = left + x[i] * scale, b = top - y[i] * scale;
        if (a > -4 && b > -4 && a < width + 4 && b < height + 4) pen.fillRect(a - size / 2, b - size / 2, size, size);
      }
    });
    pen.globalAlpha = 1;
    const dot = size * 0.7 + 1.9;
    for (const g of order) {
      const rows = taken[g];
      if (!shown[g]) continue;
      pen.fillStyle = near.data.groups[g].colour;
      pen.beginPath();
      const shift = (g - (taken.length - 1) / 2) * 1.2; // so that a row that two selections took shows both
      for (const i of rows) {
        const a = left + x[i] * scale + shift, b = top - y[i] * scale;
        if (!sources[source[i]] || a < -9 || b < -9 || a > width + 9 || b > height + 9) continue;
        pen.moveTo(a + dot, b);
        pen.arc(a, b, dot, 0, 7);
      }
      pen.fill();
    }
    pen.strokeStyle = near.css("--fore");
    pen.lineWidth = 1.3;
    pen.beginPath();
    for (let q = 0; q < crosses.x.length; q++) {
      const a = left + crosses.x[q] * scale, b = top - crosses.y[q] * scale;
      pen.moveTo(a - 4, b - 4); pen.lineTo(a + 4, b + 4); pen.moveTo(a - 4, b + 4); pen.lineTo(a + 4, b - 4);
    }
    pen.stroke();
    if (picked >= 0) {
      pen.beginPath();
      pen.arc(left + x[picked] * scale, top - y[picked] * scale, dot + 5, 0, 7);
      pen.stroke();
    }
    if (document.activeElement === canvas && canvas.matches(":focus-visible")) {
      pen.beginPath();
      pen.moveTo(width / 2 - 9, height / 2); pen.lineTo(width / 2 + 9, height / 2);
      pen.moveTo(width / 2, height / 2 - 9); pen.lineTo(width / 2, height / 2 + 9);
      pen.stroke();
    }
  };
  const resize = () => {
    width = canvas.clientWidth; height = canvas.clientHeight;
    ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = width * ratio; canvas.height = height * ratio;
    redraw();
  };
  const zoom = (by, a = width / 2, b = height / 2) => {
    const scale = fit() * view.scale, next = Math.max(0.5, Math.min(400, view.scale * by));
    const px = (a - width / 2) / scale, py = (b - height / 2) / scale, shrink = view.scale / next;
    view.x += px * (1 - shrink); view.y -= py * (1 - shrink);
    view.scale = next;
    redraw();
  };
  const move = (a, b) => { const scale = fit() * view.scale; view.x -= a / scale; view.y += b / scale; redraw(); };
  const all = () => { Object.assign(view, { x: 0, y: 0, scale: 1 }); redraw(); };
  const showRow = (a, b, reach) => {
    const scale = fit() * view.scale, left = width / 2 - view.x * scale, top = height / 2 + view.y * scale;
    let best = -1, least = reach * reach;
    for (let i = 0; i < x.length; i++) {
      if (!sources[source[i]]) continue;
      const p = left + x[i] * scale - a, q = top - y[i] * scale - b, far = p * p + q * q;
      if (far < least) { least = far; best = i; }
    }
    picked = best;
    tip.hidden = best < 0;
    if (best >= 0) {
      const by = taken.map((rows, g) => { const at = rows.indexOf(best); return at < 0 ? null : [g, map.taken[g].runs[at], 0]; }).filter(Boolean);
      const head = near.element("div", { className: "head" }, `row ${ids[best]}, ${map.sources[source[best]][0]} `, ...near.badges(by, []));
      tip.replaceChildren(head, near.element("div", {}, map.text[best]));
    }
    redraw();
  };

  // Pointers: one drags, two zoom; on a touch screen one finger up or down scrolls the page.
  const pressed = new Map();
  let dragged = 0;
  canvas.addEventListener("pointerdown", (e) => { pressed.set(e.pointerId, e); dragged = 0; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => {
    if (!pressed.has(e.pointerId)) return;
    const before = pressed.get(e.pointerId), others = [...pressed.values()].filter((o) => o.pointerId !== e.pointerId);
    dragged += Math.abs(e.clientX - before.clientX) + Math.abs(e.clientY - before.clientY);
    if (others.length) {
      const box = canvas.getBoundingClientRect(), o = others[0];
      const apart = (p) => Math.hypot(p.clientX - o.clientX, p.clientY - o.clientY) || 1;
      zoom(apart(e) / apart(before), (e.clientX + o.clientX) / 2 - box.left, (e.clientY + o.clientY) / 2 - box.top);
    }
    move((e.clientX - before.clientX) / (others.length + 1), (e.clientY - before.clientY) / (others.length + 1));
    pressed.set(e.pointerId, e);
  });
  const leave = (e) => {
    if (pressed.delete(e.pointerId) && e.type === "pointerup" && dragged < 5) showRow(e.offsetX, e.offsetY, 14);
  };
  canvas.addEventListener("pointerup", leave);
  canvas.addEventListener("pointercancel", leave);
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 400), e.offsetX, e.offsetY); }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const step = 60, keys = {
      ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
      "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), "0": all,
      Enter: () => showRow(width / 2, height / 2, Infinity), Escape: () => { picked = -1; tip.hidden = true; redraw(); },
    };
    if (keys[e.key] && !e.ctrlKey && !e.metaKey) { e.preventDefault(); keys[e.key](); }
  });
  canvas.addEventListener("focus", redraw);
  canvas.addEventListener("blur", redraw);
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => (+button.dataset.zoom ? zoom(+button.dataset.zoom) : all()));
  }
  const chip = (place, list, at, colour, text) => {
    const button = near.element("button", { type: "button", "aria-pressed": "true" }, near.element("span", { className: "dot", style: { background: colour } }), text);
    button.addEventListener("click", () => { list[at] = !list[at]; button.setAttribute("aria-pressed", list[at]); redraw(); });
    document.getElementById(place).append(button);
  };
  map.taken.forEach((group, g) => chip("map-taken", shown, g, near.data.groups[g].colour, `${near.data.groups[g].label}: ${group.all} rows picked${near.data.groups[g].runs > 1 ? ` by ${near.data.groups[g].runs} seeds` : ""}`));
  map.sources.forEach(([name, colour], s) => chip("map-sources", sources, s, colour, `${name} (${bySource[s].length})`));
  new ResizeObserver(resize).observe(canvas);
  near.themed.push(redraw);
  near.map = { view, move, zoom };
}
