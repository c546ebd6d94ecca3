// Numbers, texts and lists of the page; nothing here touches the document.

/** Decodes `[lowest, highest, base64]` to values; NaN stands for one that is not known. */
function decode(packed, steps) {
  const [low, high, text] = packed;
  const bytes = atob(text);
  const values = new Float64Array(bytes.length);
  for (let index = 0; index < bytes.length; index += 1) {
    const code = bytes.charCodeAt(index);
    values[index] = code > steps ? NaN : low + (code * (high - low)) / steps;
  }
  return values;
}

/** Half a step: the most by which a decoded value is off. */
function precision(packed, steps) {
  return (packed[1] - packed[0]) / (2 * steps);
}

/** Writes a number with a few digits. */
function format(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size + 1))))));
}

/** Writes a decoded value with as many digits as its precision permits. */
function formatTo(value, error) {
  if (!Number.isFinite(value)) return "not read";
  if (!(error > 0)) return format(value, 6);
  const decimals = Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(error))));
  return value.toFixed(decimals);
}

/** Moves a value into [0, 1] by a range. */
function scaled(value, range) {
  if (!(range[1] > range[0])) return 0;
  return Math.min(1, Math.max(0, (value - range[0]) / (range[1] - range[0])));
}

/**
 * How the values of a unit are coloured over a run, and told. Along a path of betas they are powers, most of them small
 * against the largest: their colours are even in the root, and they are told in nats where they are nats.
 */
function scaleOf(unit) {
  const found = /^(.+)\^(\d+)$/.exec(unit ?? "");
  if (!found) return { power: 1, unit: unit ?? "", even: "", told: (value) => value };
  const [even, power] = [found[1], Number(found[2])];
  if (even !== "log(1 + nats)") return { power, unit, even, told: (value) => value };
  return { power, unit: "nats", even, told: (value) => Math.expm1(rootOf(value, power)) };
}

function rootOf(value, power) {
  return power === 1 ? value : Math.max(0, value) ** (1 / power);
}

/** The place of a value in a range, in [0, 1], even in the root of the value. */
function placeOf(value, [low, high], power) {
  return scaled(rootOf(value, power), [rootOf(low, power), rootOf(high, power)]);
}

/** The value at a place of a range: the inverse of `placeOf`. */
function valueAt(place, [low, high], power) {
  const [from, to] = [rootOf(low, power), rootOf(high, power)];
  return (from + place * (to - from)) ** power;
}

/** The colour of a value in [0, 1], as [red, green, blue], by linear steps through a list of colours. */
function colourOf(value, colours) {
  const place = Math.min(1, Math.max(0, value)) * (colours.length - 1);
  const index = Math.min(colours.length - 2, Math.floor(place));
  const part = place - index;
  return colours[index].map((channel, k) => Math.round(channel + part * (colours[index + 1][k] - channel)));
}

/**
 * The caption in pieces: text between tokens, and tokens with their value. Offsets count whole characters, so that an
 * emoji is one. Byte-level tokens that share characters are merged, and their values are added.
 */
function captionPieces(caption, offsets, values) {
  const characters = Array.from(caption);
  const spans = [];
  for (let index = 0; 2 * index < offsets.length; index += 1) {
    let [start, end, value] = [offsets[2 * index], offsets[2 * index + 1], values ? values[index] : NaN];
    const last = spans.at(-1);
    if (last && start < last.end) {
      spans.pop();
      [start, end, value] = [last.start, Math.max(end, last.end), value + last.value];
    }
    spans.push({ start, end, value });
  }
  const pieces = [];
  let done = 0;
  for (const span of spans) {
    if (span.start > done) pieces.push({ text: characters.slice(done, span.start).join("") });
    pieces.push({ text: characters.slice(span.start, span.end).join(""), value: span.value });
    done = span.end;
  }
  if (done < characters.length) pieces.push({ text: characters.slice(done).join("") });
  return pieces;
}

/** Characters of a text, by whole characters. */
function sliceOf(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

/** The outlined part as one byte a cell: width, height, and the cells row by row. */
function decodeRuns(runs) {
  const [width, height, ...lengths] = runs;
  const cells = new Uint8Array(width * height);
  let [place, inside] = [0, 0];
  for (const length of lengths) {
    cells.fill(inside, place, place + length);
    place += length;
    inside = 1 - inside;
  }
  return { width, height, cells };
}

/** Lines around the outlined part, as [x1, y1, x2, y2] in cells. */
function edgesOf({ width, height, cells }) {
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? cells[y * width + x] : 0);
  const lines = [];
  for (let y = 0; y <= height; y += 1) {
    for (let x = 0; x <= width; x += 1) {
      if (at(x, y) !== at(x, y - 1)) lines.push([x, y, x + 1, y]);
      if (at(x, y) !== at(x - 1, y)) lines.push([x, y, x, y + 1]);
    }
  }
  return lines;
}

/** The value at a place of a map, between its cells: bilinear, with cell centres at halves. */
function interpolate(values, width, height, x, y) {
  const left = Math.min(width - 1, Math.max(0, x - 0.5));
  const top = Math.min(height - 1, Math.max(0, y - 0.5));
  const [x0, y0] = [Math.floor(left), Math.floor(top)];
  const [x1, y1] = [Math.min(width - 1, x0 + 1), Math.min(height - 1, y0 + 1)];
  const [fx, fy] = [left - x0, top - y0];
  const upper = values[y0 * width + x0] * (1 - fx) + values[y0 * width + x1] * fx;
  const lower = values[y1 * width + x0] * (1 - fx) + values[y1 * width + x1] * fx;
  return upper * (1 - fy) + lower * fy;
}

/**
 * The maps of a pair, each as a row: its own one, if it has one, and those of its panels. What a panel lacks is not taken
 * from the pair's own map.
 */
function panelRows(row, head) {
  const own = row.map ? [Object.assign(Object.create(row), { name: head.own ?? head.method })] : [];
  const empty = { words: undefined, offsets: [], mapUnit: undefined, unit: "", hit: undefined, loss: undefined, units: undefined };
  return [...own, ...row.panels.map((panel) => Object.assign(Object.create(row), empty, panel))];
}

/** The kind of a map or of words, whose colours are fixed over the run: that of one method, where there are several. */
function kindOf(row, kind) {
  return row.name && Object.hasOwn(row, "unit") ? `${kind} of ${row.name}` : kind;
}

/** What became of a pair: failed, hit, miss or done. */
function outcomeOf(row) {
  if (row.error !== undefined) return "failed";
  return row.hit === true ? "hit" : row.hit === false ? "miss" : "done";
}

/** The numbers that rows can be sorted and filtered by: name, label, and function of the row. */
function scoresOf(head) {
  const scores = [{ name: "n", label: "order of the table", of: (row) => row.n }];
  const add = (name, label, of) => scores.push({ name, label, of });
  if (head.comparison) {
    head.comparison.methods.forEach((method, m) => {
      head.comparison.measures.forEach((measure, k) => {
        add(`${m}.${k}`, `${spaced(measure.name)}: ${method}`, (row) => {
          const found = (row.scores ?? []).find((entry) => entry[0] === m && entry[1] === k);
          return found ? found[2] : undefined;
        });
      });
    });
    return scores;
  }
  add("similarity", "similarity", (row) => row.similarity ?? undefined);
  if (head.histograms["image information"]) {
    add("image", "image information", (row) => row.information?.[0] ?? undefined);
    add("text", "text information", (row) => row.information?.[1] ?? undefined);
  }
  add("peak", "highest of the map", (row) => row.map?.[1]);
  add("spread", "range of the map", (row) => (row.map ? row.map[1] - row.map[0] : undefined));
  if (head.ranges?.units) {
    add("units", "largest share of a unit", (row) => maximum((row.units ?? []).map((unit) => unit[2] ?? undefined)));
  }
  return scores;
}

function maximum(values) {
  const known = values.filter((value) => value !== undefined);
  return known.length ? Math.max(...known) : undefined;
}

function spaced(name) {
  return name.replaceAll("_", " ");
}

/** The rows that match: every word of the text, the outcome, and the range of a score. */
function filterRows(rows, { text = "", outcome = "all", score = null, low = null, high = null }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    if (outcome === "done" ? row.error !== undefined : outcome !== "all" && outcomeOf(row) !== outcome) return false;
    if (score && (low !== null || high !== null)) {
      const value = score.of(row);
      if (value === undefined || (low !== null && value < low) || (high !== null && value > high)) return false;
    }
    if (!words.length) return true;
    row.searched ??= [row.caption, row.sentence, row.id, row.key, row.error].filter(Boolean).join("\n").toLowerCase();
    return words.every((word) => row.searched.includes(word));
  });
}

/** The rows by a score; those without it come last, whichever the direction, and ties keep the order of the table. */
function sortRows(rows, score, descending) {
  const sign = descending ? -1 : 1;
  return rows
    .map((row) => ({ row, value: score.of(row) }))
    .sort((a, b) => {
      if (a.value === undefined || b.value === undefined) {
        return (a.value === undefined) - (b.value === undefined) || a.row.n - b.row.n;
      }
      return sign * (a.value - b.value) || a.row.n - b.row.n;
    })
    .map(({ row }) => row);
}

/** A range with few digits that holds another. */
function roundedOutwards(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 20 || 1e-6));
  const tidy = (value) => Number(value.toPrecision(12));
  return [tidy(Math.floor(low / step) * step), tidy(Math.ceil(high / step) * step)];
}

/** Even steps for an axis from low to high. */
function ticks(low, high, count = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const places = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) places.push(Number((k * step).toPrecision(12)));
  return places;
}

/** A metric's name for readers: without its stage, and with spaces. */
function shortName(name) {
  return spaced(name.replace(/^(train|val)\//, "")).replace("@", " at ");
}

/** The charts of a training: which metrics stand in which, the loss first, then recall, and so on. */
function trainingGroups(names) {
  const kinds = [
    ["Training loss", /^train\/loss$/],
    ["Recall of the validation", /^val\/.*@\d+$/],
    ["Information while training, in nats", /^train\/.*information$/],
    ["Information at validation, in nats", /^val\/.*information$/],
  ];
  const groups = kinds.map(([title, pattern]) => ({ title, names: names.filter((name) => pattern.test(name)) }));
  const grouped = new Set(groups.flatMap((group) => group.names));
  for (const name of names) if (!grouped.has(name)) groups.push({ title: `${shortName(name)} (${name.startsWith("val/") ? "validation" : "training"})`, names: [name] });
  return groups.filter((group) => group.names.length);
}
