// Pictures with their maps, captions and units: one map of a pair, or several side by side.

/** A picture with a map and the bar of its colours. `say` gets what is known of the patch under the pointer. */
function mapView(row, head, longest, say, isSteered) {
  const shown = { packed: row.map, kind: kindOf(row, "map"), label: "" };
  const canvas = canvasFor(row, longest);
  const bar = element("div", {}, colourBar(row, shown.packed, shown.kind, head));
  const tell = (patch) => say(patch ? patchText(row, shown.packed, patch, head) : "the model does not see this part");
  const repaint = () => {
    if (row.thumb && row.picture && !row.picture.complete) return; // its load paints
    paint(canvas, row, shown.packed, shown.kind, head);
    bar.replaceChildren(colourBar(row, shown.packed, shown.kind, head));
  };
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `map of ${row.caption || row.id} on its picture${row.name ? `, by ${row.name}` : ""}`);
  canvas.addEventListener("pointermove", (event) => {
    const scale = canvas.width / canvas.clientWidth;
    tell(patchAt(row, canvas, event.offsetX * scale, event.offsetY * scale));
  });
  canvas.addEventListener("pointerleave", () => say(""));
  if (isSteered) steerByKeys(canvas, row, tell);
  const show = (unit) => {
    const has = unit && unit[3];
    [shown.packed, shown.kind] = has ? [unit[3], "units"] : [row.map, kindOf(row, "map")];
    shown.label = unit ? unitText(row, unit) : "";
    say("");
    repaint();
  };
  return { canvas, bar, shown, repaint, show };
}

/** The picture of a row with its map, caption and units; large in the dialog. */
function exhibit(row, head, isLarge) {
  const readout = element("p", { class: "readout" }, "\u00a0");
  const say = (text) => (readout.textContent = text || view.shown.label || "\u00a0");
  const view = mapView(row, head, isLarge ? 720 : 320, say, isLarge);
  const caption = captionLine(row, head, say, isLarge);
  const start = () => {
    loadPicture(row, view.repaint);
    view.repaint();
  };
  return { start, repaint: view.repaint, nodes: [element("div", { class: "frame" }, view.canvas), view.bar, caption, unitButtons(row, head, view.show), readout] };
}

/** Several maps of a pair side by side; units are those of the first. The caption has the values of the map that the pointer or the focus was on last. */
function panelExhibit(row, head, isLarge) {
  const readout = element("p", { class: "readout" }, "\u00a0");
  const say = (text) => (readout.textContent = text || views[0].shown.label || "\u00a0");
  const parts = panelRows(row, head);
  const caption = element("div");
  const tell = (part, text) => say(text && `${part.name}: ${text}`);
  const choose = (part) => caption.replaceChildren(captionLine(part, head, (text) => tell(part, text), isLarge));
  const views = parts.map((part) => mapView(part, head, isLarge ? 440 : 200, (text) => tell(part, text), isLarge));
  const panels = views.map(({ canvas, bar }, index) => {
    const part = parts[index];
    canvas.addEventListener("pointerenter", () => choose(part));
    canvas.addEventListener("focus", () => choose(part));
    return element("div", { class: "panel" }, element("div", { class: "name" }, element("b", {}, part.name), badge(part)), element("div", { class: "frame" }, canvas), bar);
  });
  const repaint = () => views.forEach((view) => view.repaint());
  const start = () => {
    loadPicture(row, repaint);
    repaint();
  };
  choose(parts[0]);
  return { start, repaint, nodes: [element("div", { class: isLarge ? "panels large" : "panels" }, panels), caption, unitButtons(row, head, views[0].show), readout] };
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
  const { ends } = rangeOf(row.words, kindOf(row, "words"), head);
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
