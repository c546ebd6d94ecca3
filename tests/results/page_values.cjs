// Tests of the script's numbers, texts and lists. Argument: the path of values.js.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const vm = require("node:vm");

const page = vm.createContext({ atob });
vm.runInContext(fs.readFileSync(process.argv[2], "utf8"), page);
const same = (made, wanted) => assert.deepEqual(JSON.parse(JSON.stringify(made)), wanted);

const tests = {
  "packed values are decoded"() {
    const values = page.decode([1, 3, "AP7/fw=="], 254);
    assert.deepEqual([...values], [1, 3, NaN, 2]);
    assert.equal(page.precision([1, 3, ""], 254), 2 / 508);
  },
  "a value has as many digits as it is exact"() {
    assert.equal(page.formatTo(2.123456, 0.004), "2.1235");
    assert.equal(page.formatTo(212.3, 5), "212.3");
    assert.equal(page.formatTo(NaN, 1), "not read");
    assert.equal(page.format(1234567), "1.23e+6");
    assert.equal(page.format(0.00001234), "1.23e-5");
    assert.equal(page.format(12345), "12345");
    assert.equal(page.format(null), "–");
  },
  "the colour of a value lies between its neighbours"() {
    const colours = [[0, 0, 0], [100, 50, 0], [200, 200, 200]];
    same(page.colourOf(0, colours), [0, 0, 0]);
    same(page.colourOf(0.25, colours), [50, 25, 0]);
    same(page.colourOf(1, colours), [200, 200, 200]);
    same(page.colourOf(7, colours), [200, 200, 200]);
    assert.equal(page.scaled(5, [5, 5]), 0);
    assert.equal(page.scaled(7, [0, 5]), 1);
  },
  "maps along a path are coloured by their root and told in nats"() {
    const path = page.scaleOf("log(1 + nats)^4");
    assert.deepEqual([path.power, path.unit, path.even], [4, "nats", "log(1 + nats)"]);
    assert.ok(Math.abs(path.told(Math.log1p(27) ** 4) - 27) < 1e-9);
    const opposite = page.scaleOf("(log(1 + nats) - log(1 + opposite nats))^3");
    assert.deepEqual([opposite.power, opposite.unit, opposite.told(5)], [3, "(log(1 + nats) - log(1 + opposite nats))^3", 5]);
    for (const unit of [null, undefined, "", "nats"]) assert.deepEqual([page.scaleOf(unit).power, page.scaleOf(unit).told(-5)], [1, -5]);
    assert.equal(page.placeOf(16, [1, 81], 4), 0.5);
    assert.equal(page.placeOf(21, [1, 81], 1), 0.25);
    assert.equal(page.placeOf(99, [1, 81], 4), 1);
    assert.equal(page.placeOf(-99, [1, 81], 4), 0);
    for (const power of [1, 4]) assert.ok(Math.abs(page.placeOf(page.valueAt(0.3, [1, 81], power), [1, 81], power) - 0.3) < 1e-12);
    assert.equal(page.valueAt(0.25, [-8, -4], 1), -7);
  },
  "offsets count whole characters"() {
    const pieces = page.captionPieces("a 🎈 café!", [0, 1, 2, 3, 2, 3, 4, 8], [1, 2, 3, 4]);
    same(pieces, [{ text: "a", value: 1 }, { text: " " }, { text: "🎈", value: 5 }, { text: " " }, { text: "café", value: 4 }, { text: "!" }]);
    assert.equal(page.sliceOf("🎈🎈b", 1, 3), "🎈b");
  },
  "runs alternate, and their edges surround them"() {
    const part = page.decodeRuns([3, 2, 1, 1, 4]);
    same([...part.cells], [0, 1, 0, 0, 0, 0]);
    const lines = JSON.parse(JSON.stringify(page.edgesOf(part)));
    assert.equal(lines.length, 4);
    assert.deepEqual(new Set(lines.map(String)), new Set(["1,0,2,0", "1,1,2,1", "1,0,1,1", "2,0,2,1"]));
  },
  "interpolation meets the cells at their middle and is flat outside"() {
    const values = [0, 1, 2, 3];
    assert.equal(page.interpolate(values, 2, 2, 0.5, 0.5), 0);
    assert.equal(page.interpolate(values, 2, 2, 1.5, 1.5), 3);
    assert.equal(page.interpolate(values, 2, 2, 1, 1), 1.5);
    assert.equal(page.interpolate(values, 2, 2, 0, 2), 2);
  },
  "rows are filtered by words, outcome and range"() {
    const rows = [
      { n: 0, key: "k:0", id: "a", caption: "A Red circle", similarity: 0.1, hit: true },
      { n: 1, key: "k:1", id: "b", caption: "a red square", similarity: 0.3, hit: false },
      { n: 2, key: "k:2", id: "c", error: "no red file" },
    ];
    const names = (options) => page.filterRows(rows, options).map((row) => row.id).join("");
    const score = { of: (row) => row.similarity };
    assert.equal(names({}), "abc");
    assert.equal(names({ text: "red" }), "abc");
    assert.equal(names({ text: "CIRCLE  red" }), "a");
    assert.equal(names({ outcome: "failed" }), "c");
    assert.equal(names({ outcome: "done" }), "ab");
    assert.equal(names({ outcome: "hit" }), "a");
    assert.equal(names({ outcome: "miss" }), "b");
    assert.equal(names({ score, low: 0.2 }), "b");
    assert.equal(names({ score, high: 0.1 }), "a");
    assert.equal(names({ score, low: null, high: null }), "abc");
  },
  "rows without a score come last in both directions"() {
    const rows = [{ n: 0 }, { n: 1, s: 2 }, { n: 2, s: 1 }, { n: 3, s: 2 }, { n: 4 }];
    const order = (descending) => page.sortRows(rows, { of: (row) => row.s }, descending).map((row) => row.n).join("");
    assert.equal(order(false), "21304");
    assert.equal(order(true), "13204");
  },
  "panels take nothing from the map beside them"() {
    const row = { id: "a", map: [0, 1, ""], words: [0, 1, ""], loss: [1], hit: true, panels: [{ name: "other", map: [2, 3, ""], unit: "nats" }, { name: "third" }] };
    const [own, other, third] = page.panelRows(row, { method: "one, other, third", own: "one" });
    assert.deepEqual([own.name, own.hit, other.name, other.hit, other.id, third.words], ["one", true, "other", undefined, "a", undefined]);
    assert.deepEqual([own, other].map((part) => page.kindOf(part, "map")), ["map", "map of other"]);
    assert.equal(page.kindOf(row, "words"), "words");
    assert.equal(page.panelRows({ panels: [{ name: "x" }] }, {}).length, 1);
  },
  "the curves of a training are grouped"() {
    const groups = page.trainingGroups(["val/image_to_text@1", "train/loss", "val/image_pointing", "train/text_information", "val/text_to_image@5"]);
    same(groups.map(({ names }) => names), [["train/loss"], ["val/image_to_text@1", "val/text_to_image@5"], ["train/text_information"], ["val/image_pointing"]]);
    assert.equal(page.shortName("val/image_to_text@5"), "image to text at 5");
  },
  "axes have round steps"() {
    same(page.ticks(0, 1), [0, 0.5, 1]);
    same(page.ticks(-0.31, 0.42), [-0.2, 0, 0.2, 0.4]);
    same(page.ticks(3, 3), [3]);
    const [low, high] = page.roundedOutwards(0.12345, 0.23456);
    assert.ok(low <= 0.12345 && high >= 0.23456 && high - low < 0.12);
  },
};

for (const [name, test] of Object.entries(tests)) {
  test();
  console.log(name);
}
