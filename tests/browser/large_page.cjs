// Opens a page, or a page in a frame, and tells how long it took until the pairs were shown.
const { open, run } = require("./driver.cjs");

const [path, framed] = process.argv.slice(2);

run({
  open: async (browser) => {
    await (await open(browser, "about:blank", { wait: false })).context().close(); // the browser itself is warm
    const begin = process.hrtime.bigint();
    const page = await open(browser, `file://${path}`, { wait: !framed });
    const target = framed ? page.frames()[1] : page;
    if (framed) await target.waitForSelector("body[data-ready]");
    const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
    const count = await target.locator(".count").textContent();
    let found = null;
    if (!framed) {
      await page.getByLabel("Search").fill("id-9876");
      found = await page.locator(".count").textContent();
    }
    return { seconds, count, found, wrong: page.wrong };
  },
});
