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

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.textContent = `${count} of ${rows.length} rows`;
  };

  const value = (row, index) => {
    const cell = row.cells[index];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };

  const sort = (index) => {
    const head = heads[index];
    const numeric = rows.some((row) => row.cells[index].dataset.v !== undefined);
    const before = head.getAttribute("aria-sort");
    const falling = before === "none" ? numeric : before === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const sign = falling ? -1 : 1;
    rows.sort((a, b) => {
      const x = value(a, index);
      const y = value(b, index);
      return sign * (numeric ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
    });
    body.append(...rows);
  };

  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => sort(index)));
  search.addEventListener("input", filter);
  filter();
})();
