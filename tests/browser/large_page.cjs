// Opens a page, or a page in a frame, three times, and tells how long it took
// from the start of its loading to the first frame with pairs.
const { open, run } = require("./driver.cjs");

const [path, framed] = process.argv.slice(2);

async function openOnce(browser) {
  const page = await open(browser, `file://${path}`, { wait: !framed });
  const target = framed ? page.frames()[1] : page;
  if (framed) await target.waitForSelector("body[data-ready]");
  await target.waitForFunction(() => performance.getEntriesByName("m2ib-shown").length);
  const seconds = await target.evaluate(() => performance.getEntriesByName("m2ib-shown")[0].startTime / 1000);
  const count = await target.locator(".count").textContent();
  let found = null;
  if (!framed) {
    await page.getByLabel("Search").fill("id-9876");
    found = await page.locator(".count").textContent();
  }
  await page.context().close();
  return { seconds, count, found, wrong: page.wrong };
}

run({
  open: async (browser) => {
    const times = [];
    let last = null;
    for (let time = 0; time < 3; time += 1) {
      last = await openOnce(browser);
      times.push(last.seconds);
    }
    return { ...last, times };
  },
});
