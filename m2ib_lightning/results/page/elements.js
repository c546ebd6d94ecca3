// Elements of the page. All text of the data goes through textContent or an attribute's value, never through markup.

/** Makes an element: attributes by name, listeners as functions named "onclick", children as nodes or texts. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  fill(made, attributes);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Makes an SVG element. */
function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  fill(made, attributes);
  made.append(...children.flat(Infinity));
  return made;
}

function fill(made, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
}

/** A select with its label. */
function choice(label, options, value, onChange) {
  const select = element("select", { "aria-label": label, onchange: () => onChange(select.value) });
  for (const [name, text] of options) select.append(element("option", { value: name, selected: name === value }, text));
  return element("label", {}, element("span", {}, label), select);
}

/** A table of names and values. */
function factTable(facts) {
  const lines = facts.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)));
  return element("table", { class: "facts" }, element("tbody", {}, lines));
}
