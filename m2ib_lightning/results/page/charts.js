// Charts as SVG: histograms, curves and intervals.

const CHART = { width: 320, height: 150, left: 44, right: 12, top: 10, bottom: 34 };

/** A frame with axes; x and y map values to places. */
function frame(title, [lowX, highX], [lowY, highY], labels, size = {}) {
  const area = { ...CHART, ...size };
  const [right, bottom] = [area.width - area.right, area.height - area.bottom];
  const x = (value) => area.left + ((value - lowX) / (highX - lowX || 1)) * (right - area.left);
  const y = (value) => bottom - ((value - lowY) / (highY - lowY || 1)) * (bottom - area.top);
  const svg = shape("svg", { viewBox: `0 0 ${area.width} ${area.height}`, role: "img", "aria-label": title, class: "chart" });
  for (const value of ticks(lowY, highY, 3)) {
    svg.append(shape("line", { x1: area.left, x2: right, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(shape("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  for (const value of ticks(lowX, highX, 4)) {
    svg.append(shape("text", { x: x(value), y: bottom + 14, "text-anchor": "middle" }, format(value)));
  }
  svg.append(shape("line", { x1: area.left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
  svg.append(shape("text", { x: (area.left + right) / 2, y: area.height - 4, "text-anchor": "middle", class: "label" }, labels));
  return { svg, x, y, bottom };
}

function figure(title, svg, note = "") {
  return element("figure", {}, element("figcaption", {}, element("b", {}, title), note ? ` ${note}` : ""), svg);
}

/** A histogram; a click on a bar chooses its range. */
function histogramChart(name, { low, high, counts, mean }, onRange) {
  const ends = high > low ? [low, high] : [low - 0.5, low + 0.5];
  const { svg, x, y, bottom } = frame(`Histogram of ${name}`, ends, [0, Math.max(...counts)], name);
  const width = (ends[1] - ends[0]) / counts.length;
  counts.forEach((count, index) => {
    const [from, to] = [ends[0] + index * width, ends[0] + (index + 1) * width];
    const title = shape("title", {}, `${format(from)} to ${format(to)}: ${count} ${count === 1 ? "pair" : "pairs"}`);
    svg.append(shape("rect", { x: x(from) + 0.5, y: y(count), width: Math.max(1, x(to) - x(from) - 1), height: bottom - y(count), class: "bar" }));
    const whole = shape("rect", { x: x(from), y: CHART.top, width: x(to) - x(from), height: bottom - CHART.top, class: "target", onclick: () => onRange?.(from, to) }, title);
    svg.append(whole);
  });
  return figure(`${name[0].toUpperCase()}${name.slice(1)}`, svg, `mean ${format(mean)}`);
}

/** Curves with bands: each has a name, points [x, y, low, high], and the number of its colour. */
function curveChart(title, curves, labels, note = "") {
  const points = curves.flatMap((curve) => curve.points);
  const across = points.map((point) => point[0]);
  const along = points.flatMap((point) => point.slice(1)).filter((value) => value !== null);
  const { svg, x, y } = frame(title, [Math.min(...across), Math.max(...across)], [Math.min(...along), Math.max(...along)], labels);
  for (const { name, points: line, colour } of curves) {
    const known = line.filter((point) => point[1] !== null);
    const banded = known.filter((point) => point[2] !== undefined && point[2] !== null);
    if (banded.length > 1) {
      const outline = [...banded.map((p) => `${x(p[0])},${y(p[3])}`), ...banded.toReversed().map((p) => `${x(p[0])},${y(p[2])}`)];
      svg.append(shape("polygon", { points: outline.join(" "), class: `band series${colour % 8}` }));
    }
    svg.append(shape("polyline", { points: known.map((p) => `${x(p[0])},${y(p[1])}`).join(" "), class: `line series${colour % 8}` }));
    for (const point of known) {
      svg.append(shape("circle", { cx: x(point[0]), cy: y(point[1]), r: 2.5, class: `dot series${colour % 8}` }, shape("title", {}, `${name}: ${format(point[0])}, ${format(point[1], 4)}`)));
    }
  }
  return figure(title, svg, note);
}

/** The names and colours of curves. */
function legend(names) {
  return element("ul", { class: "legend" }, names.map((name, index) => element("li", { class: `series${index % 8}` }, name)));
}

/** Means with their intervals, one line a method. */
function intervalChart(measure, methods) {
  const lines = methods.filter((method) => measure.values[method] && measure.values[method].ends[0] !== null);
  const ends = lines.flatMap((method) => measure.values[method].ends).filter((value) => value !== null);
  if (measure.better === "zero") ends.push(0);
  const size = { width: 420, left: 150, top: 8, height: 46 + 22 * lines.length };
  const { svg, x } = frame(`${spaced(measure.name)} with 95 % intervals`, [Math.min(...ends), Math.max(...ends)], [0, 0], spaced(measure.name), size);
  svg.querySelectorAll("text[text-anchor=end], .grid").forEach((node) => node.remove());
  if (Math.min(...ends) <= 0 && Math.max(...ends) >= 0) {
    svg.append(shape("line", { x1: x(0), x2: x(0), y1: 8, y2: size.height - 34, class: "zero" }));
  }
  lines.forEach((method, index) => {
    const [mean, low, high] = measure.values[method].ends;
    const y = 20 + 22 * index;
    const name = method.length > 22 ? `${method.slice(0, 21)}…` : method;
    const text = `${method}: ${format(mean)} [${format(low)}, ${format(high)}]`;
    svg.append(shape("text", { x: 142, y: y + 4, "text-anchor": "end", class: measure.best.includes(method) ? "best" : "" }, name));
    svg.append(shape("line", { x1: x(low), x2: x(high), y1: y, y2: y, class: `line series${methods.indexOf(method) % 8}` }));
    svg.append(shape("circle", { cx: x(mean), cy: y, r: 4.5, class: `dot series${methods.indexOf(method) % 8}` }, shape("title", {}, text)));
  });
  return svg;
}
