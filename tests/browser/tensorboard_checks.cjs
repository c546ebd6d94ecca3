// Checks of TensorBoard in a browser, on runs of three tasks. Arguments: its address, and a folder for pictures.
const assert = require("node:assert/strict");
const { open, run } = require("./driver.cjs");

const [address, pictures] = process.argv.slice(2);
const SLOW = 120000; // TensorBoard loads each of its pages late

/** A check on one page of TensorBoard; no request may leave this machine. */
function onTab(tab, check) {
  return async (browser) => {
    const page = await open(browser, "about:blank", { wait: false, height: 1000 });
    page.setDefaultTimeout(SLOW);
    await page.goto(`${address}#${tab}`);
    await check(page);
    await page.screenshot({ path: `${pictures}/${tab}.png` });
    const left = page.wrong.filter((line) => line.startsWith("request: ") && !line.slice(9).startsWith(address) && !line.startsWith("request: blob:"));
    assert.deepEqual(left, []);
    await page.context().close();
  };
}

const shown = (page, text) => page.getByText(text, { exact: true }).first().waitFor();
const data = (page, path) => page.evaluate(async (url) => (await fetch(url)).json(), `${address}data/plugin/${path}`);

run({
  scalars: onTab("timeseries", async (page) => {
    for (const name of ["attribute/tensorboard", "evaluate/tensorboard", "finetune/tensorboard"]) await shown(page, name);
    await page.getByRole("combobox", { name: "Filter tags (regex)" }).fill("pairs/similarity|train/loss|evaluation/image_mass/saliency");
    for (const name of ["pairs/similarity", "train/loss", "evaluation/image_mass/saliency"]) {
      await page.locator(`[title="${name}"]`).first().waitFor();
    }
    const tags = await data(page, "scalars/tags");
    const { description } = tags["attribute/tensorboard"]["pairs/image_information"];
    assert.match(description, /nats per token and channel/);
    assert.match(description, /number of pairs done/);
    assert.match(tags["finetune/tensorboard"]["train/image_information"].description, /nats per token and channel/);
    assert.ok("val/image_to_text@1" in tags["finetune/tensorboard"]);
    assert.ok("evaluation/image_mass/random" in tags["evaluate/tensorboard"]);
  }),

  "custom scalars": onTab("custom_scalars", async (page) => {
    await shown(page, "Mean over all pairs, by inner step");
    await shown(page, "Mean of each batch, by pairs done");
    await shown(page, "Matches (2)");
  }),

  hparams: onTab("hparams", async (page) => {
    await shown(page, "bottleneck.image.beta");
    for (const name of ["attribute/tensorboard", "evaluate/tensorboard", "finetune/tensorboard"]) await shown(page, name);
  }),

  text: onTab("text", async (page) => {
    await page.getByRole("cell", { name: "saliency" }).first().waitFor();
  }),

  images: onTab("images", async (page) => {
    await page.locator("img[src*='plugin/images']").first().waitFor();
  }),

  histograms: onTab("histograms", async (page) => {
    await shown(page, "lambda");
  }),
});
