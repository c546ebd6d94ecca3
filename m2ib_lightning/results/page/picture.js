// A picture with its map, on a canvas.

/** How all maps are painted; the controls above the gallery change it. */
const view = { style: "smooth", range: "run", opacity: 0.75, outline: true };

const LINE = { light: "rgb(64, 224, 255)", dark: "rgba(0, 0, 0, 0.85)" };
const LEVELS = 5;

/** The lowest and highest colour of a map, by the range that is chosen; its scale; and whether higher values are cut off. */
function rangeOf(packed, kind, head, unit) {
  const run = head.ranges?.[kind];
  if (view.range === "run" && run) return { ends: [run[0], run[1]], over: run[2] > run[1], power: scaleOf(unit).power };
  return { ends: [packed[0], packed[1]], over: false, power: 1 };
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
  const { ends, power } = rangeOf(packed, kind, head, row.mapUnit);
  const values = Float64Array.from(decode(packed, head.steps), (value) => placeOf(value, ends, power));
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

/** The colour of each of 256 steps from 0 to 1, with its opacity: where the value is low, the picture shows through. */
function colourTable(heat) {
  const table = new Uint8ClampedArray(4 * 256);
  for (let step = 0; step < 256; step += 1) {
    table.set([...colourOf(step / 255, heat), 255 * view.opacity * (0.2 + (0.8 * step) / 255)], 4 * step);
  }
  return table;
}

/** Values in [0, 1] at the middle of each cell of a finer grid, row by row. */
function refined(values, [height, width], columns, rows) {
  const fine = new Float32Array(columns * rows);
  for (let y = 0; y < rows; y += 1) {
    for (let x = 0; x < columns; x += 1) {
      fine[y * columns + x] = interpolate(values, width, height, ((x + 0.5) * width) / columns, ((y + 0.5) * height) / rows);
    }
  }
  return fine;
}

/** Lays a small picture over a box; `fillPixels` gets its bytes, four a cell. */
function layOver(context, width, height, box, isSmooth, fillPixels) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [width, height];
  const pixels = small.getContext("2d").createImageData(width, height);
  fillPixels(pixels.data);
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = isSmooth;
  context.drawImage(small, ...box);
}

function fillFrom(values, heat) {
  const table = colourTable(heat);
  return (bytes) => {
    for (let cell = 0; cell < values.length; cell += 1) {
      const place = 4 * Math.round(255 * values[cell]);
      for (let channel = 0; channel < 4; channel += 1) bytes[4 * cell + channel] = table[place + channel];
    }
  };
}

function patchLayer(context, values, [height, width], box, heat) {
  layOver(context, width, height, box, false, fillFrom(values, heat));
}

function smoothLayer(context, values, grid, box, heat) {
  const [columns, rows] = [Math.max(1, Math.round(box[2] / 3)), Math.max(1, Math.round(box[3] / 3))];
  layOver(context, columns, rows, box, true, fillFrom(refined(values, grid, columns, rows), heat));
}

function contourLayer(context, values, grid, box, heat) {
  const [columns, rows] = [Math.max(1, Math.round(box[2])), Math.max(1, Math.round(box[3]))];
  const levels = Int8Array.from(refined(values, grid, columns, rows), (value) => Math.min(LEVELS - 1, Math.floor(value * LEVELS)));
  const colours = Array.from({ length: LEVELS }, (_, level) => [...colourOf(0.3 + (0.7 * level) / (LEVELS - 1), heat), 255]);
  context.shadowColor = "rgba(0, 0, 0, 0.9)";
  context.shadowBlur = 2;
  context.globalAlpha = Math.min(1, 0.25 + view.opacity);
  layOver(context, columns, rows, box, false, (bytes) => {
    for (let y = 0; y < rows - 1; y += 1) {
      for (let x = 0; x < columns - 1; x += 1) {
        const cell = y * columns + x;
        const [here, right, below, next] = [levels[cell], levels[cell + 1], levels[cell + columns], levels[cell + columns + 1]];
        if (here !== right || here !== below || here !== next) bytes.set(colours[Math.max(here, right, below)], 4 * cell);
      }
    }
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
  const { unit, told } = scaleOf(row.mapUnit);
  const own = `${formatTo(value, error)}${mapUnitOf(row)}${exact}`;
  return `patch ${line + 1}, ${column + 1}: ${unit === (row.mapUnit ?? "") ? own : `${format(told(value))} ${unit} (${own})`}`;
}

/** The unit of a row's saliency: M2IB's has one, that of other methods has none. */
function unitOf(row) {
  if (row.unit !== undefined) return row.unit && ` ${row.unit}`;
  return row.loss ? " nats" : "";
}

/** The unit of a row's maps of the picture, which is another one along a path of betas. */
function mapUnitOf(row) {
  return row.mapUnit ? ` ${row.mapUnit}` : unitOf(row);
}

/** A bar of the colours, with the values at its ends and its middle. */
function colourBar(row, packed, kind, head) {
  const { ends, over, power } = rangeOf(packed, kind, head, row.mapUnit);
  const { unit, even, told } = scaleOf(row.mapUnit);
  const name = row.mapUnit ? ` ${unit}` : unitOf(row);
  const strip = element("div", { class: "strip" });
  strip.style.background = `linear-gradient(to right, ${head.colours.heat.map((colour) => `rgb(${colour})`).join(", ")})`;
  const at = (place) => format(told(valueAt(place, ends, power)));
  const labels = [at(0), at(0.5), `${over ? "≥ " : ""}${at(1)}${name}`].map((text) => element("span", {}, text));
  const title = [unit !== (row.mapUnit ?? "") && "geometric mean along the path of betas", power > 1 && `the colours are even in ${even}`].filter(Boolean).join("; ");
  return element("div", { class: "colours", title: title || null }, strip, element("div", {}, labels));
}
