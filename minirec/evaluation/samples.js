// The table of samples: search, filter, sort, and details of a row. Texts are never parsed as HTML.
"use strict";
const samples = JSON.parse(document.getElementById("samples").textContent);
const body = document.querySelector("#table tbody"), query = document.getElementById("query");
const why = document.getElementById("why"), more = document.getElementById("more");
const found = document.getElementById("found"), heads = document.querySelectorAll("#table th button");
const PAGE = 50;
let order = { key: "order", rising: true }, shown = PAGE, hits = [];

for (const sample of samples)
  sample.words = [sample.id, sample.why, sample.label, sample.target, ...sample.history,
    ...sample.completions].join(" ").toLowerCase();
for (const name of [...new Set(samples.map(s => s.why))].sort()) why.add(new Option(name, name));

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function detail(sample) {
  const cell = element("td", null,
    element("p", sample.reason),
    element("p", null, element("b", "History: "), sample.history.join(" → ")),
    ...sample.completions.map((text, i) =>
      element("p", null, element("b", sample.rewards[i].toFixed(3) + " "), text)));
  cell.colSpan = heads.length;
  cell.className = "detail";
  return element("tr", null, cell);
}

function line(sample) {
  const open = element("button", String(sample.id));
  open.setAttribute("aria-expanded", "false");
  const numbers = [...heads].slice(4).map(head => {
    const value = sample[head.dataset.key];
    return element("td", value === null ? "–" : value.toFixed(head.dataset.whole ? 0 : 3));
  });
  const row = element("tr", null, element("td", null, open),
    element("td", sample.order === null ? "–" : String(sample.order)),
    element("td", sample.why), element("td", sample.target), ...numbers);
  open.onclick = () => {
    const closed = open.getAttribute("aria-expanded") === "false";
    open.setAttribute("aria-expanded", String(closed));
    if (closed) row.after(detail(sample)); else row.nextSibling.remove();
  };
  return row;
}

function compare(a, b) {
  const x = a[order.key], y = b[order.key];
  if (x === y) return a.id - b.id;
  if (x === null || y === null) return x === null ? 1 : -1; // missing values are last
  return (x < y ? -1 : 1) * (order.rising ? 1 : -1);
}

function show() {
  body.replaceChildren(...hits.slice(0, shown).map(line));
  found.textContent = `${hits.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")}`;
  more.hidden = hits.length <= shown;
}

function find() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  hits = samples.filter(s => (!why.value || s.why === why.value)
    && words.every(word => s.words.includes(word))).sort(compare);
  shown = PAGE;
  show();
}

for (const head of heads) head.onclick = () => {
  order = { key: head.dataset.key, rising: order.key === head.dataset.key ? !order.rising : true };
  for (const other of heads) other.parentElement.removeAttribute("aria-sort");
  head.parentElement.setAttribute("aria-sort", order.rising ? "ascending" : "descending");
  find();
};
query.oninput = why.onchange = find;
more.onclick = () => { shown += PAGE; show(); };
// A link such as report.html#q=guitar opens the table with that search.
const asked = new URLSearchParams(location.hash.slice(1));
query.value = asked.get("q") ?? "";
why.value = asked.get("why") ?? "";
document.getElementById("search").hidden = false;
find();
