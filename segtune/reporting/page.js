"use strict";
// Tables that sort and filter, and marks of one trial that light up in all charts of its section.
for (const table of document.querySelectorAll("table.trials")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => {
    const text = row.cells[i].textContent.trim(), number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  const missing = (value) => value === "" || value === "-";
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row) => [key(row, i), row]);
      keyed.sort(([a], [b]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
        return down ? -order : order;
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
  const filter = table.closest("section").querySelector(".filter");
  if (!filter) continue;
  const [words, state] = [filter.querySelector("input"), filter.querySelector("select")];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const fits = (!state.value || row.dataset.state === state.value) && wanted.every((w) => texts.get(row).includes(w));
      row.hidden = !fits;
      shown += fits;
    }
    filter.querySelector("output").textContent = `${shown} of ${rows.length} trials`;
  };
  words.addEventListener("input", apply);
  state.addEventListener("input", apply);
  filter.hidden = false;
  apply();
}
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);
let chosen = [];
const describe = (row) => {
  const heads = row.closest("table").tHead.rows[0].cells;
  return [...row.cells].map((cell, i) => [heads[i].textContent.trim(), cell.textContent.trim().slice(0, 120)])
    .filter(([, text]) => text && text !== "-").map((pair) => pair.join(" ")).join(" · ");
};
document.addEventListener("mouseover", (event) => {
  const mark = event.target.closest("[data-t]");
  for (const other of chosen) other.classList.remove("chosen");
  chosen = [];
  tip.hidden = true;
  if (!mark) return;
  const part = mark.closest("[data-part]");
  chosen = [...part.querySelectorAll(`[data-t="${mark.dataset.t}"]`)];
  for (const other of chosen) other.classList.add("chosen");
  const row = chosen.find((other) => other.tagName === "TR");
  if (!row || row === mark) return;
  tip.textContent = describe(row);
  tip.hidden = false;
  tip.style.left = `${Math.max(0, Math.min(event.clientX + 14, innerWidth - 350))}px`;
  tip.style.top = `${event.clientY > innerHeight / 2 ? event.clientY - tip.offsetHeight - 10 : event.clientY + 14}px`;
});
