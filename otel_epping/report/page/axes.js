// SPDX-License-Identifier: Apache-2.0
// Texts of numbers, colours and axes of the figures.
"use strict";

const narrow = () => window.innerWidth < 600;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const count = (number) => number.toLocaleString("en");
const digits = (number) => (number === null ? "-" : String(Number(number.toPrecision(3))));
const ms = (seconds) => (seconds === null ? null : seconds * 1e3);
const msText = (seconds) => (seconds === null ? "unknown" : `${digits(seconds * 1e3)} ms`);
const percent = (share) => (share === null ? "unknown" : `${digits(share * 100)} %`);
const mbit = (bits) => bits / 1e6;
const short = (text) => (narrow() && text.length > 15 ? `${text.slice(0, 14)}…` : text);
// Escapes text. Plotly interprets texts as HTML, and the names of networks can contain any character.
const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// ---- axes

function logTicks(low, high) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high)), values = [];
  let steps = to - from > 3 ? [1] : [1, 2, 5];
  if (high / low < 8) steps = [1, 1.5, 2, 3, 4, 5, 6, 8];
  if (high / low < 2) steps = [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9];
  for (let power = from; power <= to; power++) {
    for (const step of steps) values.push(step * 10 ** power);
  }
  return values;
}

function logAxis(title, values, range) {
  const used = values.filter((each) => each > 0);
  const low = range ? range[0] : Math.min(...used), high = range ? range[1] : Math.max(...used);
  const ticks = used.length || range ? logTicks(low, high) : [1];
  const margin = 0.04 * Math.max(0.3, Math.log10(high / low));
  return {
    ...axis(title), type: "log", tickmode: "array", tickvals: ticks, ticktext: ticks.map((each) => digits(each)),
    range: [Math.log10(low) - margin, Math.log10(high) + margin],
  };
}

function axis(title) {
  return {
    title: { text: title, standoff: 8 }, gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false,
    automargin: true, ticks: "outside", tickcolor: css("--line"),
  };
}

const timeAxis = () => ({ ...axis("time (UTC)"), type: "date" });
const least = (rows) => rows.reduce((low, row) => row.reduce((a, b) => (b !== null && b < a ? b : a), low), Infinity);
const greatest = (rows) => rows.reduce((high, row) => row.reduce((a, b) => (b !== null && b > a ? b : a), high), 0);

// Returns the range of the middle 98 % of all values, in s. So outliers do not stretch the scale of colours. The range
// has at least one decade, so that small differences have similar colours.
function excessRange(rows) {
  const all = rows.flat().filter((each) => each !== null).sort((a, b) => a - b);
  if (!all.length) return [0.001, 0.1];
  const low = all[Math.floor(all.length * 0.01)], high = all[Math.ceil(all.length * 0.99) - 1];
  return [low, Math.max(high, 10 * low)];
}

const styles = () => [
  { color: css("--blue"), dash: "solid", symbol: "circle" },
  { color: css("--red"), dash: "dash", symbol: "diamond" },
  { color: css("--green"), dash: "dot", symbol: "square" },
  { color: css("--purple"), dash: "dashdot", symbol: "triangle-up" },
  { color: css("--grey"), dash: "longdash", symbol: "x" },
];
