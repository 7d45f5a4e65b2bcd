// SPDX-License-Identifier: Apache-2.0
// Draws the figures when they come into view, sorts and copies tables, and switches the theme. Needs figures.js.

async function unpack(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (each) => each.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// ---- drawing

const kinds = { heat, difference, smoke, cdf, spread, bubbles, periods, dumbbells, stacked };
let figures = {};

// Draws a figure after earlier calls for the same figure have ended. If the figure was drawn before, newPlot() draws it
// again from the start, because Plotly.react() puts colour bars in wrong places.
function draw(element) {
  element.drawing = (element.drawing ?? Promise.resolve()).then(() => drawNow(element));
  return element.drawing;
}

function drawNow(element) {
  const { kind, data } = figures[element.dataset.figure];
  const { traces, layout, height } = kinds[kind](data, element);
  const plot = element.querySelector(".plot");
  plot.style.height = `${height}px`;
  return Plotly.newPlot(plot, traces, {
    height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: css("--plot"), dragmode: narrow() ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--text") },
    margin: { l: 40, r: 10, t: 10, b: 40 }, hoverlabel: { align: "left", bgcolor: css("--panel"),
      bordercolor: css("--line"), font: { color: css("--text") } },
    showlegend: true, ...layout, legend: { ...legend, ...layout.legend },
  }, {
    responsive: true, displayModeBar: false,
  });
}

const legend = { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, xanchor: "left" };
const elements = () => [...document.querySelectorAll("figure[data-figure]")];
const redraw = () => Promise.all(elements().filter((each) => each.drawing).map(draw));

// Adds the filter and the buttons of a heat map, or updates them.
function tools(figure, matching) {
  let bar = figure.querySelector(".tools");
  if (!bar) {
    bar = document.createElement("div");
    bar.className = "tools";
    bar.innerHTML = '<label>Filter <input type="search" placeholder="part of a name"></label>' +
      "<button>Previous</button><button>Next</button><span aria-live=polite></span>";
    figure.querySelector("figcaption").after(bar);
    const [previous, next] = bar.querySelectorAll("button");
    const move = (rows) => {
      figure.state.first += rows;
      draw(figure);
    };
    previous.onclick = () => move(-rowsShown());
    next.onclick = () => move(rowsShown());
    bar.querySelector("input").oninput = (event) => {
      figure.state = { first: 0, filter: event.target.value };
      draw(figure);
    };
  }
  const first = figure.state.first, last = Math.min(matching, first + rowsShown());
  bar.querySelector("span").textContent = matching ? `networks ${first + 1} to ${last} of ${matching}` : "no network";
  const [previous, next] = bar.querySelectorAll("button");
  previous.disabled = first === 0;
  next.disabled = last >= matching;
}

// ---- tables

function sortTable(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const ascending = heading.getAttribute("aria-sort") === "descending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const isNumber = heading.classList.contains("n");
  const key = (row) => (isNumber ? row.cells[column].dataset.v : row.cells[column].textContent);
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort(([a, rowA], [b, rowB]) => {
    if (isNumber && (a === undefined || b === undefined)) return (a === undefined) - (b === undefined);
    const order = isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
    return order * (ascending ? 1 : -1);
  });
  table.tBodies[0].append(...rows.map((each) => each[1]));
  limitRows(table);
}

// A long table shows its first rows until the button is pressed.
const limitRows = (table) => [...table.tBodies[0].rows].forEach((row, place) => {
  row.hidden = table.dataset.all !== "yes" && place >= Number(table.dataset.shown);
});

async function copyTable(table, button) {
  const text = [...table.rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim().replace(/\s+/g, " "))
    .join("\t")).join("\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // In some browsers, pages that are opened from a file cannot use the clipboard.
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function setUpTables() {
  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.querySelector("button").onclick = () => sortTable(table, column);
    });
    const bar = table.closest(".table").querySelector(".tools");
    bar.querySelector("button.copy").onclick = (event) => copyTable(table, event.target);
    const all = bar.querySelector("button.all");
    if (all) {
      all.onclick = () => {
        table.dataset.all = table.dataset.all === "yes" ? "" : "yes";
        all.textContent = table.dataset.all ? "Show fewer" : `Show all ${count(table.tBodies[0].rows.length)}`;
        limitRows(table);
      };
    }
    limitRows(table);
  }
}

// ---- start

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
  return redraw();
}

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  document.getElementById("theme").onclick = () =>
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  setUpTables();
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("message").hidden = false;
    return;
  }
  const [library, data] = await Promise.all([unpack("plotly"), unpack("data")]);
  document.head.appendChild(document.createElement("script")).textContent = library;
  figures = JSON.parse(data);
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !entry.target.drawing) draw(entry.target);
    }
  }, { rootMargin: "300px" });
  elements().forEach((each) => observer.observe(each));
  // Before printing, all figures are drawn, because figures that are not drawn would be missing on paper. The page is
  // printed in light colours to save ink.
  let before = "";
  window.addEventListener("beforeprint", () => {
    before ||= document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    elements().forEach(draw);
  });
  window.addEventListener("afterprint", () => {
    setTheme(before);
    before = "";
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if ((width < 600) !== narrow()) redraw();
    width = window.innerWidth;
  });
  document.documentElement.dataset.ready = "yes";
}

start();
