// Answers to the held-out prompts: filtered, ordered, a page at a time.

const EACH = 10;
const first = new WeakMap(), words = new WeakMap(); // the place of an answer as it came; its text in small letters
let answerPage = 0;

function wordsOf(item) {
  if (!words.has(item)) words.set(item, item.textContent.toLowerCase());
  return words.get(item);
}

function showAnswers(page) {
  const list = by("answer-list");
  const sense = by("answer-sense").value, order = by("answer-order").value;
  const facet = by("answer-facet")?.value || "", text = by("answer-text").value.trim().toLowerCase();
  const all = [...list.children].sort((a, b) => first.get(a) - first.get(b));
  const some = all.filter((item) => (!sense || item.dataset.sense === sense)
    && (!facet || item.dataset.facets.split("\n").includes(facet)) && (!text || wordsOf(item).includes(text)));
  if (order) {
    const gain = (item) => item.dataset.gain === undefined ? -Infinity
      : order === "gain" ? Number(item.dataset.gain) : -Number(item.dataset.gain);
    some.sort((a, b) => gain(b) - gain(a));
  }
  const [at, shown] = paged(some, page, EACH, "answer");
  answerPage = at;
  for (const item of all) item.hidden = true;
  for (const item of shown) item.hidden = false;
  const wanted = [...some, ...all.filter((item) => !some.includes(item))];
  if (wanted.some((item, n) => list.children[n] !== item)) list.append(...wanted);
  by("answer-found").textContent = some.length === all.length ? `${counted(all.length, "prompt")}.`
    : `${some.length} of ${counted(all.length, "prompt")}.`;
}

function showAnswer(id) {
  const item = by(id), list = by("answer-list");
  if (!item || !list?.contains(item)) return;
  for (const name of ["sense", "facet", "order", "text"]) if (by("answer-" + name)) by("answer-" + name).value = "";
  const place = [...list.children].sort((a, b) => first.get(a) - first.get(b)).indexOf(item);
  showAnswers(Math.floor(place / EACH));
  item.scrollIntoView({ behavior: "instant" });
}

const FIELDS = "#answer-sense, #answer-facet, #answer-order, #answer-text";
on("input", FIELDS, () => showAnswers(0));
on("click", "#answer-before, #answer-after", (event, button) => {
  if (button.ariaDisabled === "true") return;
  showAnswers(answerPage + (button.id === "answer-after" ? 1 : -1));
  by("answers").scrollIntoView();
});
addEventListener("hashchange", () => showAnswer(decodeURIComponent(location.hash.slice(1))));

setUps.push((root) => {
  if (!root.querySelector("#answer-filters")) return;
  [...by("answer-list").children].forEach((item, n) => first.set(item, n));
  by("answer-filters").hidden = false;
  showAnswers(root === document ? 0 : answerPage);
  if (root === document) showAnswer(decodeURIComponent(location.hash.slice(1)));
});
