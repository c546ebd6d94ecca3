// The first screen: what was run, what came out, what failed, and the curves.

function overview(head, actions) {
  const summary = head.summary;
  const place = [head.data && `data ${head.data}`, head.source].filter(Boolean).join(", ");
  const facts = [
    ["model", head.model ?? "–"],
    [head.comparison ? "methods" : "method", head.method ?? "–"],
    ["task", head.task || "–"],
    ["pairs from", place || "–"],
    ["started", head.started ?? "–"],
    ["page written", head.written],
    ["version", `m2ib_lightning ${head.version}`.trim()],
  ];
  return element(
    "section",
    { "aria-labelledby": "overview" },
    element("h2", { id: "overview" }, "Overview"),
    tiles(head, actions),
    notes(head).map((text) => element("p", { class: "note" }, text)),
    failureList(head, actions),
    element("div", { class: "columns" }, factTable(facts), element("div", { class: "charts" }, overviewCharts(head, actions))),
    element("details", {}, element("summary", {}, "All totals"), factTable(Object.entries(summary).map(([name, value]) => [spaced(name), totalText(value)]))),
    element("details", {}, element("summary", {}, "Settings (config.yaml)"), element("pre", { tabindex: 0 }, head.config || "The run has no config.yaml.")),
  );
}

function totalText(value) {
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none";
  return typeof value === "number" ? format(value, 4) : value === null ? "none" : String(value);
}

function tiles(head, actions) {
  const summary = head.summary;
  const tile = (label, value, outcome) => {
    const content = [element("b", {}, value), element("span", {}, label)];
    return outcome ? element("button", { type: "button", class: `tile ${outcome}`, onclick: () => actions.showOutcome(outcome) }, content) : element("div", { class: "tile" }, content);
  };
  const all = [tile("explained", String(summary.pairs_done), "done")];
  if (summary.pairs_failed) all.push(tile("failed", String(summary.pairs_failed), "failed"));
  if (summary.pairs_skipped) all.push(tile("not reached yet", String(summary.pairs_skipped)));
  const hits = actions.rows.filter((row) => row.hit === true).length;
  const misses = actions.rows.filter((row) => row.hit === false).length;
  if (hits + misses) all.push(tile(`hit the outlined part, of ${hits + misses}`, String(hits), "hit"));
  const mean = head.histograms.similarity?.mean;
  if (mean !== undefined) all.push(tile("mean similarity", format(mean)));
  if (summary.seconds) all.push(tile("seconds of work", format(summary.seconds)));
  return element("div", { class: "tiles" }, all);
}

/** What a reader must know: that the page is a part, or that the run is. */
function notes(head) {
  const texts = [];
  if (head.shown < head.pairs) {
    texts.push(`The table has ${head.pairs} pairs; the first ${head.shown} of its parts are here. “m2ib-fit report RUN” writes pages with all of them.`);
  }
  if (head.pages.length > 1) texts.push(`The pairs are on ${head.pages.length} pages; the totals, histograms and curves are of all.`);
  if (head.summary.pairs_skipped) texts.push(`The run is not finished: ${head.summary.pairs_skipped} pairs have no row yet.`);
  const explained = head.shown - head.reasons.reduce((sum, [, count]) => sum + count, head.other_reasons);
  if (!head.comparison && head.thumbnails < explained) {
    texts.push(`${head.thumbnails} of ${explained} pairs have a picture here; the others show their map on grey. “m2ib-fit report RUN” makes thumbnails from the picture files.`);
  }
  if (head.inline < head.thumbnails) {
    texts.push(`${head.inline} of ${head.thumbnails} pictures are in this file; the others are in the folder report/ beside it.`);
  }
  return [...texts, ...(head.comparison?.notes ?? [])];
}

function failureList(head, actions) {
  if (!head.reasons.length) return null;
  const lines = head.reasons.map(([reason, count]) => element("li", {}, element("b", {}, `${count} × `), reason));
  if (head.other_reasons) lines.push(element("li", {}, `${head.other_reasons} for other reasons`));
  const show = element("button", { type: "button", onclick: () => actions.showOutcome("failed") }, "Show them");
  return element("div", { class: "failures" }, element("h3", {}, "Why pairs failed"), element("ul", {}, lines), show);
}

function overviewCharts(head, actions) {
  const names = { similarity: "similarity", "image information": "image", "text information": "text" };
  const charts = Object.entries(head.histograms).map(([name, data]) => histogramChart(name, data, (low, high) => actions.showRange(names[name], low, high)));
  head.curves.forEach((curve, index) => {
    const points = curve.mean.map((mean, step) => [step + 1, mean, mean - curve.deviation[step], mean + curve.deviation[step]]);
    charts.push(curveChart(`Loss of the ${curve.tower} map`, [{ name: "mean", points, colour: index }], "step", `mean of ${curve.pairs} pairs ± standard deviation`));
  });
  return charts;
}
