// What every part of the page's script shares. All of it is one function's, so nothing of it is global; handlers
// hang on the document, so that a section that is exchanged works at once. Who exchanges one says so by an event
// "refine:exchanged" on it.

const setUps = []; // each gets a root: the document, or a section that came
const by = (id) => document.getElementById(id);

document.addEventListener("refine:exchanged", (event) => setUps.forEach((setUp) => setUp(event.target)));
queueMicrotask(() => setUps.forEach((setUp) => setUp(document)));

// Handlers for what matches a selector.
function on(type, selector, handle) {
  document.addEventListener(type, (event) => {
    const found = event.target instanceof Element ? event.target.closest(selector) : null;
    if (found) handle(event, found);
  });
}

// The only way that text gets into the page: as text.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value, sign) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 100 ? (size < 1e6 ? size.toFixed(0) : size.toPrecision(3))
    : size >= 0.01 || size === 0 ? size.toFixed(2)
    : size >= 0.001 ? size.toFixed(3) : size.toPrecision(2);
  return (value < 0 ? "−" : sign && value > 0 ? "+" : "") + text;
}

const counted = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(2)}%`;

// What an element of JSON holds; read once.
const read = new WeakMap();
function jsonOf(source) {
  if (!read.has(source)) read.set(source, JSON.parse(source.textContent));
  return read.get(source);
}

setUps.push((root) => {
  for (const hint of root.querySelectorAll(".needs-script")) hint.hidden = false;
});

// A few of many, and buttons to the rest. Gives the part that is shown.
function paged(things, page, size, names) {
  const pages = Math.max(1, Math.ceil(things.length / size));
  const at = Math.min(Math.max(page, 0), pages - 1);
  by(names + "-pager").hidden = pages === 1;
  by(names + "-page").textContent = `page ${at + 1} of ${pages}`;
  by(names + "-before").ariaDisabled = at === 0;
  by(names + "-after").ariaDisabled = at === pages - 1;
  return [at, things.slice(at * size, (at + 1) * size)];
}

// ---- what is wider or longer than its place says so, in words, and can be scrolled from the keyboard

const hints = new Map();

function tell(box) {
  const sideways = box.classList.contains("scroll");
  const over = sideways ? box.scrollWidth > box.clientWidth + 1 : box.scrollHeight > box.clientHeight + 1;
  if (over === hints.has(box)) return;
  if (!over) {
    hints.get(box).remove();
    hints.delete(box);
    box.removeAttribute("tabindex");
    if (!sideways) {
      box.removeAttribute("role");
      box.ariaLabel = null;
    }
    return;
  }
  const hint = element("p", "hint", sideways
    ? "Wider than the page: the table scrolls sideways. →" : "The text goes on: it scrolls. ↓");
  hints.set(box, hint);
  box.tabIndex = 0;
  if (sideways) box.before(hint);
  else {
    box.setAttribute("role", "region");
    box.ariaLabel = "Text that scrolls";
    box.after(hint);
  }
}

const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => tell(target.closest(".scroll") || target)));
function overflowing(root) {
  for (const box of hints.keys()) if (!box.isConnected) hints.delete(box);
  for (const box of root.querySelectorAll(".scroll, .scroll > table, .text")) {
    if (box.classList.contains("scroll")) box.removeAttribute("tabindex"); // there for who has no JavaScript
    sizes.observe(box);
  }
}
setUps.push(overflowing);
