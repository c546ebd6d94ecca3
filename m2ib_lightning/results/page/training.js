// The page of a training: what was trained on what, the curves, and the metrics of the validation.

/** The parts of a training's page. */
function trainingParts(head) {
  const { curves, finished, summary } = head.training;
  const place = [head.data && `data ${head.data}`, head.source].filter(Boolean).join(", ");
  const facts = [
    ["model", head.model ?? "–"],
    ["task", head.task || "–"],
    ["pairs from", place || "–"],
    ["started", head.started ?? "–"],
    ["page written", head.written],
    ["version", `m2ib_lightning ${head.version}`.trim()],
    ...Object.entries(head.training.facts).map(([name, value]) => [spaced(name), totalText(value)]),
  ];
  const notes = [];
  if (!finished) notes.push("The training is not finished: summary.json is not there yet. “m2ib-fit report DIR” writes this page again.");
  if (!Object.keys(curves).length) notes.push("There are no curves: metrics.jsonl is missing, as in runs of earlier versions, or no step is done.");
  const charts = trainingCharts(curves);
  return [
    element(
      "section",
      { "aria-labelledby": "overview" },
      element("h2", { id: "overview" }, "Overview"),
      trainingTiles(head.training),
      notes.map((text) => element("p", { class: "note" }, text)),
      element("div", { class: "columns" }, factTable(facts), metricTable(curves, summary)),
    ),
    charts.length ? element("section", { "aria-labelledby": "curves" }, element("h2", { id: "curves" }, "Curves"), element("div", { class: "charts large" }, charts)) : null,
    element("section", { "aria-labelledby": "settings" }, element("h2", { id: "settings" }, "Settings"), element("pre", { tabindex: 0, role: "region", "aria-label": "config.yaml" }, head.config || "The run has no config.yaml.")),
  ];
}

function trainingTiles({ summary, curves }) {
  const last = (name) => summary[name] ?? curves[name]?.at(-1)?.[1];
  const steps = summary.steps ?? maximum(Object.values(curves).map((points) => points.at(-1)[0]));
  const values = [
    ["steps", steps],
    ["image to text, recall at 1", last("val/image_to_text@1")],
    ["text to image, recall at 1", last("val/text_to_image@1")],
    ["training loss", last("train/loss")],
    ["seconds of training", summary.seconds],
  ];
  const shown = values.filter(([, value]) => value !== undefined && value !== null);
  return element("div", { class: "tiles" }, shown.map(([label, value]) => element("div", { class: "tile" }, element("b", {}, format(value)), element("span", {}, label))));
}

/** One chart for each group of curves. */
function trainingCharts(curves) {
  return trainingGroups(Object.keys(curves)).map(({ title, names }) => {
    const lines = names.map((name, colour) => ({ name: shortName(name), points: curves[name], colour }));
    const chart = curveChart(title, lines, "step", "");
    if (names.length > 1) chart.append(legend(names.map(shortName)));
    return chart;
  });
}

/** The metrics of the validation: the first, the best-known and the last value of each. */
function metricTable(curves, summary) {
  const names = [...new Set([...Object.keys(curves), ...Object.keys(summary)])].filter((name) => name.startsWith("val/"));
  if (!names.length) return element("p", {}, "No pair was left for a validation, or none is done yet.");
  const heading = (text) => element("th", { scope: "col" }, text);
  const lines = names.map((name) => {
    const points = curves[name] ?? [];
    const ends = [points.length > 1 ? points[0][1] : undefined, summary[name] ?? points.at(-1)?.[1]];
    return element("tr", {}, element("th", { scope: "row" }, shortName(name)), ends.map((value) => element("td", {}, format(value, 4))));
  });
  const table = element("table", { class: "numbers" }, element("thead", {}, element("tr", {}, heading("validation"), heading("first"), heading("last"))), element("tbody", {}, lines));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "metrics of the validation" }, table);
}
