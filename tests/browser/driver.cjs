// Opens pages in the browser, and notes what must not happen there: requests that leave, errors, dialogs.
const fs = require("node:fs");
const { chromium } = require("playwright-core");

const AXE = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

async function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
}

/** Opens a page with nothing of earlier ones; its `wrong` lists what must not happen. Requests to `origin` may. */
async function open(browser, url, { width = 1400, height = 900, theme = "light", wait = true, origin = null } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, reducedMotion: "reduce" });
  const page = await context.newPage();
  page.setDefaultTimeout(10000);
  page.wrong = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.wrong.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => page.wrong.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    page.wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  const allowed = (url) => /^(file|data|about):/.test(url) || (origin !== null && url.replace(/^blob:/, "").startsWith(origin));
  page.on("request", (request) => allowed(request.url()) || page.wrong.push(`request: ${request.url()}`));
  await page.goto(url);
  if (wait) await page.waitForSelector("body[data-ready]", { timeout: 60000 });
  return page;
}

/** The violations that axe finds, one line each. */
async function violations(page) {
  await page.evaluate(AXE); // by the debugger, which the page's policy does not bind
  const { violations: found } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.map((rule) => `${rule.id}: ${rule.help} (${rule.nodes.slice(0, 3).map((node) => node.target.join(" ")).join("; ")})`);
}

/** Runs checks one after the other and prints what became of each: null, or its error. */
async function run(checks) {
  const browser = await launch();
  const outcome = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      outcome[name] = (await check(browser)) ?? null;
    } catch (error) {
      outcome[name] = String(error.stack ?? error);
    }
  }
  await browser.close();
  console.log(JSON.stringify(outcome));
}

module.exports = { open, run, violations };
