// The comparison of methods: tables that can be sorted, intervals and cascades.

function comparison(head) {
  const { methods, measures, baseline, cascade } = head.comparison;
  const groups = [...new Set(measures.map((measure) => measure.group))];
  const star = ` *: differs from ${baseline}, pair by pair (the interval of the difference excludes 0).`;
  const differs = measures.some((measure) => Object.values(measure.values).some((value) => value.difference?.differs));
  return element(
    "section",
    { "aria-labelledby": "comparison" },
    element("h2", { id: "comparison" }, "Comparison"),
    element("p", {}, `Means with 95 % intervals (bootstrap over pictures). Bold: the best mean.${differs ? star : ""} A click on a heading sorts.`),
    groups.map((group, index) => groupPart(group, measures.filter((measure) => measure.group === group), methods, index === 0)),
    curvesPart(head.comparison.curves ?? {}, methods),
    cascadePart(cascade, methods),
  );
}

function groupPart(group, measures, methods, isOpen) {
  const charts = element("div", { class: "charts" });
  const draw = () => {
    if (!charts.childElementCount) charts.append(...measures.map((measure) => figure(spaced(measure.name) + arrow(measure), intervalChart(measure, methods), measure.meaning)));
  };
  const part = element("details", { ontoggle: () => part.open && draw() }, element("summary", {}, "Charts with intervals"), charts);
  part.open = isOpen;
  if (isOpen) draw();
  const items = measures.map((measure) => element("li", {}, element("b", {}, spaced(measure.name)), `: ${measure.meaning}${pairsText(measure)}`));
  const title = group[0].toUpperCase() + group.slice(1);
  return element("div", { class: "group" }, element("h3", {}, measures[0].question ? `${title}: ${measures[0].question}` : title), sortableTable(measures, methods, title), element("ul", { class: "meanings" }, items), part);
}

function arrow(measure) {
  return { higher: " ↑", lower: " ↓", zero: " →0" }[measure.better] ?? "";
}

function pairsText(measure) {
  const values = Object.values(measure.values);
  const [fewest, most] = [Math.min(...values.map((value) => value.pairs)), Math.max(...values.map((value) => value.pairs))];
  const left = Math.max(...values.map((value) => value.left_out));
  return ` (${fewest === most ? most : `${fewest} to ${most}`} pairs${left ? `, not defined for up to ${left} more` : ""})`;
}

/** A table of methods by measures, whose headings sort it. */
function sortableTable(measures, methods, name) {
  const body = element("tbody");
  const headings = [];
  let sorted = { column: -1, descending: false };
  const value = (method, column) => (column < 0 ? methods.indexOf(method) : measures[column].values[method]?.ends[0] ?? undefined);
  const fillBody = () => {
    const order = sortRows(methods.map((method, n) => ({ method, n })), { of: (row) => value(row.method, sorted.column) }, sorted.descending);
    body.replaceChildren(...order.map(({ method }) => element("tr", {}, element("th", { scope: "row" }, method), measures.map((measure) => cell(measure, method)))));
    headings.forEach((heading, index) => {
      heading.setAttribute("aria-sort", index - 1 === sorted.column ? (sorted.descending ? "descending" : "ascending") : "none");
    });
  };
  const heading = (text, column) => {
    const best = column >= 0 && measures[column].better === "higher";
    const onclick = () => {
      sorted = { column, descending: sorted.column === column ? !sorted.descending : best };
      fillBody();
    };
    const made = element("th", { scope: "col" }, element("button", { type: "button", onclick }, text));
    headings.push(made);
    return made;
  };
  const header = element("tr", {}, heading("method", -1), measures.map((measure, index) => heading(spaced(measure.name) + arrow(measure), index)));
  fillBody();
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `table: ${name}` }, element("table", { class: "numbers" }, element("thead", {}, header), body));
}

function cell(measure, method) {
  const found = measure.values[method];
  if (!found || found.ends[0] === null) return element("td", {}, "–");
  const [mean, low, high] = found.ends;
  const text = `${format(mean)}${found.difference?.differs ? "*" : ""}`;
  return element("td", {}, element(measure.best.includes(method) ? "b" : "span", {}, text), element("small", {}, `${format(low)} to ${format(high)}`));
}

const CURVES = {
  image_insertion: ["Patches appear on a blur", "patches shown (%)", "should rise early"],
  image_deletion: ["Patches are blanked", "patches blanked (%)", "should fall early"],
  text_insertion: ["Words are said", "words said (%)", "should rise early"],
  text_deletion: ["Words are removed", "words removed (%)", "should fall early"],
};

/** The mean cosine as the highest patches or words come or go. */
function curvesPart(curves, methods) {
  const names = Object.keys(CURVES).filter((name) => curves[name]);
  if (!names.length) return null;
  const charts = names.map((name) => {
    const [title, across, note] = CURVES[name];
    const lines = Object.entries(curves[name]).map(([method, points]) => ({ name: method, points, colour: methods.indexOf(method) }));
    return curveChart(title, lines, across, `mean cosine, the highest first; ${note}`);
  });
  return element("div", { class: "group" }, element("h3", {}, "Insertion and deletion"), legend(methods), element("div", { class: "charts" }, charts));
}

function cascadePart(cascade, methods) {
  const towers = Object.keys(cascade);
  if (!towers.length) return null;
  const charts = towers.map((tower) => {
    const curves = Object.entries(cascade[tower]).map(([method, points]) => ({ name: method, points, colour: methods.indexOf(method) }));
    return curveChart(`${tower[0].toUpperCase()}${tower.slice(1)} maps as weights become random`, curves, "random stages (%)", "Spearman correlation with the map of the trained model; it should fall");
  });
  return element("div", { class: "group" }, element("h3", {}, "Cascade of random weights"), legend(methods), element("div", { class: "charts" }, charts));
}
