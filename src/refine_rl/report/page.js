"use strict";

// What is wider or longer than its place says so, in words, and can be scrolled from the keyboard.
const overflowing = (() => {
  const hints = new Map();

  function tell(box) {
    const sideways = box.classList.contains("scroll");
    const over = sideways ? box.scrollWidth > box.clientWidth + 1 : box.scrollHeight > box.clientHeight + 1;
    if (over === hints.has(box)) return;
    if (!over) {
      hints.get(box).remove();
      hints.delete(box);
      box.removeAttribute("tabindex");
      return;
    }
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = sideways ? "Wider than the page: the table scrolls sideways. →" : "The text goes on: it scrolls. ↓";
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
  return (root) => {
    for (const box of hints.keys()) if (!box.isConnected) hints.delete(box);
    for (const box of root.querySelectorAll(".scroll, .scroll > table, .text")) {
      if (box.classList.contains("scroll")) box.removeAttribute("tabindex"); // there for who has no JavaScript
      sizes.observe(box);
    }
  };
})();
overflowing(document);

(() => {
  const source = document.getElementById("rollout-data");
  if (!source) return;
  const steps = JSON.parse(source.textContent);
  const by = (id) => document.getElementById(id);
  const slider = by("step"), select = by("group");
  let step = 0, group = 0;

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
    const text = size >= 100 ? size.toFixed(0)
      : size >= 0.01 || size === 0 ? size.toFixed(2)
      : size >= 0.001 ? size.toFixed(3) : size.toPrecision(2);
    return (value < 0 ? "−" : sign && value > 0 ? "+" : "") + text;
  }

  // Tiles as report/tiles.py says: a sign with its mark in a row of them, or a character before a tile, stands on
  // a square of its colour.
  const tiles = { "🟩": "green", "🟨": "yellow", "⬛": "black", "⬜": "white", "🟥": "red", "🟦": "blue" };
  const marks = { "+": "green", "?": "yellow", "-": "black" };
  const tile = new RegExp(`([^\\s${Object.keys(tiles).join("")}])?([${Object.keys(tiles).join("")}])\uFE0F?`, "gu");
  const row = /(?<!\S)\d?[\p{L}\p{N}_][+?-](?:\s+\d?[\p{L}\p{N}_][+?-]){2,}(?!\S)/gu;

  function square(sign, colour) {
    const made = element("span", "tile " + colour, sign || "\u2007");
    made.title = colour;
    return made;
  }

  function squares(made, content) {
    let end = 0;
    for (const found of content.matchAll(tile)) {
      made.append(content.slice(end, found.index), square(found[1], tiles[found[2]]));
      end = found.index + found[0].length;
    }
    made.append(content.slice(end));
  }

  function text(className, content) {
    const made = element("div", className);
    let end = 0;
    for (const found of content.matchAll(row)) {
      squares(made, content.slice(end, found.index));
      for (const sign of found[0].matchAll(/(\s*)\d?([\p{L}\p{N}_])([+?-])/gu)) {
        if (sign[1].includes("\n")) made.append(sign[1]);
        made.append(square(sign[2].toUpperCase(), marks[sign[3]]));
      }
      end = found.index + found[0].length;
    }
    squares(made, content.slice(end));
    return made;
  }

  function exchange(e, number_) {
    const row = element("li", "exchange");
    row.append(element("span", "turn-number", String(number_)));
    row.append(text("said text", e.said === "" ? "(nothing)" : e.said), text("heard text", e.heard.join("\n")));
    const given = element("span", "given " + (e.reward > 0 ? "up" : e.reward < 0 ? "down" : ""));
    given.textContent = e.reward === undefined ? "–" : number(e.reward, true);
    given.title = e.reward === undefined ? "not seen by the world" : "reward of this turn";
    row.append(given);
    return row;
  }

  function game(messages, world) {
    const found = [];
    for (const message of messages) {
      if (message.role === "assistant" || !found.length) found.push({ said: message.content, heard: [] });
      else found[found.length - 1].heard.push(message.content);
    }
    found.forEach((e, n) => { e.reward = world.rewards[n]; });
    const long = found.some((e) => [e.said, ...e.heard].some((t) => t.length > 60 || t.includes("\n")));
    const list = (some, first) => {
      const made = element("ol", "game" + (long ? " long" : ""));
      made.append(...some.map((e, n) => exchange(e, first + n)));
      return made;
    };
    const made = element("div", "dialogue");
    if (found.length < 9) made.append(list(found, 1));
    else {
      const more = element("details");
      more.append(element("summary", "", found.length - 6 + " more turns"), list(found.slice(3, -3), 4));
      made.append(list(found.slice(0, 3), 1), more, list(found.slice(-3), found.length - 2));
    }
    return made;
  }

  function ended(messages, world) {
    const count = messages.filter((m) => m.role === "assistant").length;
    const said = count + (count === 1 ? " turn" : " turns");
    return element("span", world.end === "failed" ? "down" : "", { done: said, limit: said + ", ended by a limit", failed: said + ", the world failed" }[world.end]);
  }

  function turns(messages, single) {
    return messages.map((message) => {
      const turn = element("div", "turn");
      if (!single) turn.append(element("div", "role", message.role));
      turn.append(element("div", "text", message.content === "" ? "(nothing)" : message.content));
      return turn;
    });
  }

  function member(m) {
    const card = element("li", "member");
    const head = element("p", "head");
    head.append(element("strong", "", "reward " + number(m.reward)));
    const way = m.advantage > 0 ? "up" : m.advantage < 0 ? "down" : "";
    head.append(element("span", way, "advantage " + number(m.advantage, true)));
    if (m.status !== "scored") head.append(element("span", "down", m.status));
    head.append(element("span", "", m.tokens + (m.tokens === 1 ? " token" : " tokens")));
    if (m.stop_reason === "length" && !m.world) head.append(element("span", "down", "cut at the limit"));
    if (m.world) {
      head.append(ended(m.messages, m.world));
      card.append(head, game(m.messages, m.world));
      if (m.world.why && !m.explanation.includes(m.world.why)) card.append(element("p", "why", m.world.why));
    } else card.append(head, ...turns(m.messages, m.messages.length === 1));
    const names = Object.keys(m.breakdown);
    if (names.length) {
      const parts = element("div", "parts");
      for (const name of names) {
        const value = m.breakdown[name];
        const bar = element("span", "bar"), filled = element("span");
        filled.style.width = 100 * Math.min(1, Math.max(0, value || 0)) + "%";
        bar.append(filled);
        parts.append(element("span", "", name), bar, element("span", "", number(value)));
      }
      card.append(parts);
    }
    if (m.explanation) card.append(element("p", "why", m.explanation));
    return card;
  }

  function show() {
    const groups = steps[step].groups, shown = groups[group];
    slider.value = step;
    slider.setAttribute("aria-valuetext", "step " + steps[step].step);
    by("step-shown").textContent = steps[step].step;
    select.replaceChildren(...groups.map((g, i) => new Option(`${i + 1} of ${groups.length}: ${g.prompt}`, i)));
    select.value = group;
    by("step-before").ariaDisabled = step === 0;
    by("step-after").ariaDisabled = step === steps.length - 1;
    by("group-before").ariaDisabled = group === 0;
    by("group-after").ariaDisabled = group === groups.length - 1;

    const rewards = shown.members.map((m) => m.reward).filter((r) => r !== null);
    const mean = rewards.length ? rewards.reduce((a, b) => a + b, 0) / rewards.length : null;
    const flat = rewards.length > 1 && rewards.every((r) => r === rewards[0]);
    by("where").textContent =
      `Step ${steps[step].step}, prompt ${shown.prompt}: mean reward ${number(mean)} over ${rewards.length} of ` +
      `${shown.members.length} completions.` + (flat ? " All rewards are equal, so this group teaches nothing." : "");
    if (shown.agreement !== null) by("where").textContent += ` The judges agree by ${number(shown.agreement)}.`;
    const facets = element("p", "facets");
    for (const [name, value] of Object.entries(shown.facets)) {
      facets.append(element("span", "", `${name}: ${value}`), " ");
    }
    by("context").replaceChildren(...turns(shown.context, false), facets);
    by("members").replaceChildren(...shown.members.map(member));
    overflowing(by("browser"));
  }

  function goTo(newStep, newGroup) {
    step = Math.min(Math.max(newStep, 0), steps.length - 1);
    group = Math.min(Math.max(newGroup, 0), steps[step].groups.length - 1);
    show();
  }

  slider.max = steps.length - 1;
  slider.addEventListener("input", () => goTo(Number(slider.value), group));
  select.addEventListener("change", () => goTo(step, Number(select.value)));
  by("step-before").addEventListener("click", () => goTo(step - 1, group));
  by("step-after").addEventListener("click", () => goTo(step + 1, group));
  by("group-before").addEventListener("click", () => goTo(step, group - 1));
  by("group-after").addEventListener("click", () => goTo(step, group + 1));
  by("browser").hidden = false;
  show();
})();
