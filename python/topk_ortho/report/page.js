"use strict";
// Sorts a table of features by a column, and filters its rows: words, or NAME<NUMBER, NAME>NUMBER.
for (const box of document.querySelectorAll(".features")) {
  const body = box.querySelector("tbody");
  const heads = [...box.querySelectorAll("thead th")];
  const names = heads.map(head => head.textContent.trim().toLowerCase());
  const rows = [...body.rows].map(row => ({
    row,
    text: row.textContent.toLowerCase(),
    cells: [...row.cells].map(cell => cell.textContent.trim()),
  }));
  const number = text => parseFloat(text.replace("\u2212", "-").replace(/[,\u00a0]/g, ""));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) && isNaN(y)) return a < b ? -1 : a > b ? 1 : 0;
    return isNaN(x) ? -1 : isNaN(y) ? 1 : x - y;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => (down ? -1 : 1) * compare(a.cells[column], b.cells[column]));
      body.replaceChildren(...rows.map(({ row }) => row));
    });
  });
  const input = box.querySelector("input");
  const output = box.querySelector("output");
  const test = word => {
    const limit = word.match(/^([a-z_]+)([<>])(-?[\d.]+)$/);
    const column = limit ? names.findIndex(name => name.replace(/ /g, "_").startsWith(limit[1])) : -1;
    if (column < 0) return ({ text }) => text.includes(word);
    const than = parseFloat(limit[3]);
    return ({ cells }) => limit[2] === "<" ? number(cells[column]) < than : number(cells[column]) > than;
  };
  const show = () => {
    const tests = input.value.toLowerCase().split(/\s+/).filter(Boolean).map(test);
    let shown = 0;
    for (const each of rows) {
      const fits = tests.every(one => one(each));
      each.row.hidden = !fits;
      shown += fits;
    }
    output.textContent = `${shown} of ${rows.length}`;
  };
  input.addEventListener("input", show);
  input.closest(".choose").hidden = false;
  show();
}
