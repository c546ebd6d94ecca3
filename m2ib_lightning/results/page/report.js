// The page: its data, its state, and what its controls do.

const GALLERY = { size: 24 };

function start() {
  const head = JSON.parse(document.getElementById("head").textContent);
  const rows = [...document.querySelectorAll("script.rows")].flatMap((block) => JSON.parse(block.textContent));
  rows.sort((a, b) => a.n - b.n);
  setTheme(storedTheme());
  if (head.training) {
    document.body.append(element("div", { class: "page" }, pageHeader(head, []), element("main", {}, trainingParts(head))));
    document.body.dataset.ready = "true";
    return;
  }
  const page = new Page(head, rows);
  document.body.append(page.build());
  page.update();
  page.openFromLink();
  document.body.dataset.ready = "true";
  requestAnimationFrame(() => setTimeout(() => performance.mark("m2ib-shown"))); // after the first frame
}

function pageHeader(head, buttons) {
  return element("header", {}, element("h1", {}, "M2IB ", element("span", {}, head.name)), element("nav", { "aria-label": "page" }, buttons, themeButton()));
}

/** The page of a run. */
class Page {
  constructor(head, rows) {
    this.head = head;
    this.rows = rows;
    this.scores = scoresOf(head);
    this.state = { text: "", outcome: "all", sort: "n", descending: false, score: this.scores[1]?.name ?? "n", low: null, high: null, page: 0, size: GALLERY.size };
    this.cards = [];
    this.byName = new Map();
    for (const row of rows.toReversed()) this.byName.set(row.key, row);
    this.ids = new Map();
    for (const row of rows) this.ids.set(row.id, this.ids.has(row.id) ? null : row);
  }

  build() {
    const { head } = this;
    const actions = {
      rows: this.rows,
      showOutcome: (outcome) => this.change({ outcome }, true),
      showRange: (score, from, to) => {
        const [low, high] = roundedOutwards(from, to);
        this.change({ score, low, high }, true);
      },
    };
    this.dialog = element("dialog", { "aria-label": "pair", onclose: () => this.closed() });
    this.help = helpDialog();
    window.addEventListener("hashchange", () => this.openFromLink());
    window.addEventListener("beforeprint", () => this.cards.forEach(({ start }) => start()));
    document.addEventListener("keydown", (event) => this.key(event));
    return element(
      "div",
      { class: "page" },
      pageHeader(head, [this.otherPages(), element("button", { type: "button", onclick: () => this.help.showModal() }, "Keys")]),
      element("main", {}, overview(head, actions), head.comparison ? comparison(head) : null, this.gallery()),
      this.dialog,
      this.help,
    );
  }

  otherPages() {
    if (this.head.pages.length < 2) return null;
    return this.head.pages.map(([file, count], index) =>
      index === this.head.page ? element("b", {}, `page ${index + 1}`) : element("a", { href: file, title: `${count} pairs` }, `page ${index + 1}`),
    );
  }

  gallery() {
    const { state, head } = this;
    const options = this.scores.map(({ name, label }) => [name, label]);
    const numbers = options.filter(([name]) => name !== "n");
    const hasTruth = this.rows.some((row) => row.truth);
    const hasHits = this.rows.some((row) => typeof row.hit === "boolean");
    const outcomes = [["all", "all"], ["done", "explained"], ["failed", "failed"], ...(hasHits ? [["hit", "hit"], ["miss", "miss"]] : [])];
    this.controls = {
      search: element("input", { type: "search", placeholder: "caption, id, error …", oninput: () => this.change({ text: this.controls.search.value }) }),
      outcome: choice("Outcome", outcomes, state.outcome, (outcome) => this.change({ outcome })),
      sort: choice("Sort by", options, state.sort, (sort) => this.change({ sort })),
      direction: element("button", { type: "button", onclick: () => this.change({ descending: !this.state.descending }) }, "↑"),
      score: choice("Only where", numbers, state.score, (score) => this.change({ score })),
      low: this.numberInput("low", "lowest"),
      high: this.numberInput("high", "highest"),
    };
    const find = [
      element("label", { class: "search" }, element("span", {}, "Search"), this.controls.search),
      this.controls.outcome,
      this.controls.sort,
      this.controls.direction,
      numbers.length ? [this.controls.score, element("label", {}, element("span", {}, "From"), this.controls.low), element("label", {}, element("span", {}, "To"), this.controls.high)] : null,
      element("button", { type: "button", onclick: () => this.reset() }, "Reset"),
    ];
    this.count = element("p", { class: "count", "aria-live": "polite" });
    this.grid = element("div", { class: "grid" });
    this.pagers = [this.pager(), this.pager()];
    const hasMaps = this.rows.some((row) => row.map || row.panels);
    return element(
      "section",
      { "aria-labelledby": "gallery" },
      element("h2", { id: "gallery" }, "Pairs"),
      element("div", { class: "controls" }, element("div", { role: "group", "aria-label": "find" }, find), hasMaps ? this.look(hasTruth, head) : null),
      element("div", { class: "bar" }, this.count, this.pagers[0]),
      this.grid,
      element("div", { class: "bar" }, this.pagers[1]),
    );
  }

  /** The controls of how maps are painted. */
  look(hasTruth, head) {
    const set = (name, value) => {
      view[name] = value;
      this.show();
    };
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: view.opacity, oninput: () => this.repaint("opacity", Number(slider.value)) });
    const outline = element("input", { type: "checkbox", checked: view.outline, onchange: () => set("outline", outline.checked) });
    return element(
      "div",
      { role: "group", "aria-label": "look" },
      choice("Map", [["smooth", "smooth"], ["patches", "raw patches"], ["contour", "contour"]], view.style, (value) => set("style", value)),
      choice("Colours", [["run", "fixed over the run"], ["picture", "of each picture"]], view.range, (value) => set("range", value)),
      element("label", {}, element("span", {}, "Opacity"), slider),
      hasTruth ? element("label", { class: "check" }, outline, element("span", {}, "Outline of the truth")) : null,
      element("small", { class: "hint" }, `Values have 8 bits: ${head.steps} steps between the lowest and the highest of each map.`),
    );
  }

  repaint(name, value) {
    view[name] = value;
    this.paintWhenSeen();
    this.repaintDialog?.();
  }

  numberInput(name, label) {
    const input = element("input", { type: "number", "aria-label": label, step: "any", onchange: () => this.change({ [name]: input.value === "" ? null : Number(input.value) }) });
    return input;
  }

  pager() {
    const move = (step) => () => this.turn(step);
    const label = element("span");
    const previous = element("button", { type: "button", onclick: move(-1), "aria-label": "previous page" }, "←");
    const next = element("button", { type: "button", onclick: move(1), "aria-label": "next page" }, "→");
    const size = choice("On a page", [["12", "12"], ["24", "24"], ["48", "48"], ["96", "96"]], String(GALLERY.size), (value) => this.change({ size: Number(value) }));
    return Object.assign(element("div", { class: "pager" }, size, previous, label, next), { label, previous, next, size: size.querySelector("select") });
  }

  reset() {
    this.change({ text: "", outcome: "all", sort: "n", descending: false, low: null, high: null });
  }

  change(values, isJump = false) {
    Object.assign(this.state, { page: 0 }, values);
    this.update();
    if (isJump) this.grid.closest("section").scrollIntoView();
  }

  /** Filters and sorts anew, and shows the controls' state. */
  update() {
    const { state, controls } = this;
    const by = (name) => this.scores.find((score) => score.name === name) ?? this.scores[0];
    this.found = sortRows(filterRows(this.rows, { ...state, score: by(state.score) }), by(state.sort), state.descending);
    if (controls.search.value !== state.text) controls.search.value = state.text;
    for (const name of ["outcome", "sort", "score"]) controls[name].querySelector("select").value = state[name];
    for (const name of ["low", "high"]) controls[name].value = state[name] ?? "";
    controls.direction.textContent = state.descending ? "↓" : "↑";
    controls.direction.setAttribute("aria-label", state.descending ? "highest first" : "lowest first");
    controls.direction.title = controls.direction.getAttribute("aria-label");
    this.show();
  }

  /** Shows the page of the gallery that the state names. */
  show() {
    const { state, found } = this;
    const last = Math.max(0, Math.ceil(found.length / state.size) - 1);
    state.page = Math.min(last, Math.max(0, state.page));
    const first = state.page * state.size;
    const shown = found.slice(first, first + state.size);
    for (const row of this.kept ?? []) if (!shown.includes(row)) delete row.picture;
    this.kept = shown;
    this.cards = shown.map((row) => card(row, this.head, this.linkOf(row), undefined));
    this.grid.replaceChildren(...this.cards.map(({ made }) => made));
    this.paintWhenSeen();
    if (!shown.length) this.grid.append(element("p", { class: "empty" }, "No pair matches."));
    const all = this.rows.length;
    this.count.textContent = shown.length ? `${first + 1} to ${first + shown.length} of ${found.length}${found.length < all ? ` (of ${all})` : ""}` : `none of ${all}`;
    for (const pager of this.pagers) {
      pager.label.textContent = `${state.page + 1} / ${last + 1}`;
      pager.previous.disabled = state.page === 0;
      pager.next.disabled = state.page === last;
      pager.size.value = String(state.size);
    }
    this.selected = null;
  }

  /** Paints each card when it comes near the window. */
  paintWhenSeen() {
    this.observer?.disconnect();
    const starts = new Map(this.cards.map(({ made, start }) => [made, start]));
    this.observer = new IntersectionObserver(
      (entries, observer) => {
        for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
          observer.unobserve(target);
          starts.get(target)();
        }
      },
      { rootMargin: "600px" },
    );
    for (const { made } of this.cards) this.observer.observe(made);
  }

  turn(step) {
    const before = this.state.page;
    this.state.page += step;
    this.show();
    if (this.state.page !== before) this.grid.closest("section").scrollIntoView();
  }

  linkOf(row) {
    return `#${encodeURIComponent(this.ids.get(row.id) === row ? row.id : row.key)}`;
  }

  /** Opens the pair that the address names, by its id or its key. */
  openFromLink() {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch {
      // a part of an address that is no escape stands for itself
    }
    if (!name) {
      this.dialog.close();
      return;
    }
    const row = this.ids.get(name) ?? this.byName.get(name);
    this.open(row, name);
  }

  open(row, name) {
    this.current = row ?? null;
    const place = row ? this.found.indexOf(row) : -1;
    const at = (step) => (place < 0 ? undefined : this.found[place + step]);
    const button = (text, label, other) => element("button", { type: "button", "aria-label": label, disabled: !other, onclick: () => this.go(other) }, text);
    const close = element("button", { type: "button", "aria-label": "close", onclick: () => this.dialog.close() }, "✕");
    const bar = [button("←", "previous pair", at(-1)), button("→", "next pair", at(1)), close];
    const title = element("h2", {}, row ? row.id : "Not found", row ? badge(row) : null);
    const others = this.head.pages.length > 1 ? " It may be on another page." : "";
    const made = row ? details(row, this.head) : { nodes: [element("p", { class: "error" }, `No pair of this page has the id or the key “${name}”.${others}`)], start: () => {}, repaint: () => {} };
    this.dialog.replaceChildren(element("div", { class: "head" }, title, element("div", {}, bar)), ...made.nodes.flat(Infinity).filter(Boolean));
    this.dialog.setAttribute("aria-label", row ? `pair ${row.id}` : "not found");
    this.repaintDialog = made.repaint;
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    made.start();
  }

  go(row) {
    if (row) location.hash = this.linkOf(row);
  }

  closed() {
    this.repaintDialog = undefined;
    if (location.hash) history.replaceState(null, "", location.pathname + location.search);
    const index = this.current ? this.kept.indexOf(this.current) : -1;
    if (index >= 0) this.select(index);
  }

  /** Moves the focus to a card. */
  select(index) {
    if (!this.cards.length) return;
    this.selected = Math.min(this.cards.length - 1, Math.max(0, index));
    const { made } = this.cards[this.selected];
    made.focus({ preventScroll: true });
    made.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
    if (event.target.matches(".scroll, pre") && event.key.startsWith("Arrow")) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const place = this.current ? this.found.indexOf(this.current) : -1;
    const keys = this.dialog.open
      ? { ArrowLeft: () => this.go(this.found[place - 1]), ArrowRight: () => this.go(this.found[place + 1]) }
      : {
          "/": () => this.controls.search.focus(),
          "?": () => this.help.showModal(),
          j: () => this.select(this.selected === null ? 0 : this.selected + 1),
          k: () => this.select(this.selected === null ? 0 : this.selected - 1),
          n: () => this.turn(1),
          p: () => this.turn(-1),
          ArrowRight: () => this.turn(1),
          ArrowLeft: () => this.turn(-1),
          ...(event.target.classList.contains("card") ? { Enter: () => this.go(this.kept[this.selected]) } : {}),
        };
    if (!Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
  }
}

function helpDialog() {
  const keys = [
    ["/", "search"],
    ["j, k", "next and previous card"],
    ["Enter", "open the card"],
    ["n, →", "next page"],
    ["p, ←", "previous page"],
    ["←, →", "previous and next pair, while one is open"],
    ["arrows on the map", "the value of each patch, while a pair is open"],
    ["Esc", "close"],
  ];
  const close = element("button", { type: "button", onclick: () => made.close() }, "Close");
  const made = element("dialog", { "aria-label": "keys" }, element("h2", {}, "Keys"), factTable(keys.map(([key, text]) => [key, text])), close);
  return made;
}

const THEMES = ["auto", "light", "dark"];

function storedTheme() {
  try {
    return THEMES.includes(localStorage.getItem("m2ib-theme")) ? localStorage.getItem("m2ib-theme") : "auto";
  } catch {
    return "auto"; // a page that is not allowed to store anything
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("m2ib-theme", theme);
  } catch {
    // the choice lasts as long as the page
  }
}

function themeButton() {
  const text = () => `Theme: ${document.documentElement.dataset.theme}`;
  const button = element("button", { type: "button", onclick: () => {
    const next = (THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length;
    setTheme(THEMES[next]);
    button.textContent = text();
  } }, text());
  return button;
}
