// The gallery's cards, and the dialog with one pair.

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
  if (row.panels) return panelExhibit(row, head, isLarge);
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
    { class: row.panels && panelRows(row, head).length > 2 ? "card wide" : "card", tabindex: -1, "aria-label": row.id },
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
  if (row.truth && row.hit !== undefined) facts.push(["highest point of the map", row.hit === null ? "the model sees nothing of the outlined part" : row.hit ? "on the outlined part" : "beside the outlined part"]);
  if (row.cut > 0.005) facts.push(["outlined part outside of what the model sees", `${Math.round(100 * row.cut)} %`]);
  for (const line of row.failures ?? []) facts.push(["failure", line]);
  for (const { name, similarity } of row.panels ?? []) if (similarity !== undefined && row.map) facts.push([`similarity, ${name}`, format(similarity, 5)]);
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
