// Checks of m2ib-app in a browser. Arguments: its address, a picture that is too large, a folder for screenshots or nothing.
const assert = require("node:assert/strict");
const { open, run } = require("./driver.cjs");

const [url, large, shots] = process.argv.slice(2);
const times = [];
const answer = (page) => page.locator("#answer");

/** A check on a fresh page, which must end without anything wrong. */
function onPage(check, { expected = [], ...options } = {}) {
  return async (browser) => {
    const page = await open(browser, url, { wait: false, origin: url, ...options });
    page.setDefaultTimeout(120000);
    await page.getByRole("button", { name: "Explain" }).waitFor();
    await check(page);
    assert.deepEqual(page.wrong.filter((line) => !expected.some((pattern) => pattern.test(line))), []);
    await page.context().close();
  };
}

/** Chooses a scene, and waits until the form has it. */
async function choose(page, index) {
  await page.locator("tr.tr-body").nth(index).click();
  await page.locator("#picture img").waitFor();
  await page.waitForFunction(() => document.querySelector("textarea").value !== "");
}

/** Presses the button, and returns the milliseconds until there is an answer. */
async function explain(page, selector = ".m2ib-answer") {
  await page.evaluate(() => document.querySelector("#answer").querySelectorAll(".m2ib-answer, .m2ib-message").forEach((node) => node.remove()));
  const start = Date.now();
  await page.getByRole("button", { name: "Explain" }).click();
  await answer(page).locator(selector).waitFor();
  return Date.now() - start;
}

const caption = (page) => page.getByLabel("Caption", { exact: true });
const shot = (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });

run({
  "a scene is explained": onPage(async (page) => {
    for (const index of [0, 2, 4]) {
      await choose(page, index);
      times.push(await explain(page));
    }
    assert.equal(await answer(page).locator("section").count(), 1);
    await shot(page, "desktop");
  }),

  "a unit shows its map": onPage(async (page) => {
    await choose(page, 0);
    await explain(page);
    const opacity = () => answer(page).locator(".m0").evaluate((image) => getComputedStyle(image).opacity);
    assert.equal(await opacity(), "0");
    await answer(page).locator("b.u0").hover();
    assert.equal(await opacity(), "1");
    await page.mouse.move(0, 0);
    await answer(page).locator("b.u0").focus();
    assert.equal(await opacity(), "1");
  }),

  "two captions are compared": onPage(async (page) => {
    await choose(page, 1);
    await explain(page);
    assert.match(await answer(page).textContent(), /matches the picture better: similarity/);
    assert.equal(await answer(page).locator("section").count(), 3);
    await shot(page, "two-captions");
  }, { theme: "dark" }),

  "picture and row are downloaded": onPage(async (page) => {
    await choose(page, 0);
    await explain(page);
    for (const [link, name] of [["picture", "m2ib-1.png"], ["row", "m2ib-1.json"]]) {
      const [download] = await Promise.all([page.waitForEvent("download"), answer(page).getByRole("link", { name: link }).click()]);
      assert.equal(download.suggestedFilename(), name);
    }
  }),

  "a script as a caption is text": onPage(async (page) => {
    await choose(page, 0);
    await caption(page).fill("<script>alert(1)</script> <img src=x onerror=alert(2)> a red circle");
    await explain(page);
    assert.match(await answer(page).textContent(), /<script>alert\(1\)<\/script>/);
    assert.equal(await answer(page).locator("script, img[src=x]").count(), 0);
  }),

  "a caption of 5,000 characters gets a message": onPage(async (page) => {
    await choose(page, 0);
    await caption(page).fill("a".repeat(5000));
    await explain(page, ".m2ib-message");
    assert.match(await answer(page).textContent(), /the caption has 5,000 characters, and the limit is 1,000/);
  }),

  "a picture of 40 MB gets a message": onPage(
    async (page) => {
      await page.locator("#picture input[type=file]").setInputFiles(large);
      await page.getByText(/exceed the maximum allowed size of 20/).waitFor();
      await shot(page, "large");
      await caption(page).fill("a red circle");
      await explain(page, ".m2ib-message");
      assert.match(await answer(page).textContent(), /there is no picture/);
      await page.waitForTimeout(1000);
    },
    // Gradio itself asks for the progress of an upload that it refused, and logs that there is none.
    { expected: [/^console: (Method not implemented\.|Response)$/, /^console: Failed to load resource: .* 404/] },
  ),

  phone: onPage(
    async (page) => {
      await choose(page, 0);
      await explain(page);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(overflow <= 0, `${overflow} px to scroll sideways`);
      await shot(page, "phone");
    },
    { width: 390, height: 844 },
  ),

  times: async () => times,
});
