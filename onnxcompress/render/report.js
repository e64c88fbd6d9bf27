"use strict";
(() => {
  const table = document.getElementById("table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const heads = Array.from(table.tHead.rows[0].cells);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const order = new Intl.Collator(undefined, { numeric: true });

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${rows.length} rows`;
  };

  // Rows without a value come last in either direction.
  const compare = (numeric, sign) => ([a], [b]) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * (numeric ? a - b : order.compare(a, b));
  };

  const sort = (index) => {
    const head = heads[index];
    const numeric = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const falling = before === "none" ? numeric : before === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = ({ dataset, textContent }) => (numeric ? dataset.v && Number(dataset.v) : textContent || undefined);
    const keyed = rows.map((row) => [value(row.cells[index]), row]);
    keyed.sort(compare(numeric, falling ? -1 : 1));
    const sorted = document.createDocumentFragment();
    for (const [, row] of keyed) sorted.append(row);
    body.append(sorted);
  };

  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => sort(index)));
  search.addEventListener("input", filter);
  filter();

  // How the values of the chosen weight are spread: outlines over bins of one width.
  const values = document.getElementById("values");
  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const outline = (counts, most) => {
    const width = 640 / counts.length;
    const steps = counts.map((count, i) => `V${180 - (170 * count) / most}H${40 + (i + 1) * width}`);
    return `M40,180${steps.join("")}V180`;
  };
  const spread = (name, data) => {
    const [range, ...both] = data.split(";");
    const [low, high] = range.split(",");
    const [before, after] = both.map((counts) => counts.split(" ").map(Number));
    const most = Math.max(1, ...before, ...after);
    const title = `values of ${name}, before and after, from ${low} to ${high}`;
    const drawn = svg("svg", { viewBox: "0 0 720 205", role: "img", "aria-label": title });
    drawn.append(
      svg("line", { x1: 40, x2: 680, y1: 180, y2: 180 }),
      svg("path", { d: outline(before, most), class: "spread before" }),
      svg("path", { d: outline(after, most), class: "spread after" }),
      svg("text", { x: 40, y: 198, "text-anchor": "start" }, low),
      svg("text", { x: 680, y: 198, "text-anchor": "end" }, high),
    );
    const caption = document.createElement("figcaption");
    caption.textContent = title;
    values.replaceChildren(caption, drawn);
  };
  body.addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-h]");
    if (!button) return;
    for (const row of rows) row.classList.toggle("chosen", row.contains(button));
    spread(button.textContent, button.dataset.h);
  });

  const drawing = document.getElementById("scatter");
  drawing?.addEventListener("click", ({ target }) => {
    if (target.tagName !== "circle") return;
    search.value = target.dataset.name;
    filter();
    document.getElementById("layers").scrollIntoView();
    search.focus({ preventScroll: true });
  });
})();
