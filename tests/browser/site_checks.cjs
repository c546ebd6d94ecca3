// Opens the documentation site from the disk: its search, its width on a phone, its colours, its equations.
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { open, run } = require("./driver.cjs");

const site = process.argv[2];
const url = (name) => pathToFileURL(path.join(site, name)).href;
const names = fs.readdirSync(site, { recursive: true }).filter((name) => name.endsWith(".html") && name !== "404.html");

/** Types a text into the search, key by key, as the theme listens for keys; fails if the page with a title is not found. */
async function finds(page, text, title) {
  await page.locator(".md-search__input").fill("");
  await page.locator(".md-search__input").pressSequentially(text);
  const found = page.locator(".md-search-result__item h1").filter({ hasText: title });
  await found.first().waitFor({ state: "attached", timeout: 60000 });
}

run({
  "search": async (browser) => {
    const page = await open(browser, url("index.html"), { wait: false });
    await finds(page, "bottleneck.steps", "Keys of fit.py");
    await finds(page, "nats", "What nats mean");
    assert.deepEqual(page.wrong, []);
  },
  "search on a phone": async (browser) => {
    const page = await open(browser, url("faq.html"), { width: 390, height: 844, wait: false });
    await page.locator("label[for=__search]:visible").first().click();
    await finds(page, "nats", "What nats mean");
    assert.deepEqual(page.wrong, []);
  },
  "phone": async (browser) => {
    const page = await open(browser, url("index.html"), { width: 390, height: 844, wait: false });
    for (const name of names) {
      await page.goto(url(name), { timeout: 60000 });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert(over <= 1, `${name} is wider than the window by ${over}`);
    }
    assert.deepEqual(page.wrong, []);
  },
  "dark": async (browser) => {
    const page = await open(browser, url("index.html"), { theme: "dark", wait: false });
    assert.equal(await page.getAttribute("body", "data-md-color-scheme"), "slate");
    assert.deepEqual(page.wrong, []);
  },
  "equations": async (browser) => {
    const page = await open(browser, url("concepts/method.html"), { wait: false });
    assert((await page.locator(".equation math").count()) >= 4);
    assert.equal(await page.locator(".arithmatex").count(), 0);
    const box = await page.locator(".equation math").first().boundingBox();
    assert(box.height > 20, "a fraction has two lines");
  },
});
