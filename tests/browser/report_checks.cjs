// Checks of report.html in a browser. Arguments: the pages of an attribution, a grounding, an evaluation, an attribution
// with another one beside it, and a training.
const assert = require("node:assert/strict");
const { open, run, violations } = require("./driver.cjs");

const [pairs, grounding, evaluation, beside, training] = process.argv.slice(2).map((path) => `file://${path}`);
const ids = (page) => page.$$eval(".card h3 a", (links) => links.map((link) => link.textContent));
const select = (page, label, value) => page.getByLabel(label, { exact: true }).selectOption(value);
const similarities = (page) =>
  page.$$eval(".card p.facts", (lines) => lines.map((line) => Number(/similarity (\S+)/.exec(line.textContent)?.[1] ?? NaN)));
const readout = (page, card = 0) => page.locator(".card .readout").nth(card).textContent();
const dialogTitle = (page) => page.locator("dialog[open] h2").textContent();

/** A check on a fresh page of the attribution, which must end without anything wrong. */
function onPairs(check, options) {
  return async (browser) => {
    const page = await open(browser, pairs, options);
    await check(page);
    assert.deepEqual(page.wrong, []);
    await page.context().close();
  };
}

run({
  sort: onPairs(async (page) => {
    await select(page, "Sort by", "similarity");
    const rising = (await similarities(page)).filter((value) => !Number.isNaN(value));
    assert.deepEqual(rising, rising.toSorted((a, b) => a - b));
    assert.deepEqual((await ids(page)).slice(-2).sort(), ["empty", "gone"]);
    await page.getByRole("button", { name: "lowest first" }).click();
    const falling = (await similarities(page)).filter((value) => !Number.isNaN(value));
    assert.deepEqual(falling, rising.toReversed());
  }),

  "filter by text": onPairs(async (page) => {
    await page.getByLabel("Search").fill("BLUE above");
    assert.deepEqual(await ids(page), ["one"]);
    await page.getByLabel("Search").fill("nothing has this");
    assert.deepEqual(await ids(page), []);
    assert.equal(await page.locator(".empty").textContent(), "No pair matches.");
    await page.getByRole("button", { name: "Reset" }).click();
    assert.equal((await ids(page)).length, 8);
  }),

  "filter by outcome": onPairs(async (page) => {
    await select(page, "Outcome", "failed");
    assert.deepEqual(await ids(page), ["gone", "empty"]);
    assert.match(await page.locator(".card .error").first().textContent(), /does not exist/);
    await select(page, "Outcome", "hit");
    const hits = await ids(page);
    await select(page, "Outcome", "miss");
    assert.equal(hits.length + (await ids(page)).length, 6);
    await page.locator(".tile.failed").click();
    assert.deepEqual(await ids(page), ["gone", "empty"]);
  }),

  "filter by a range": onPairs(async (page) => {
    const all = (await similarities(page)).filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
    await page.getByRole("spinbutton", { name: "lowest" }).fill(String(all[2] - 1e-6));
    await page.getByRole("spinbutton", { name: "lowest" }).press("Enter");
    const kept = (await similarities(page)).sort((a, b) => a - b);
    assert.ok(kept.length >= all.length - 3 && kept.length < all.length, `${kept} of ${all}`);
    assert.ok(kept[0] >= all[1]);
  }),

  "deep link": async (browser) => {
    for (const [hash, title] of [["two", "two"], ["id%20with%20space%2F%C3%BC", "id with space/ü"], ["pairs.jsonl:0", "one"], ["%3Cb%3Esix%3C%2Fb%3E", "<b>six</b>"]]) {
      const page = await open(browser, `${pairs}#${hash}`);
      assert.ok((await dialogTitle(page)).startsWith(title), `${hash}: ${await dialogTitle(page)}`);
      assert.deepEqual(page.wrong, []);
      await page.context().close();
    }
    const page = await open(browser, `${pairs}#no-such-pair`);
    assert.match(await page.locator("dialog[open]").textContent(), /No pair of this page has the id or the key “no-such-pair”/);
    await page.keyboard.press("Escape");
    await page.locator(".card h3 a").nth(2).click();
    assert.equal(await dialogTitle(page).then((title) => title.startsWith("id with space/ü")), true);
    assert.ok(page.url().endsWith("#id%20with%20space%2F%C3%BC"), page.url());
  },

  keyboard: onPairs(async (page) => {
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.type), "search");
    await page.keyboard.press("Escape");
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "two");
    await page.keyboard.press("k");
    await page.keyboard.press("Enter");
    assert.ok((await dialogTitle(page)).startsWith("one"));
    await page.keyboard.press("ArrowRight");
    assert.ok((await dialogTitle(page)).startsWith("two"));
    await page.locator("dialog[open] canvas").focus();
    await page.keyboard.press("ArrowRight");
    assert.match(await page.locator("dialog[open] .readout").textContent(), /^patch 1, 2: [\d.]+ nats \([\d.]+ log\(1 \+ nats\)\^4 ± /);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("dialog[open]").count(), 0);
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "two");
    await page.keyboard.press("?");
    assert.match(await page.locator("dialog[open]").textContent(), /next and previous card/);
    await page.keyboard.press("Escape");
  }),

  pages: onPairs(async (page) => {
    await page.getByLabel("On a page").first().evaluate((node) => {
      node.append(new Option("3", "3"));
      node.value = "3";
      node.dispatchEvent(new Event("change"));
    });
    assert.deepEqual(await ids(page), ["one", "two", "id with space/ü"]);
    await page.keyboard.press("n");
    await page.keyboard.press("ArrowRight");
    assert.deepEqual(await ids(page), ["gone", "empty"]);
    await page.keyboard.press("p");
    assert.deepEqual(await ids(page), ["four", "five", "<b>six</b>"]);
  }),

  dark: async (browser) => {
    const ground = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const page = await open(browser, pairs, { theme: "dark" });
    assert.equal(await ground(page), "rgb(23, 23, 27)");
    await page.getByRole("button", { name: "Theme: auto" }).click();
    assert.equal(await ground(page), "rgb(251, 251, 252)");
    await page.getByRole("button", { name: "Theme: light" }).click();
    assert.equal(await ground(page), "rgb(23, 23, 27)");
    assert.deepEqual(page.wrong, []);
  },

  phone: async (browser) => {
    for (const url of [pairs, grounding, evaluation, beside, training]) {
      const page = await open(browser, url, { width: 390, height: 844 });
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, url);
      if (url === training) {
        assert.deepEqual(page.wrong, []);
        continue;
      }
      await page.locator(".card h3 a").first().click();
      const box = await page.locator("dialog[open]").boundingBox();
      assert.ok(box.x >= 0 && box.x + box.width <= 390, JSON.stringify(box));
      assert.deepEqual(page.wrong, []);
      await page.context().close();
    }
  },

  "a script as a caption is text": onPairs(async (page) => {
    assert.equal(await page.locator(".card .caption").nth(1).textContent(), "<script>alert('x')</script> a red circle");
    assert.equal(await page.locator("main script, main b:text('six')").count(), 0);
    assert.equal(await page.locator(".card").filter({ hasText: "<b>six</b>" }).count(), 1);
  }),

  "words have their value": onPairs(async (page) => {
    const token = page.locator(".card .token", { hasText: "circle" }).first();
    await token.hover();
    assert.match(await readout(page), /^“circle”: [\d.]+ nats$/);
    assert.equal(await readout(page), await token.getAttribute("title"));
  }),

  "patches have their own value": onPairs(async (page) => {
    const rows = await page.$$eval("script.rows", (blocks) => blocks.flatMap((block) => JSON.parse(block.textContent)));
    const one = rows.find((row) => row.id === "one");
    const [low, high, text] = one.map;
    const bytes = Buffer.from(text, "base64");
    const canvas = page.locator(".card canvas").first();
    const { width, height } = await canvas.boundingBox();
    const [left, top, right, bottom] = one.crop;
    for (const [line, column] of [[0, 0], [3, 5], [one.grid[0] - 1, one.grid[1] - 1]]) {
      const x = (left + ((column + 0.5) * (right - left)) / one.grid[1]) * (width / one.size[0]);
      const y = (top + ((line + 0.5) * (bottom - top)) / one.grid[0]) * (height / one.size[1]);
      await canvas.hover({ position: { x, y } });
      const parts = new RegExp(`^patch ${line + 1}, ${column + 1}: ([\\d.]+) nats \\(([\\d.]+) log`).exec(await readout(page));
      const [nats, shown] = parts.slice(1).map(Number);
      const value = low + (bytes[line * one.grid[1] + column] * (high - low)) / 254;
      const rounding = 0.051; // of the last digit that is shown
      assert.ok(Math.abs(shown - value) <= (high - low) / 508 + rounding, `${shown} is not ${value}`);
      assert.ok(Math.abs(nats - Math.expm1(value ** 0.25)) <= 0.01 * nats + 0.005, `${nats} nats are not ${value}`);
    }
    await canvas.hover({ position: { x: 2, y: height / 2 } });
    assert.equal(await readout(page), "the model does not see this part");
  }),

  "styles and ranges change the picture": onPairs(async (page) => {
    await page.waitForTimeout(200);
    const pixels = () => page.locator(".card canvas").first().evaluate((canvas) => canvas.toDataURL());
    const seen = new Set([await pixels()]);
    for (const [label, value] of [["Map", "patches"], ["Map", "contour"], ["Colours", "picture"]]) {
      await select(page, label, value);
      seen.add(await pixels());
    }
    await page.getByLabel("Outline of the truth").uncheck();
    seen.add(await pixels());
    await page.getByLabel("Opacity").fill("0.1");
    seen.add(await pixels());
    assert.equal(seen.size, 6);
  }),

  "the colour bar is true": onPairs(async (page) => {
    const bars = () => page.$$eval(".card .colours", (nodes) => nodes.map((node) => node.textContent));
    assert.equal(new Set(await bars()).size, 1);
    assert.match((await bars())[0], /nats$/);
    await select(page, "Colours", "picture");
    assert.ok(new Set(await bars()).size > 1);
  }),

  "a click on a histogram filters": onPairs(async (page) => {
    await page.locator("svg[aria-label='Histogram of similarity'] .target").last().click();
    const all = await similarities(page);
    assert.ok(all.length >= 1 && all.length < 6, `${all}: ${await page.locator(".count").textContent()}`);
  }),

  "units show their maps": async (browser) => {
    const page = await open(browser, grounding);
    await page.waitForTimeout(200);
    const pixels = () => page.locator(".card canvas").first().evaluate((canvas) => canvas.toDataURL());
    const whole = await pixels();
    const unit = page.locator(".card").first().locator(".unit").first();
    await unit.hover();
    assert.match(await readout(page), /^“.+” carries \S+ of the similarity$/);
    const first = await pixels();
    assert.notEqual(first, whole);
    await page.mouse.move(0, 0);
    assert.equal(await pixels(), whole);
    await unit.click();
    await page.mouse.move(0, 0);
    assert.equal(await unit.getAttribute("aria-pressed"), "true");
    await page.evaluate(() => document.activeElement.blur());
    assert.equal(await pixels(), first);
    assert.deepEqual(page.wrong, []);
  },

  "a map along a path is told in nats": async (browser) => {
    const page = await open(browser, grounding);
    const labels = await page.locator(".card .colours").first().locator("span").allTextContents();
    assert.match(labels[2], /nats$/);
    const [low, middle, high] = labels.map((text) => Number(/[\d.]+/.exec(text)[0]));
    assert.ok(Math.abs(Math.log1p(middle) - (Math.log1p(low) + Math.log1p(high)) / 2) < 0.05, labels.join(" "));
    await page.locator(".card canvas").first().hover();
    const [, nats, own] = /^patch \d+, \d+: ([\d.]+) nats \(([\d.]+) log\(1 \+ nats\)\^4/.exec(await readout(page));
    assert.ok(Math.abs(Math.log1p(Number(nats)) ** 4 - Number(own)) < 0.05 * Number(own) + 0.5, `${nats}, ${own}`);
    assert.deepEqual(page.wrong, []);
  },

  "the comparison sorts": async (browser) => {
    const page = await open(browser, evaluation);
    const table = page.locator(".numbers").first();
    const column = async (index) => table.locator("tbody tr").evaluateAll((lines, k) => lines.map((line) => Number(line.children[k].firstChild.textContent)), index);
    await table.locator("thead button").nth(2).click();
    const falling = await column(2);
    assert.deepEqual(falling, falling.toSorted((a, b) => b - a));
    assert.equal(await table.locator("thead th").nth(2).getAttribute("aria-sort"), "descending");
    await table.locator("thead button").nth(2).click();
    assert.deepEqual(await column(2), falling.toReversed());
    assert.ok((await page.locator("svg[aria-label*='95 % intervals']").count()) >= 1);
    assert.deepEqual(page.wrong, []);
  },

  "curves are drawn": async (browser) => {
    const page = await open(browser, evaluation);
    for (const title of ["Patches appear on a blur", "Patches are blanked", "Words are said", "Words are removed"]) {
      const chart = page.locator(`svg[aria-label='${title}']`);
      assert.equal(await chart.locator("polyline").count(), 3, title);
      assert.equal(await chart.locator("circle").count(), 33, title);
    }
    assert.deepEqual(page.wrong, []);
  },

  "methods stand side by side": async (browser) => {
    const page = await open(browser, evaluation);
    const first = page.locator(".card").first();
    assert.deepEqual(await first.locator(".panel .name b").allTextContents(), ["saliency", "random", "centre"]);
    for (const text of await first.locator(".panel .badge").allTextContents()) assert.match(text, /^(hit|miss)$/);
    assert.equal(await first.locator(".panel .badge").count(), 3);
    await first.scrollIntoViewIfNeeded();
    await page.waitForTimeout(200);
    const pixels = await first.locator("canvas").evaluateAll((all) => all.map((canvas) => canvas.toDataURL()));
    assert.equal(new Set(pixels).size, 3);
    const words = () => first.locator(".token").evaluateAll((all) => all.map((token) => token.title).join());
    await first.locator("canvas").nth(1).hover();
    assert.match(await first.locator(".readout").textContent(), /^random: patch \d+, \d+: /);
    const random = await words();
    await first.locator("canvas").nth(0).hover();
    assert.notEqual(await words(), random);
    await first.locator("h3 a").click();
    assert.equal(await page.locator("dialog[open] canvas").count(), 3);
    await page.locator("dialog[open] canvas").nth(2).focus();
    assert.match(await page.locator("dialog[open] .readout").textContent(), /^centre: patch 1, 1: /);
    assert.deepEqual(page.wrong, []);
  },

  "other runs stand side by side": async (browser) => {
    const page = await open(browser, beside);
    const first = page.locator(".card").first();
    assert.deepEqual(await first.locator(".panel .name b").allTextContents(), ["saliency", "m2ib"]);
    await page.waitForTimeout(200);
    await first.locator("canvas").nth(1).hover();
    assert.match(await first.locator(".readout").textContent(), /^m2ib: patch \d+, \d+: [\d.]+ nats/);
    await first.locator("canvas").nth(0).hover();
    assert.match(await first.locator(".readout").textContent(), /^saliency: patch \d+, \d+: [-\d.e]+ ± /);
    await select(page, "Outcome", "failed");
    assert.equal(await page.locator(".panel").count(), 0);
    assert.deepEqual(page.wrong, []);
  },

  "a training has its curves": async (browser) => {
    const page = await open(browser, training);
    assert.ok((await page.locator("svg[aria-label='Training loss'] circle").count()) >= 2);
    assert.ok((await page.locator("svg[aria-label='Recall of the validation'] polyline").count()) >= 2);
    assert.match(await page.locator(".tile").first().textContent(), /^\d+steps$/);
    await page.getByRole("button", { name: "Theme: auto" }).click();
    assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(251, 251, 252)");
    assert.deepEqual(page.wrong, []);
  },

  accessible: async (browser) => {
    const found = [];
    for (const url of [pairs, grounding, evaluation, beside, training]) {
      for (const theme of ["light", "dark"]) {
        const page = await open(browser, url, { theme });
        found.push(...(await violations(page)).map((line) => `${url} ${theme}: ${line}`));
        if (url === training) continue;
        await page.locator(".card h3 a").first().click();
        found.push(...(await violations(page)).map((line) => `${url} ${theme}, a pair: ${line}`));
        await page.context().close();
      }
    }
    assert.deepEqual(found, []);
  },
});
