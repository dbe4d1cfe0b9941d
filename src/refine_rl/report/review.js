// Votes by keyboard (or by a press on a button). Every text of a model is put in as text.

const by = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", u: "undo", U: "undo", "?": "help", " ": "begin", Enter: "begin" };
let state = null;
let begun = false;
let busy = false;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const counted = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;
const number = (value) => (value === null ? "no reward" : value.toFixed(3));

async function ask(path, body) {
  const how = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const reply = await fetch(path, { cache: "no-store", ...how });
  const value = await reply.json();
  if (!reply.ok) throw new Error(value.error || `the server answered ${reply.status}`);
  return value;
}

// One question at a time; a key that is pressed meanwhile does nothing.
async function exchange(path, body) {
  if (busy) return;
  busy = true;
  try {
    state = await ask(path, body);
    by("trouble").hidden = true;
    show();
  } catch (error) {
    const gone = error instanceof TypeError;
    by("trouble").textContent = gone
      ? "The server is gone: start refine review again. Every vote that was counted is stored."
      : `That vote was not stored: ${error.message}`;
    by("trouble").hidden = false;
  } finally {
    busy = false;
  }
}

function parts(messages, alone) {
  return messages.map((message) => {
    const part = element("div", "rv-part");
    if (!alone) part.append(element("span", "rv-role", message.role === "assistant" ? "the model" : message.role));
    const text = message.content.trim();
    part.append(text ? element("span", "", text) : element("span", "rv-nothing", "(nothing)"));
    return part;
  });
}

function put(id, messages, alone) {
  by(id).replaceChildren(...parts(messages, alone));
  by(id).scrollTop = 0;
}

function show() {
  const { item, result } = state;
  by("who").textContent = `as ${state.reviewer}`;
  by("progress").hidden = !begun && !result;
  by("bar").max = Math.max(1, state.of);
  by("bar").value = state.done;
  by("count").textContent = result ? `all ${state.of}` : `${state.done + 1} of ${state.of}`;
  by("welcome").hidden = begun || Boolean(result);
  by("pair").hidden = !begun || Boolean(result);
  by("result").hidden = !result;
  if (result) reveal(result);
  else if (begun) showPair(item);
  else showWelcome();
}

function showWelcome() {
  by("task").textContent = state.task;
  by("number").textContent = counted(state.of, "pair");
  by("begin-label").textContent = state.done ? `Go on with pair ${state.done + 1}` : "Begin";
}

function showPair(item) {
  by("pair-title").textContent = `Pair ${item.number} of ${state.of}: which answer is better?`;
  put("prompt", item.prompt, item.prompt.length === 1);
  put("left", item.left, item.left.length === 1);
  put("right", item.right, item.right.length === 1);
  by("undo").disabled = !state.undo;
  by("pair-title").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function reveal(result) {
  const lines = (texts) => texts.map((text) => element("p", "", text));
  by("lines").replaceChildren(...lines(result.lines));
  by("others-title").hidden = result.others.length === 0;
  by("others").replaceChildren(...lines(result.others));
  by("commands").replaceChildren(...result.commands.map((text) => element("p", "command", text)));
  by("revealed").replaceChildren(...result.pairs.map(revealed));
  by("result-title").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function revealed(pair) {
  const entry = element("li");
  entry.append(element("p", "asked-for", pair.prompt));
  const sides = element("div", "rv-columns");
  const right = pair.left === "base" ? "tuned" : "base";
  for (const name of [pair.left, right]) {
    const side = element("div", pair.chosen === name ? "rv-column rv-taken" : "rv-column");
    const title = element("h2");
    title.append(element("strong", `name-${name}`, name), `, reward ${number(pair[name].reward)}`);
    const box = element("div", "rv-box");
    box.append(...parts(pair[name].said, pair[name].said.length === 1));
    side.append(title, box);
    sides.append(side);
  }
  const yours = pair.chosen === "tie" ? "You saw no difference" : `You took ${pair.chosen}`;
  const theirs = pair.judged === null ? "one has no reward"
    : pair.judged === "tie" ? "the rewards are equal" : `${pair.judged} has the higher reward`;
  entry.append(sides, element("span", "verdict-line", `${yours}; ${theirs}.`));
  return entry;
}

function help() {
  const box = by("help");
  if (box.open) box.close();
  else box.showModal();
}

function act(what) {
  if (what === "help") return help();
  if (by("help").open || state === null) return undefined;
  if (what === "undo") return state.undo ? exchange("undo", {}) : undefined;
  if (what === "begin") {
    if (!begun && state.item) {
      begun = true;
      show();
    }
    return undefined;
  }
  return begun && state.item ? exchange("vote", { vote: what, mark: state.item.mark }) : undefined;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !(event.key in KEYS)) return;
  const what = KEYS[event.key];
  const pressed = event.target instanceof Element ? event.target.closest("button") : null;
  if (what === "begin" && pressed) return; // the button's own press
  if (by("help").open && what !== "help") return;
  event.preventDefault();
  act(what);
});
document.addEventListener("click", (event) => {
  const pressed = event.target instanceof Element ? event.target.closest("[data-do]") : null;
  if (pressed) act(pressed.dataset.do);
});

exchange("state");
