// A picture with its map, on a canvas.

/** How all maps are painted; the controls above the gallery change it. */
const view = { style: "smooth", range: "run", opacity: 0.75, outline: true };

const LINE = { light: "rgb(64, 224, 255)", dark: "rgba(0, 0, 0, 0.85)" };
const LEVELS = 5;

/** The lowest and highest colour of a map, by the range that is chosen; and whether higher values are cut off. */
function rangeOf(packed, kind, head) {
  const run = head.ranges?.[kind];
  if (view.range === "run" && run) return { ends: [run[0], run[1]], over: run[2] > run[1] };
  return { ends: [packed[0], packed[1]], over: false };
}

/** The place of what the model saw on a canvas: left, top, width and height in pixels. */
function seenBox(row, canvas) {
  const [left, top, right, bottom] = row.crop;
  const [x, y] = [canvas.width / row.size[0], canvas.height / row.size[1]];
  return [left * x, top * y, (right - left) * x, (bottom - top) * y];
}

/** A canvas for a row, with the shape of its picture. */
function canvasFor(row, longest) {
  const [width, height] = row.size;
  const scale = longest / Math.max(width, height, 1);
  return element("canvas", { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
}

/** Paints the picture, one map over it, and the outline of the ground truth. */
function paint(canvas, row, packed, kind, head) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (row.picture?.complete && row.picture.naturalWidth) context.drawImage(row.picture, 0, 0, canvas.width, canvas.height);
  else {
    context.fillStyle = "rgb(122, 122, 128)";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  const box = seenBox(row, canvas);
  shadeOutside(context, canvas, box);
  const { ends } = rangeOf(packed, kind, head);
  const values = Float64Array.from(decode(packed, head.steps), (value) => scaled(value, ends));
  const layer = view.style === "contour" ? contourLayer : view.style === "patches" ? patchLayer : smoothLayer;
  context.save();
  layer(context, values, row.grid, box, head.colours.heat);
  context.restore();
  if (view.outline && row.truth) strokeOutline(context, decodeRuns(row.truth), canvas);
}

function shadeOutside(context, canvas, [left, top, width, height]) {
  context.fillStyle = "rgba(128, 128, 128, 0.8)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(left, top, width, height);
  context.fill("evenodd");
}

/** Fills a small picture, cell by cell, and lays it over a box. */
function layOver(context, width, height, box, isSmooth, colourAt) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [width, height];
  const pixels = small.getContext("2d").createImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) pixels.data.set(colourAt(x, y), 4 * (y * width + x));
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = isSmooth;
  context.drawImage(small, ...box);
}

/** Where the value is low, the picture shows through. */
function opacityOf(value) {
  return Math.round(255 * view.opacity * (0.2 + 0.8 * value));
}

function patchLayer(context, values, [height, width], box, heat) {
  layOver(context, width, height, box, false, (x, y) => {
    const value = values[y * width + x];
    return [...colourOf(value, heat), opacityOf(value)];
  });
}

function smoothLayer(context, values, [height, width], box, heat) {
  const [columns, rows] = [Math.max(1, Math.round(box[2] / 2)), Math.max(1, Math.round(box[3] / 2))];
  layOver(context, columns, rows, box, true, (x, y) => {
    const value = interpolate(values, width, height, ((x + 0.5) * width) / columns, ((y + 0.5) * height) / rows);
    return [...colourOf(value, heat), opacityOf(value)];
  });
}

function contourLayer(context, values, [height, width], box, heat) {
  const [columns, rows] = [Math.max(1, Math.round(box[2])), Math.max(1, Math.round(box[3]))];
  const levels = new Int8Array(columns * rows);
  for (let y = 0; y < rows; y += 1) {
    for (let x = 0; x < columns; x += 1) {
      const value = interpolate(values, width, height, ((x + 0.5) * width) / columns, ((y + 0.5) * height) / rows);
      levels[y * columns + x] = Math.min(LEVELS - 1, Math.floor(value * LEVELS));
    }
  }
  const at = (x, y) => levels[Math.min(rows - 1, y) * columns + Math.min(columns - 1, x)];
  context.shadowColor = "rgba(0, 0, 0, 0.9)";
  context.shadowBlur = 2;
  context.globalAlpha = Math.min(1, 0.25 + view.opacity);
  layOver(context, columns, rows, box, false, (x, y) => {
    const [here, right, below] = [at(x, y), at(x + 1, y), at(x, y + 1)];
    if (here === right && here === below && here === at(x + 1, y + 1)) return [0, 0, 0, 0];
    return [...colourOf(0.3 + (0.7 * Math.max(here, right, below)) / (LEVELS - 1), heat), 255];
  });
}

function strokeOutline(context, part, canvas) {
  const [x, y] = [canvas.width / part.width, canvas.height / part.height];
  context.beginPath();
  for (const [x1, y1, x2, y2] of edgesOf(part)) {
    context.moveTo(x1 * x, y1 * y);
    context.lineTo(x2 * x, y2 * y);
  }
  for (const [colour, width] of [[LINE.dark, 4], [LINE.light, 2]]) {
    [context.strokeStyle, context.lineWidth, context.lineCap] = [colour, width, "round"];
    context.stroke();
  }
}

/** The patch under a place of the canvas, as [row, column], or null outside of what the model saw. */
function patchAt(row, canvas, x, y) {
  const [left, top, width, height] = seenBox(row, canvas);
  const column = Math.floor(((x - left) / width) * row.grid[1]);
  const line = Math.floor(((y - top) / height) * row.grid[0]);
  return line >= 0 && column >= 0 && line < row.grid[0] && column < row.grid[1] ? [line, column] : null;
}

/** What is known of one patch: its place and its own value, not an interpolated one. */
function patchText(row, packed, [line, column], head) {
  const value = decode(packed, head.steps)[line * row.grid[1] + column];
  const error = precision(packed, head.steps);
  const exact = error > 0 ? ` ± ${format(error, 1)}` : "";
  return `patch ${line + 1}, ${column + 1}: ${formatTo(value, error)}${unitOf(row)}${exact}`;
}

/** The unit of a row's saliency: M2IB's has one, that of other methods has none. */
function unitOf(row) {
  return row.loss ? " nats" : "";
}

/** A bar of the colours with its ends. */
function colourBar(row, packed, kind, head) {
  const { ends, over } = rangeOf(packed, kind, head);
  const strip = element("span", { class: "strip" });
  strip.style.background = `linear-gradient(to right, ${head.colours.heat.map((colour) => `rgb(${colour})`).join(", ")})`;
  return element("div", { class: "colours" }, element("span", {}, format(ends[0])), strip, element("span", {}, `${over ? "≥ " : ""}${format(ends[1])}${unitOf(row)}`));
}
