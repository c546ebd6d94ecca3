// The gallery's cards, and the dialog with one pair.

/** The picture of a row with its map, caption and units; large in the dialog. */
function exhibit(row, head, isLarge) {
  const readout = element("p", { class: "readout" }, "\u00a0");
  const shown = { packed: row.map, kind: "map", label: "" };
  const canvas = canvasFor(row, isLarge ? 720 : 320);
  const bar = element("div");
  const say = (text) => (readout.textContent = text || shown.label || "\u00a0");
  const repaint = () => {
    if (row.thumb && row.picture && !row.picture.complete) return; // its load paints
    paint(canvas, row, shown.packed, shown.kind, head);
    bar.replaceChildren(colourBar(row, shown.packed, shown.kind, head));
  };
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `map of ${row.caption || row.id} on its picture`);
  canvas.addEventListener("pointermove", (event) => {
    const scale = canvas.width / canvas.clientWidth;
    const patch = patchAt(row, canvas, event.offsetX * scale, event.offsetY * scale);
    say(patch ? patchText(row, shown.packed, patch, head) : "the model does not see this part");
  });
  canvas.addEventListener("pointerleave", () => say(""));
  if (isLarge) steerByKeys(canvas, row, (patch) => say(patchText(row, shown.packed, patch, head)));
  const show = (unit) => {
    const has = unit && unit[3];
    [shown.packed, shown.kind] = has ? [unit[3], "units"] : [row.map, "map"];
    shown.label = unit ? unitText(row, unit) : "";
    say("");
    repaint();
  };
  const caption = captionLine(row, head, say, isLarge);
  const start = () => {
    loadPicture(row, repaint);
    repaint();
  };
  bar.append(colourBar(row, shown.packed, shown.kind, head));
  return { start, repaint, nodes: [element("div", { class: "frame" }, canvas), bar, caption, unitButtons(row, head, show), readout] };
}

function loadPicture(row, onLoad) {
  if (row.thumb && !row.picture) {
    row.picture = new Image();
    row.picture.src = row.thumb;
  }
  if (row.picture && !row.picture.complete) {
    for (const event of ["load", "error"]) row.picture.addEventListener(event, onLoad, { once: true });
  }
}

/** Arrow keys move over the patches of a canvas that has the focus. */
function steerByKeys(canvas, row, onPatch) {
  const place = [0, 0];
  canvas.tabIndex = 0;
  canvas.addEventListener("focus", () => onPatch(place));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    for (const axis of [0, 1]) place[axis] = Math.min(row.grid[axis] - 1, Math.max(0, place[axis] + step[axis]));
    onPatch(place);
    event.preventDefault();
    event.stopPropagation();
  });
}

/** The caption with each token on the colour of its value. */
function captionLine(row, head, say, isLarge) {
  const line = element("p", { class: "caption", dir: "auto" });
  const caption = row.caption ?? "";
  if (!row.words) {
    line.append(caption || "no caption");
    return line;
  }
  const { ends } = rangeOf(row.words, "words", head);
  const values = decode(row.words, head.steps);
  const error = precision(row.words, head.steps);
  for (const piece of captionPieces(caption, row.offsets, values)) {
    if (!("value" in piece)) {
      line.append(piece.text);
      continue;
    }
    const text = `“${piece.text}”: ${formatTo(piece.value, error)}${Number.isFinite(piece.value) ? unitOf(row) : ""}`;
    const hover = { onpointerenter: () => say(text), onpointerleave: () => say(""), onfocus: () => say(text), onblur: () => say("") };
    const token = element("span", { class: "token", title: text, tabindex: isLarge ? 0 : null, ...hover }, piece.text);
    token.style.setProperty("--value", Number.isFinite(piece.value) ? scaled(piece.value, ends) : 0);
    line.append(token);
  }
  return line;
}

/** The units of a grounding; the one under the pointer or with the focus shows its map, and a click keeps it. */
function unitButtons(row, head, show) {
  if (!row.units?.length) return null;
  let kept = null;
  const buttons = row.units.map((unit, index) => {
    const colour = head.colours.units[index % head.colours.units.length];
    const button = element(
      "button",
      {
        type: "button",
        class: "unit",
        title: unitText(row, unit),
        "aria-pressed": "false",
        onpointerenter: () => show(unit),
        onpointerleave: () => show(kept),
        onfocus: () => show(unit),
        onblur: () => show(kept),
        onclick: () => {
          kept = kept === unit ? null : unit;
          buttons.forEach((other, place) => other.setAttribute("aria-pressed", String(row.units[place] === kept)));
          show(kept ?? unit);
        },
      },
      sliceOf(row.caption ?? "", unit[0], unit[1]),
      element("small", {}, unit[2] === undefined || unit[2] === null ? " not read" : ` ${unit[2] >= 0 ? "+" : "−"}${format(Math.abs(unit[2]))}`),
    );
    button.style.borderColor = `rgb(${colour})`;
    return button;
  });
  return element("div", { class: "units", role: "group", "aria-label": "units of the caption" }, buttons);
}

function unitText(row, unit) {
  const name = sliceOf(row.caption ?? "", unit[0], unit[1]);
  return unit[3] ? `“${name}” carries ${format(unit[2])} of the similarity` : `“${name}” is never read by the model`;
}

/** The short facts of a row. */
function factsOf(row) {
  const facts = [];
  if (row.similarity !== undefined) facts.push(`similarity ${format(row.similarity)}`);
  if (row.information) facts.push(`information ${format(row.information[0])} image, ${format(row.information[1])} text`);
  return facts.join(" · ");
}

function badge(row) {
  const texts = { failed: "failed", hit: "hit", miss: "miss" };
  const text = texts[outcomeOf(row)];
  const title = { hit: "the map's highest point is on the outlined part", miss: "the map's highest point is beside the outlined part" };
  return text ? element("span", { class: `badge ${text}`, title: title[text] }, text) : null;
}

/** What the card and the dialog show of a row: its map, or its drawing, or why it failed. */
function contentOf(row, head, isLarge) {
  if (row.error !== undefined) {
    return { start: () => {}, repaint: () => {}, nodes: [element("p", { class: "error" }, row.error), element("p", { class: "caption", dir: "auto" }, row.caption ?? "")] };
  }
  if (!row.map) {
    const drawing = row.drawing && element("img", { src: row.drawing, alt: `picture and maps of ${row.caption || row.id}`, loading: "lazy", class: "drawing" });
    return { start: () => {}, repaint: () => {}, nodes: [drawing, element("p", { class: "caption", dir: "auto" }, row.caption ?? "")] };
  }
  return exhibit(row, head, isLarge);
}

/** A card of the gallery. */
function card(row, head, link, onOpen) {
  const content = contentOf(row, head, false);
  const made = element(
    "article",
    { class: "card", tabindex: -1, "aria-label": row.id },
    element("h3", {}, element("a", { href: link, onclick: onOpen }, row.id), badge(row)),
    content.nodes,
    element("p", { class: "facts" }, factsOf(row)),
  );
  return { made, start: content.start, repaint: content.repaint };
}

/** Everything about one pair, for the dialog. */
function details(row, head) {
  const content = contentOf(row, head, true);
  const facts = [["key", row.key], ["picture", row.image ?? "–"]];
  if (row.sentence) facts.push(["sentence", row.sentence]);
  if (row.similarity !== undefined) facts.push(["similarity", format(row.similarity, 5)]);
  if (row.information) facts.push(["information per element", `${format(row.information[0], 4)} (image), ${format(row.information[1], 4)} (text)${unitOf(row)}`]);
  if (row.map) facts.push(["patches", `${row.grid[1]} × ${row.grid[0]}, ${mapEnds(row)}`]);
  if (row.words) facts.push(["tokens", `${row.offsets.length / 2}, ${format(row.words[0], 4)} to ${format(row.words[1], 4)}${unitOf(row)}`]);
  if (row.size) facts.push(["size of the picture", `${row.size[0]} × ${row.size[1]} pixels`]);
  if (row.truth) facts.push(["highest point of the map", row.hit === null ? "the model sees nothing of the outlined part" : row.hit ? "on the outlined part" : "beside the outlined part"]);
  if (row.cut > 0.005) facts.push(["outlined part outside of what the model sees", `${Math.round(100 * row.cut)} %`]);
  for (const line of row.failures ?? []) facts.push(["failure", line]);
  const nodes = [content.nodes, factTable(facts)];
  if (row.loss) nodes.push(element("div", { class: "charts" }, lossCharts(row, head)));
  if (row.scores) nodes.push(scoreTable(row, head));
  return { nodes, start: content.start, repaint: content.repaint };
}

/** The lowest and the highest value of a map. */
function mapEnds(row) {
  const { unit, told } = scaleOf(row.mapUnit);
  const own = `${format(row.map[0], 4)} to ${format(row.map[1], 4)}${mapUnitOf(row)}`;
  return unit === (row.mapUnit ?? "") ? own : `${format(told(row.map[0]))} to ${format(told(row.map[1]))} ${unit} (${own})`;
}

function lossCharts(row, head) {
  return ["image", "text"].flatMap((tower, index) => {
    if (!row.loss[index] || row.loss[index][2].length < 8) return [];
    const points = [...decode(row.loss[index], head.steps)].map((value, step) => [step + 1, value]);
    return [curveChart(`Loss of the ${tower} map`, [{ name: "loss", points, colour: index }], "step")];
  });
}

function scoreTable(row, head) {
  const { methods, measures } = head.comparison;
  const at = new Map(row.scores.map(([method, measure, value]) => [`${method}.${measure}`, value]));
  const shown = measures.map((measure, k) => [measure, k]).filter(([, k]) => methods.some((_, m) => at.has(`${m}.${k}`)));
  const header = element("tr", {}, element("th", { scope: "col" }, "measure"), methods.map((name) => element("th", { scope: "col" }, name)));
  const lines = shown.map(([measure, k]) =>
    element("tr", {}, element("th", { scope: "row" }, spaced(measure.name)), methods.map((_, m) => element("td", {}, format(at.get(`${m}.${k}`))))),
  );
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "scores of the pair" }, element("table", { class: "numbers" }, element("thead", {}, header), element("tbody", {}, lines)));
}
