"use strict";

// Keeps a report that is watched up to date: asks for the strip every second, and for the page where its report is
// another one; then exchanges the parts that changed, and nothing of what the person did is lost by that.
(() => {
  const EVERY = 1000, HIDDEN = 15000, PATIENCE = 15000; // ms
  const QUIET = 2500, CHOOSING = 20000; // ms without a key or a click, until a part may be exchanged
  const strip = () => document.getElementById("live");

  // ---- parts: what is exchanged as a whole, by its name, as its HTML was when it came

  function parts(root) {
    const found = new Map();
    for (const [name, selector] of [["top", "body > header.top"], ["nav", "body > nav"]]) {
      const part = root.querySelector(selector);
      if (part) found.set(name, part);
    }
    for (const section of root.querySelectorAll("main > section[id]")) found.set(section.id, section);
    return found;
  }

  const texts = (found) => new Map([...found].map(([name, part]) => [name, part.outerHTML]));
  const known = texts(parts(document));

  // ---- where a thing stands in its part, so that it is found again in the part that comes instead

  const kind = (element) => element.tagName + (element.classList.length ? "." + element.classList[0] : "");

  function path(element, root) {
    const steps = [];
    for (let at = element; at !== root; at = at.parentElement) {
      if (!at) return null;
      if (at.id) return [...steps, "#" + at.id].reverse();
      let place = 0;
      for (let before = at.previousElementSibling; before; before = before.previousElementSibling) {
        if (kind(before) === kind(at)) place += 1;
      }
      steps.push([kind(at), place]);
    }
    return steps.reverse();
  }

  function follow(steps, root) {
    let at = root;
    for (const step of steps || [null]) {
      if (step === null) return null;
      if (typeof step === "string") {
        const named = document.getElementById(step.slice(1));
        at = named && root.contains(named) ? named : null;
      } else {
        at = [...at.children].filter((child) => kind(child) === step[0])[step[1]];
      }
      if (!at) return null;
    }
    return at;
  }

  // ---- what the person did in a part

  const typed = (field) => field.type === "checkbox" || field.type === "radio" ? "checked" : "value";

  function remember(part) {
    const place = (element) => path(element, part);
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    let caret = null;
    try {
      if (focused && focused.selectionStart !== null) caret = [focused.selectionStart, focused.selectionEnd];
    } catch { /* a field without a caret */ }
    return {
      open: [...part.querySelectorAll("details")].map((d) => [place(d), d.open]),
      fields: [...part.querySelectorAll("input, select, textarea")].map((f) => [place(f), f[typed(f)]]),
      scrolled: [...part.querySelectorAll("*")]
        .filter((e) => e.scrollTop || e.scrollLeft).map((e) => [place(e), e.scrollTop, e.scrollLeft]),
      pressed: [...part.querySelectorAll("[aria-pressed]")].map((b) => [place(b), b.getAttribute("aria-pressed")]),
      focus: focused && place(focused), caret,
    };
  }

  // Before the page's script has set the part up: what it reads then.
  function fillIn(part, before) {
    for (const [where, value] of before.fields) {
      const field = follow(where, part);
      if (field && field.type !== "range") field[typed(field)] = value;
    }
  }

  // After it has: what it has built itself.
  function restore(part, before) {
    for (const [where, open] of before.open) {
      const details = follow(where, part);
      if (details && details.open !== open) details.open = open;
    }
    for (const [where, value] of before.fields) {
      const field = follow(where, part);
      if (field?.tagName !== "SELECT" || field.value === value || field.value !== "") continue;
      if (![...field.options].some((option) => option.value === value)) continue;
      field.value = value;
      for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, { bubbles: true }));
    }
    for (const [where, pressed] of before.pressed) {
      const button = follow(where, part);
      if (button && button.getAttribute("aria-pressed") !== pressed) button.click();
    }
    const focused = before.focus && follow(before.focus, part);
    if (focused) {
      focused.focus({ preventScroll: true });
      if (before.caret) try { focused.setSelectionRange(...before.caret); } catch { /* no caret */ }
    }
    for (const [where, top, left] of before.scrolled) {
      const box = follow(where, part);
      if (box) box.scrollTo({ top, left, behavior: "instant" });
    }
  }

  // ---- a part in use is left alone until the person is through

  let touched = null, touchedAt = 0, composing = false;
  for (const type of ["keydown", "pointerdown", "input"]) {
    document.addEventListener(type, (event) => {
      if (event.isTrusted) [touched, touchedAt] = [event.target, performance.now()];
    }, true);
  }
  document.addEventListener("compositionstart", () => { composing = true; }, true);
  document.addEventListener("compositionend", () => { composing = false; }, true);

  function inUse(part) {
    const selection = document.getSelection();
    if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) return true;
    if (!touched || !part.contains(touched)) return false;
    const choosing = document.activeElement?.tagName === "SELECT" && part.contains(document.activeElement);
    return composing || performance.now() - touchedAt < (choosing ? CHOOSING : QUIET);
  }

  // ---- exchanging

  function exchange(old, from) {
    const fresh = document.importNode(from, true);
    const before = remember(old);
    old.replaceWith(fresh);
    fillIn(fresh, before);
    fresh.dispatchEvent(new CustomEvent("refine:exchanged", { bubbles: true }));
    restore(fresh, before);
  }

  // What the person looks at stays where it is on the screen, whatever comes or goes above it.
  function holdingStill(change) {
    let line = 0; // below what sticks to the top
    for (const sticking of document.querySelectorAll("#live-bar, body > nav")) {
      const box = sticking.getBoundingClientRect();
      if (getComputedStyle(sticking).position === "sticky" && box.top <= line + 1) line = Math.max(line, box.bottom);
    }
    let part = null, steps = null, top = 0, id = "";
    if (window.scrollY > 0) {
      for (const [name, candidate] of [["live", document.getElementById("live-more")], ...parts(document)]) {
        if (name === "nav" || candidate.getBoundingClientRect().bottom <= line) continue;
        let at = document.elementFromPoint(document.documentElement.clientWidth / 2, line + 8);
        if (!at || !candidate.contains(at)) at = candidate;
        [part, id, steps, top] = [candidate, name, path(at, candidate), at.getBoundingClientRect().top];
        break;
      }
    }
    change();
    if (!part) return;
    const now = id === "live" ? document.getElementById("live-more") : parts(document).get(id);
    const at = now && (follow(steps, now) || now);
    const moved = at ? at.getBoundingClientRect().top - top : 0;
    if (Math.abs(moved) >= 1) window.scrollBy({ top: moved, behavior: "instant" });
  }

  // Whether everything could be exchanged: what is in use waits.
  function report(fresh) {
    const coming = parts(fresh), here = parts(document);
    let whole = true, before = null;
    for (const [name, old] of here) {
      if (coming.has(name)) continue;
      old.remove();
      known.delete(name);
    }
    for (const [name, part] of coming) {
      const old = here.get(name);
      const text = part.outerHTML;
      if (!old) {
        const made = document.importNode(part, true);
        if (before && before.parentElement?.tagName === "MAIN") before.after(made);
        else if (part.tagName === "SECTION") document.querySelector("main").prepend(made);
        else continue;
        made.dispatchEvent(new CustomEvent("refine:exchanged", { bubbles: true }));
        known.set(name, text);
      } else if (known.get(name) !== text) {
        if (inUse(old)) whole = false;
        else {
          exchange(old, part);
          known.set(name, text);
        }
      }
      before = parts(document).get(name);
    }
    return whole;
  }

  // The strip's pieces, one by one: who listens is told only of another state, and open groups stay open.
  function pieces(root) {
    const found = [...root.querySelectorAll("#live-bar > [id], #live-more > [id]")];
    return new Map(found.map((piece) => [piece.id, piece]));
  }
  const told = texts(pieces(document));

  // A group that a person has opened stays, and says so.
  function held(piece) {
    if (!piece.querySelector("details[open]")) return false;
    if (!piece.querySelector(".live-held")) {
      const said = document.createElement("p");
      said.className = "live-rest live-held";
      said.textContent = "Newer groups wait until the open one is closed.";
      piece.append(said);
    }
    return true;
  }

  function tell(fresh) {
    const here = strip(), old = pieces(here);
    for (const name of ["class", "data-report", "data-title"]) {
      here.setAttribute(name, fresh.getAttribute(name));
    }
    const coming = pieces(fresh);
    for (const [id, piece] of old) if (!coming.has(id)) piece.remove();
    let before = null, whole = true;
    for (const [id, piece] of coming) {
      const now = old.get(id), text = piece.outerHTML;
      if (!now) {
        const box = document.getElementById(piece.parentElement.id), made = document.importNode(piece, true);
        if (before?.parentElement === box) before.after(made);
        else if (box.id === "live-bar") box.append(made);
        else box.prepend(made);
        told.set(id, text);
      } else if (id === "live-state") {
        if (now.textContent !== piece.textContent) now.textContent = piece.textContent;
      } else if (told.get(id) !== text) {
        if (inUse(now) || held(now)) whole = false;
        else {
          exchange(now, piece);
          told.set(id, text);
        }
      }
      before = document.getElementById(id);
    }
    return whole;
  }

  // What else sticks to the top stands below the bar, however high that is.
  new ResizeObserver(([bar]) => {
    document.documentElement.style.setProperty("--live-height", `${bar.borderBoxSize[0].blockSize}px`);
  }).observe(document.getElementById("live-bar"));

  // ---- asking

  class Lost extends Error {}
  const parser = new DOMParser();
  let lostAt = null, tag = "", have = strip().dataset.report, looking = false;
  let kept = null; // a page of which a part waits until it is no longer in use

  async function get(url, headers) {
    const reply = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!reply.ok && reply.status !== 304) throw new Lost(`status ${reply.status}`);
    return reply;
  }

  function lost() {
    lostAt ??= new Date();
    const since = lostAt.toLocaleTimeString([], { hour12: false });
    strip().classList.add("unreached");
    const state = document.getElementById("live-state");
    const said = `Connection lost at ${since}`;
    if (state.textContent !== said) state.textContent = said;
    if (!document.getElementById("live-lost")) {
      const why = document.createElement("p");
      why.id = "live-lost";
      why.className = "live-trouble";
      why.textContent = "refine watch does not answer: it was ended, or the way to its machine is down. The run does not depend on it. What stands here is as it was; this page tries again, and goes on by itself.";
      document.getElementById("live-more").prepend(why);
    }
  }

  async function look() {
    const reply = await get("strip", tag && lostAt === null ? { "If-None-Match": tag } : {});
    if (reply.status !== 304) {
      const fresh = parser.parseFromString(await reply.text(), "text/html").getElementById("live");
      if (!fresh) throw new Lost("no strip");
      if (fresh.dataset.report && !have) { // until now there was none to exchange anything in
        location.reload();
        return;
      }
      lostAt = null;
      holdingStill(() => { tag = tell(fresh) ? reply.headers.get("ETag") || "" : ""; });
      document.title = fresh.dataset.title;
    }
    // A watcher that has just begun has no report yet.
    if (!strip().dataset.report || strip().dataset.report === have) return;
    if (kept?.getElementById("live").dataset.report !== strip().dataset.report) {
      kept = parser.parseFromString(await (await get("./", {})).text(), "text/html");
    }
    holdingStill(() => { if (report(kept)) have = kept.getElementById("live").dataset.report; });
    if (strip().dataset.report === have) kept = null;
  }

  async function turn() {
    let wait = EVERY;
    if (!looking) {
      looking = true;
      try {
        await look();
      } catch (error) {
        if (!(error instanceof TypeError || error instanceof DOMException || error instanceof Lost)) console.error(error);
        lost();
        wait = 2 * EVERY;
      } finally {
        looking = false;
      }
    }
    clearTimeout(next);
    next = setTimeout(turn, document.hidden ? HIDDEN : wait);
  }
  let next = setTimeout(turn, EVERY);

  document.title = strip().dataset.title;
  document.addEventListener("visibilitychange", () => { if (!document.hidden) turn(); });
})();
