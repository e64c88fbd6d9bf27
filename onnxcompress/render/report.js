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

  const drawing = document.getElementById("scatter");
  drawing?.addEventListener("click", ({ target }) => {
    if (target.tagName !== "circle") return;
    search.value = target.dataset.name;
    filter();
    document.getElementById("layers").scrollIntoView();
    search.focus({ preventScroll: true });
  });
})();
