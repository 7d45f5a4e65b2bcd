// SPDX-License-Identifier: Apache-2.0
// The figures: each function returns the traces, the layout and the height of a figure for plotly.js.

const rowsShown = () => (narrow() ? 20 : 40);

// On a phone, and if there are few rows, the colour bar does not fit on the right.
const isBarBelow = (rows) => narrow() || rows < 8;
const rowsHeight = (rows) => 17 * Math.max(4, rows);
const barPlace = (rows) => (isBarBelow(rows) ? { orientation: "h", y: -65 / rowsHeight(rows), yanchor: "top" } : {});
const heatHeight = (rows) => rowsHeight(rows) + (isBarBelow(rows) ? 130 : 70);

function heatRows(figure, data) {
  const state = figure.state ||= { first: 0, filter: "" };
  const matching = data.networks.map((name, row) => row)
    .filter((row) => data.networks[row].toLowerCase().includes(state.filter.toLowerCase()));
  state.first = Math.max(0, Math.min(state.first, matching.length - 1));
  return { shown: matching.slice(state.first, state.first + rowsShown()).reverse(), matching };
}

function heatLayout(figure, data, shown, matching) {
  tools(figure, matching.length);
  return {
    xaxis: { ...timeAxis(), showgrid: false, tickangle: 0, nticks: narrow() ? 4 : 0 },
    yaxis: {
      ...axis(""), showgrid: false, tickmode: "array", tickvals: shown.map((_, place) => place),
      ticktext: shown.map((row) => escape(short(data.networks[row]))), tickfont: { size: narrow() ? 9 : 11 },
      range: [-0.5, Math.max(0, shown.length - 0.5)], ticks: "",
    },
  };
}

const centres = (data) => data.begins_ms.map((begin) => begin + data.step_ms / 2);

// All values below this time have the palest colour.
const MIN_EXCESS_S = 0.001;

function heat(data, figure) {
  const { shown, matching } = heatRows(figure, data);
  const excess = (row) => data.p95_s[row].map((each) => (
    each === null ? null : Math.max(each - data.minimum_s[row], MIN_EXCESS_S)));
  const [low, high] = figure.range ||= excessRange(data.networks.map((_, row) => excess(row)));
  const ticks = logTicks(low * 1e3, high * 1e3).filter((each) => each >= low * 999 && each <= high * 1001);
  const trace = {
    type: "heatmap", x: centres(data), y: shown.map((_, place) => place),
    z: shown.map((row) => excess(row).map((each) => (each === null ? null : Math.log10(each * 1e3)))),
    customdata: shown.map((row) => data.p95_s[row].map((each, period) => [
      escape(data.networks[row]), msText(each), msText(data.minimum_s[row]), count(data.samples[row][period])])),
    hovertemplate: "%{customdata[0]}<br>%{x|%Y-%m-%d %H:%M:%S}<br>p95 %{customdata[1]}, minimum RTT " +
      "%{customdata[2]}, %{customdata[3]} RTTs<extra></extra>",
    hoverongaps: false, zmin: Math.log10(low * 1e3), zmax: Math.log10(high * 1e3), xgap: 0, ygap: 1,
    colorscale: [0, 1, 2, 3, 4].map((place) => [place / 4, css(`--heat-${place}`)]),
    colorbar: {
      title: { text: isBarBelow(shown.length) ? "" : "ms", side: "top" }, tickvals: ticks.map(Math.log10), ticktext: ticks.map(digits),
      thickness: 12, outlinewidth: 0, ...barPlace(shown.length),
    },
  };
  const height = heatHeight(shown.length);
  return { traces: [trace], layout: heatLayout(figure, data, shown, matching), height };
}

function difference(data, figure) {
  const { shown, matching } = heatRows(figure, data);
  const ratio = (row, period) => {
    const a = data.a_p95_s[row][period], b = data.b_p95_s[row][period];
    return a === null || b === null ? null : Math.log2(a / b);
  };
  const trace = {
    type: "heatmap", x: centres(data), y: shown.map((_, place) => place),
    z: shown.map((row) => data.begins_ms.map((_, period) => ratio(row, period))),
    customdata: shown.map((row) => data.begins_ms.map((_, period) => [
      escape(data.networks[row]), msText(data.a_p95_s[row][period]), msText(data.b_p95_s[row][period])])),
    hovertemplate: "%{customdata[0]}<br>%{x|%Y-%m-%d %H:%M:%S}<br>p95 in A %{customdata[1]}, in B " +
      "%{customdata[2]}<extra></extra>",
    hoverongaps: false, zmin: -2, zmax: 2, ygap: 1,
    colorscale: [[0, css("--less")], [0.5, css("--same")], [1, css("--more")]],
    colorbar: {
      title: { text: isBarBelow(shown.length) ? "" : "A / B", side: "top" }, tickvals: [-2, -1, 0, 1, 2], ticktext: ["¼", "½", "same", "2x", "4x"],
      thickness: 12, outlinewidth: 0, ...barPlace(shown.length),
    },
  };
  const height = heatHeight(shown.length);
  return { traces: [trace], layout: heatLayout(figure, data, shown, matching), height };
}

function lossColour(share) {
  if (share === null) return css("--grey");
  return css(share < 0.005 ? "--blue" : share < 0.02 ? "--green" : share < 0.05 ? "--yellow" : "--red");
}

// Returns the outline of a band. Periods without RTTs are gaps.
function band(data, low, high) {
  const x = [], y = [];
  let begin = 0;
  const runs = [];
  data.samples.forEach((samples, period) => {
    if (samples && !(period && data.samples[period - 1])) begin = period;
    if (samples && !data.samples[period + 1]) runs.push([begin, period]);
  });
  for (const [first, last] of runs) {
    for (let period = first; period <= last; period++) {
      x.push(data.begins_ms[period], data.begins_ms[period] + data.step_ms);
      y.push(ms(data[high][period]), ms(data[high][period]));
    }
    for (let period = last; period >= first; period--) {
      x.push(data.begins_ms[period] + data.step_ms, data.begins_ms[period]);
      y.push(ms(data[low][period]), ms(data[low][period]));
    }
    x.push(null);
    y.push(null);
  }
  return { x, y };
}

function smoke(data) {
  // The axis has at least one decade, so that small changes look small.
  const low = least([data.p05_s]) * 1e3, high = greatest([data.p95_s]) * 1e3;
  const range = [low, Math.max(high, 10 * low)];
  const common = { type: "scatter", mode: "lines", hoverinfo: "skip", fill: "toself", line: { width: 0 } };
  const traces = [
    { ...common, ...band(data, "p05_s", "p95_s"), fillcolor: css("--smoke-pale") },
    { ...common, ...band(data, "p25_s", "p75_s"), fillcolor: css("--smoke-dark") },
    {
      type: "scatter", mode: "lines+markers", x: centres(data), y: data.p50_s.map(ms), connectgaps: false,
      line: { color: css("--pale"), width: 1, shape: "hvh" },
      marker: { color: data.loss.map(lossColour), size: data.samples.length > 200 ? 3.5 : 6, symbol: "square" },
      customdata: data.samples.map((samples, period) => [
        count(samples), msText(data.p05_s[period]), msText(data.p95_s[period]), percent(data.loss[period]),
        msText(data.p50_s[period])]),
      hovertemplate: "%{x|%Y-%m-%d %H:%M:%S}<br>median %{customdata[4]}<br>p5 to p95 %{customdata[1]} to " +
        "%{customdata[2]}<br>loss %{customdata[3]}, %{customdata[0]} RTTs<extra></extra>",
    },
  ];
  const whole = figures["heat_map.p95"].data.begins_ms;
  const times = [whole[0], whole[whole.length - 1] + data.step_ms];
  const layout = {
    margin: { l: 40, r: 10, t: 6, b: 20 }, xaxis: { ...timeAxis(), range: times, title: { text: "" } },
    yaxis: logAxis("RTT, ms", [], range), showlegend: false,
  };
  const isTrafficKnown = data.bits.some((each) => each !== null);
  if (isTrafficKnown) {
    traces.push({
      type: "scatter", mode: "lines", x: centres(data), y: data.bits.map((each) => (each === null ? null : mbit(each))),
      yaxis: "y2", fill: "tozeroy", line: { color: css("--grey"), width: 1, shape: "hvh" },
      hovertemplate: "%{x|%Y-%m-%d %H:%M:%S}<br>%{y:.3g} Mbit/s<extra></extra>",
    });
    layout.yaxis.domain = [0.34, 1];
    layout.yaxis2 = { ...axis("Mbit/s"), domain: [0, 0.24], rangemode: "tozero", nticks: 3 };
    layout.xaxis.anchor = "y2";
  }
  return { traces, layout, height: isTrafficKnown ? 250 : 190 };
}

function cdf(data) {
  const traces = data.curves.map((curve, place) => ({
    type: "scatter", mode: "lines", name: `${curve.name}, n = ${count(curve.samples)}`, x: curve.rtt_s.map(ms),
    y: curve.share.map((share) => share * 100), line: { ...pick(place), width: 2.2, shape: "hv" },
    hovertemplate: `${curve.name}: %{y:.1f} % at most %{x:.3g} ms<extra></extra>`,
  }));
  // The axis leaves out the outermost RTTs, because their steps in a curve are not visible.
  const shown = data.curves.flatMap((curve) => curve.rtt_s
    .filter((_, at) => curve.share[at] > 0.0005 && (!at || curve.share[at - 1] < 0.9995)).map(ms));
  return {
    traces, height: 380,
    layout: { xaxis: logAxis("RTT, ms", shown), yaxis: shareAxis("share of RTTs, %") },
  };
}

const pick = (place) => {
  const { color, dash } = styles()[place % 5];
  return { color, dash };
};
const shareAxis = (title) => ({ ...axis(title), range: [0, 102], dtick: 20 });

function spread(data) {
  const traces = [];
  data.curves.forEach((curve, place) => {
    const shown = curve.rtt_s.map((each, at) => [each, curve.share[at]]).filter((each) => each[0] > 0);
    traces.push({
      type: "scatter", mode: "lines", name: curve.name, x: shown.map((each) => ms(each[0])),
      y: shown.map((each) => each[1] * 100), line: { ...pick(place), width: 2, shape: "hv" }, legendgroup: curve.name,
      hovertemplate: `${curve.name}: %{y:.1f} % of networks at most %{x:.3g} ms<extra></extra>`,
    }, {
      type: "scatter", mode: "markers", name: curve.name, x: [ms(curve.overall_s)], y: [curve.overall_share * 100],
      marker: { color: styles()[place].color, symbol: styles()[place].symbol, size: 10 }, showlegend: false,
      legendgroup: curve.name, hovertemplate: `${curve.name} of all RTTs together: %{x:.3g} ms<extra></extra>`,
    });
  });
  return {
    traces, height: 380,
    layout: { xaxis: logAxis("time, ms", traces.flatMap((trace) => trace.x)), yaxis: shareAxis("share of networks, %") },
  };
}

function bubbles(data) {
  const traces = data.points.map((points, place) => ({
    type: "scatter", mode: "markers", name: points.name, x: points.bits.map(mbit), y: points.p95_s.map(ms),
    marker: { color: styles()[place].color, symbol: styles()[place].symbol, size: 7, opacity: 0.65 },
    customdata: points.labels.map((label, at) => [
      escape(label), msText(points.p95_s[at]), digits(mbit(points.bits[at] ?? 0)), count(points.samples[at])]),
    hovertemplate: "%{customdata[0]}<br>p95 %{customdata[1]}, %{customdata[2]} Mbit/s, %{customdata[3]} RTTs" +
      "<extra></extra>",
  }));
  return {
    traces, height: 400,
    layout: {
      xaxis: logAxis("traffic, Mbit/s", traces.flatMap((trace) => trace.x)),
      yaxis: logAxis("p95, ms", traces.flatMap((trace) => trace.y)),
    },
  };
}

function periods(data) {
  const traces = data.points.flatMap((points, place) => [["p95", "p95_s", ""], ["median", "p50_s", "-open"]]
    .map(([what, key, open]) => ({
      type: "scatter", mode: "markers", name: `${points.name}, ${what}`, x: points.bits.map(mbit),
      y: points[key].map(ms),
      marker: { color: styles()[place].color, symbol: styles()[place].symbol + open, size: 6, opacity: 0.7 },
      customdata: points.samples.map((samples, at) => [
        new Date(points.begins_ms[at]).toISOString().slice(0, 19).replace("T", " "), count(samples)]),
      hovertemplate: `%{customdata[0]}<br>${what} %{y:.3g} ms, %{x:.3g} Mbit/s, %{customdata[1]} RTTs<extra></extra>`,
    })));
  return {
    traces, height: 400,
    layout: {
      xaxis: { ...axis("traffic of all networks, Mbit/s"), rangemode: "tozero" },
      yaxis: logAxis("RTT, ms", traces.flatMap((trace) => trace.y)),
    },
  };
}

function dumbbells(data) {
  const last = data.labels.length - 1;
  const rows = data.labels.map((_, row) => last - row);
  const segments = { x: [], y: [] };
  data.labels.forEach((_, row) => {
    segments.x.push(ms(data.quiet_s[row]), ms(data.busy_s[row]), null);
    segments.y.push(rows[row], rows[row], null);
  });
  const custom = data.labels.map((label, row) => [escape(label), count(data.samples[row])]);
  const points = (name, values, colour, symbol) => ({
    type: "scatter", mode: "markers", name, x: values.map(ms), y: rows, customdata: custom,
    marker: { color: css(colour), symbol, size: 10 },
    hovertemplate: `%{customdata[0]}<br>${name} %{x:.3g} ms, at least %{customdata[1]} RTTs<extra></extra>`,
  });
  const traces = [
    { type: "scatter", mode: "lines", ...segments, line: { color: css("--grey"), width: 3 }, hoverinfo: "skip",
      showlegend: false },
    points("quiet", data.quiet_s, "--blue", "circle"),
    points("busy", data.busy_s, "--red", "diamond"),
  ];
  return {
    traces, height: 22 * data.labels.length + 110,
    layout: {
      xaxis: logAxis("80th percentile of the RTTs, ms", [...data.quiet_s, ...data.busy_s].map(ms)),
      yaxis: {
        ...axis(""), tickmode: "array", tickvals: rows, ticktext: data.labels.map((label) => escape(short(label))),
        range: [-0.6, last + 0.6], ticks: "",
      },
    },
  };
}

function stacked(data) {
  const colours = ["--blue", "--yellow", "--green", "--purple", "--grey"];
  const traces = data.parts.map((part, place) => ({
    type: "bar", orientation: "h", name: part.name, y: data.labels, x: part.shares.map((share) => share * 100),
    marker: { color: css(colours[place]) }, textposition: "inside", insidetextanchor: "middle", textangle: 0,
    text: part.shares.map((share) => (share > 0.06 ? `${Math.round(share * 100)} %` : "")),
    textfont: { color: document.documentElement.dataset.theme === "dark" || place === 1 ? "#111" : "#fff" },
    hovertemplate: `${part.name}: %{x:.3g} % of %{y}<extra></extra>`,
  }));
  return {
    traces, height: 40 * data.labels.length + 120,
    layout: {
      barmode: "stack", bargap: 0.25, xaxis: { ...axis("share, %"), range: [0, 100], dtick: 20 },
      legend: { traceorder: "normal" }, yaxis: { ...axis(""), autorange: "reversed", ticks: "" },
    },
  };
}
