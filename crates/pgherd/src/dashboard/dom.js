// The few words in which the page speaks to the document. Everything is updated in place, and only where it has changed:
// nothing flickers, and focus stays where it is.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) attr(node, name, value);
  node.append(...children);
  return node;
}

export function makeSvg(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export function text(node, value) {
  const wanted = String(value ?? "");
  if (node.textContent !== wanted) node.textContent = wanted;
}

/// `null` and `false` take the attribute away.
export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const wanted = value === true ? "" : String(value);
  if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
}

export function show(node, visible) {
  if (node.hidden === Boolean(visible)) node.hidden = !visible;
}

/// One child of `parent` for each item, known by its key: made once, updated ever after, moved only when it must be.
export function keyed(parent, items, keyOf, create, update) {
  const known = (parent.keyedChildren ??= new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (!node) known.set(key, (node = create(item)));
    update(node, item);
    const place = before ? before.nextSibling : [...parent.childNodes].find((child) => isKeyed(known, child)) ?? null;
    if (place !== node) parent.insertBefore(node, place);
    before = node;
  }
}

const isKeyed = (known, child) => [...known.values()].includes(child);

/// A list of plain lines.
export function lines(parent, values) {
  keyed(parent, values.map((value, index) => ({ value, index })), (line) => line.index, () => make("li"), (node, line) => text(node, line.value));
}
