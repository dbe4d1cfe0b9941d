// Rollouts: a group at a time, one prompt through the steps, and a search over the completions.

// Tiles as report/tiles.py says: a sign with its mark in a row of them, or a character before a tile, stands on a
// square of its colour.
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

function exchange(e, place) {
  const made = element("li", "exchange");
  made.append(element("span", "turn-number", String(place)));
  made.append(text("said text", e.said === "" ? "(nothing)" : e.said), text("heard text", e.heard.join("\n")));
  const given = element("span", "given " + (e.reward > 0 ? "up" : e.reward < 0 ? "down" : ""));
  given.textContent = e.reward === undefined ? "–" : number(e.reward, true);
  given.title = e.reward === undefined ? "not seen by the world" : "reward of this turn";
  made.append(given);
  return made;
}

function game(messages, world) {
  const found = [];
  for (const message of messages) {
    if (message.role === "assistant" || !found.length) found.push({ said: message.content, heard: [] });
    else found[found.length - 1].heard.push(message.content);
  }
  found.forEach((e, n) => { e.reward = world.rewards[n]; });
  const long = found.some((e) => [e.said, ...e.heard].some((t) => t.length > 60 || t.includes("\n")));
  const list = (some, start) => {
    const made = element("ol", "game" + (long ? " long" : ""));
    made.append(...some.map((e, n) => exchange(e, start + n)));
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
  const turns = counted(messages.filter((m) => m.role === "assistant").length, "turn");
  const how = { done: turns, limit: turns + ", ended by a limit", failed: turns + ", the world failed" };
  return element("span", world.end === "failed" ? "down" : "", how[world.end]);
}

function turns(messages, single) {
  return messages.map((message) => {
    const turn = element("div", "turn");
    if (!single) turn.append(element("div", "role", message.role));
    turn.append(text("text", message.content === "" ? "(nothing)" : message.content));
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
  head.append(element("span", "", counted(m.tokens, "token")));
  if (m.stop === "length" && !m.world) head.append(element("span", "down", "cut at the limit"));
  if (m.world) {
    head.append(ended(m.messages, m.world));
    card.append(head, game(m.messages, m.world));
    if (m.world.why && !m.why.includes(m.world.why)) card.append(element("p", "why", m.world.why));
  } else card.append(head, ...turns(m.messages, m.messages.length === 1));
  const names = Object.keys(m.parts);
  if (names.length) {
    const parts = element("div", "parts");
    for (const name of names) {
      const bar = element("span", "bar"), filled = element("span");
      filled.style.width = 100 * Math.min(1, Math.max(0, m.parts[name] || 0)) + "%";
      bar.append(filled);
      parts.append(element("span", "", name), bar, element("span", "", number(m.parts[name])));
    }
    card.append(parts);
  }
  if (m.why) card.append(element("p", "why", m.why));
  return card;
}

// ---- the group that is shown

// The data as rollouts.py packed it, with everything in its place.
const unpacked = new WeakMap();
function rollouts() {
  const source = by("rollout-data");
  if (!unpacked.has(source)) unpacked.set(source, unpack(jsonOf(source)));
  return unpacked.get(source);
}

function unpack(data) {
  for (const { groups } of data.steps) {
    for (const group of groups) {
      group.context = data.contexts[group.context];
      group.agreement ??= null;
      const names = data.names[group.names];
      for (const m of group.members) {
        m.messages = m.said.map((content, n) => ({ role: m.roles?.[n] || (n % 2 ? "user" : "assistant"), content }));
        m.parts = Object.fromEntries(names.map((name, n) => [name, m.parts[n]]).filter(([, value]) => value !== null));
        m.why = m.why.map((line) => data.lines[line]).join("\n");
        m.stop ||= "stop";
        m.status ||= "scored";
      }
    }
  }
  return data;
}

let shown = { step: 0, group: 0 }; // places in the data
let looking = ""; // "step prompt" of the group, so that it is found again in newer data

const anchor = (step, prompt) => `#group-${step}-${encodeURIComponent(prompt)}`;
const rewardsOf = (group) => group.members.map((m) => m.reward);
const known = (rewards) => rewards.filter((r) => r !== null);
const meanOf = (rewards) => rewards.length ? rewards.reduce((a, b) => a + b, 0) / rewards.length : null;

// The axis of rewards: 0 to 1 where they lie there, else as far as they go.
function ends(rewards) {
  const low = Math.min(...rewards), high = Math.max(...rewards);
  if (low >= 0 && high <= 1) return [0, 1];
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

function dotted(box, rewards) {
  const there = known(rewards);
  box.replaceChildren();
  box.hidden = !there.length;
  if (!there.length) return;
  const [low, high] = ends(there), stacked = new Map();
  box.setAttribute("role", "img");
  box.ariaLabel = "Rewards of the group: " + [...there].sort((a, b) => a - b).map((r) => number(r)).join(", ");
  const axis = element("div", "axis");
  for (const reward of there) {
    const place = Math.round(60 * (reward - low) / (high - low)), level = stacked.get(place) || 0;
    stacked.set(place, level + 1);
    const dot = element("span", "dot");
    dot.style.left = percent(place / 60);
    dot.style.bottom = `${0.15 + 0.5 * level}rem`;
    axis.append(dot);
  }
  axis.style.height = `${0.4 + 0.5 * Math.max(...stacked.values())}rem`;
  box.append(element("span", "end", number(low)), axis, element("span", "end", number(high)));
}

function follow(prompt) {
  const { steps, others } = rollouts();
  const every = steps.flatMap(({ step, groups }) => groups.filter((g) => g.prompt === prompt)
    .map((g) => ({ step, rewards: rewardsOf(g), there: true })));
  every.push(...others.filter((o) => o[1] === prompt).map(([step, , rewards]) => ({ step, rewards, there: false })));
  every.sort((a, b) => a.step - b.step);
  const box = by("follow"), all = every.flatMap((g) => known(g.rewards));
  const enough = every.length > 1 && all.length > 0;
  box.hidden = by("follow-title").hidden = !enough;
  by("follow-said").hidden = !enough;
  if (!enough) return;
  const means = every.map((g) => meanOf(known(g.rewards))).filter((m) => m !== null);
  const without = every.filter((g) => !g.there).length;
  by("follow-said").textContent = `${prompt} was drawn ${counted(every.length, "time")}: mean reward `
    + `${number(means[0])} at first, ${number(means[means.length - 1])} at last. A dot is a completion, a bar their mean.`
    + (without ? ` The texts of ${without} are not on this page.` : "");
  const [low, high] = ends(all);
  const from = every[0].step, to = every[every.length - 1].step;
  box.replaceChildren(...every.map(({ step, rewards, there }) => {
    const column = element(there ? "a" : "span", "column");
    const mean = meanOf(known(rewards));
    if (there) {
      column.href = anchor(step, prompt);
      if (looking === `${step} ${prompt}`) column.setAttribute("aria-current", "true");
    }
    column.style.left = percent((step - from) / (to - from || 1));
    column.title = `step ${step}: mean ${number(mean)}`;
    column.append(element("span", "unseen", `step ${step}: mean reward ${number(mean)}`));
    for (const reward of new Set(known(rewards))) {
      const dot = element("span", "dot");
      dot.style.bottom = percent((reward - low) / (high - low));
      column.append(dot);
    }
    if (mean !== null) {
      const bar = element("span", "mean-bar");
      bar.style.bottom = percent((mean - low) / (high - low));
      column.append(bar);
    }
    return column;
  }));
  box.append(element("span", "from", `step ${from}`), element("span", "to", `step ${to}`),
    element("span", "low", number(low)), element("span", "high", number(high)));
}

function show() {
  const { steps, facets } = rollouts();
  const { step, groups } = steps[shown.step], group = groups[shown.group];
  looking = `${step} ${group.prompt}`;
  const slider = by("step"), select = by("group");
  slider.value = step;
  slider.setAttribute("aria-valuetext", "step " + step);
  by("step-shown").textContent = step;
  select.replaceChildren(...groups.map((g, i) => new Option(`${i + 1} of ${groups.length}: ${g.prompt}`, i)));
  select.value = shown.group;
  by("step-before").ariaDisabled = shown.step === 0;
  by("step-after").ariaDisabled = shown.step === steps.length - 1;
  by("group-before").ariaDisabled = shown.group === 0;
  by("group-after").ariaDisabled = shown.group === groups.length - 1;

  const rewards = known(rewardsOf(group));
  const flat = rewards.length > 1 && rewards.every((r) => r === rewards[0]);
  by("where").textContent =
    `Step ${step}, prompt ${group.prompt}: mean reward ${number(meanOf(rewards))} over ${rewards.length} of ` +
    `${group.members.length} completions.` + (flat ? " All rewards are equal, so this group teaches nothing." : "") +
    (group.agreement !== null ? ` The judges agree by ${number(group.agreement)}.` : "");
  const link = element("a", "", "Link to this group");
  link.href = anchor(step, group.prompt);
  by("group-links").replaceChildren(link);
  const named = element("p", "facets");
  for (const [name, value] of Object.entries(facets[group.prompt] || {})) {
    named.append(element("span", "", `${name}: ${value}`), " ");
  }
  by("context").replaceChildren(...turns(group.context, false), named);
  dotted(by("strip"), rewardsOf(group));
  by("members").replaceChildren(...group.members.map(member));
  follow(group.prompt);
  overflowing(by("browser"));
}

function goTo(step, group) {
  const { steps } = rollouts();
  shown.step = Math.min(Math.max(step, 0), steps.length - 1);
  shown.group = Math.min(Math.max(group, 0), steps[shown.step].groups.length - 1);
  show();
}

// The group of that step and prompt, or else the nearest step that is there.
function goToStep(step, scroll, prompt) {
  const { steps } = rollouts();
  const place = steps.reduce((best, s, n) => Math.abs(s.step - step) < Math.abs(steps[best].step - step) ? n : best, 0);
  goTo(place, Math.max(0, steps[place].groups.findIndex((g) => g.prompt === prompt)));
  if (scroll) {
    by("browser").scrollIntoView();
    by("step").focus({ preventScroll: true });
  }
}

function goToHash(hash) {
  const found = /^#group-(\d+)-(.+)$/.exec(hash);
  if (found && by("browser")) goToStep(Number(found[1]), true, decodeURIComponent(found[2]));
}

on("input", "#step", (event, slider) => {
  const { steps } = rollouts(), wanted = Number(slider.value), now = steps[shown.step].step;
  const ahead = steps.findIndex((s) => s.step >= wanted), behind = steps.findLastIndex((s) => s.step <= wanted);
  goTo(wanted > now ? (ahead < 0 ? steps.length - 1 : ahead) : Math.max(0, behind), shown.group);
});
on("change", "#group", (event, select) => goTo(shown.step, Number(select.value)));
on("click", "#step-before", () => goTo(shown.step - 1, shown.group));
on("click", "#step-after", () => goTo(shown.step + 1, shown.group));
on("click", "#group-before", () => goTo(shown.step, shown.group - 1));
on("click", "#group-after", () => goTo(shown.step, shown.group + 1));
on("click", "a[href^='#group-']", (event, link) => {
  if (link.getAttribute("href") === location.hash) goToHash(location.hash); // no change of it, and no event
});
addEventListener("hashchange", () => goToHash(location.hash));

// ---- the search

const MATCHES = 20;
let findPage = 0;

const saidBy = (m) => m.messages.map((message) => message.content).join("\n");

function snippet(content, wanted) {
  const made = element("span", "snippet"), place = wanted ? content.toLowerCase().indexOf(wanted) : -1;
  const start = Math.max(0, place - 60), piece = content.slice(start, start + 200).replace(/\s+/g, " ");
  const at = wanted ? piece.toLowerCase().indexOf(wanted) : -1;
  made.append(start > 0 ? "…" : "");
  if (at < 0) made.append(piece);
  else made.append(piece.slice(0, at), element("mark", "", piece.slice(at, at + wanted.length)), piece.slice(at + wanted.length));
  made.append(start + 200 < content.length ? "…" : "");
  return made;
}

function find(page) {
  const value = (name) => by("find-" + name).value.trim(), wanted = value("text").toLowerCase();
  const limit = (name, otherwise) => value(name) === "" ? otherwise : Number(value(name));
  const from = limit("step-from", -Infinity), to = limit("step-to", Infinity);
  const low = limit("reward-from", -Infinity), high = limit("reward-to", Infinity);
  const ranged = value("reward-from") !== "" || value("reward-to") !== "";
  const stop = value("stop"), status = value("status"), found = [];
  for (const { step, groups } of rollouts().steps) {
    if (step < from || step > to) continue;
    for (const group of groups) {
      for (const m of group.members) {
        if ((stop && m.stop !== stop) || (status && m.status !== status)) continue;
        if (ranged && (m.reward === null || m.reward < low || m.reward > high)) continue;
        if (wanted && !`${saidBy(m)}\n${m.why}\n${group.prompt}`.toLowerCase().includes(wanted)) continue;
        found.push({ step, group, m });
      }
    }
  }
  const [at, some] = paged(found, page, MATCHES, "find");
  findPage = at;
  by("find-said").textContent = `${counted(found.length, "completion")} found on this page.`;
  by("find-list").replaceChildren(...some.map(({ step, group, m }) => {
    const item = element("li"), link = element("a", "", `step ${step}, ${group.prompt}`);
    link.href = anchor(step, group.prompt);
    const facts = [`reward ${number(m.reward)}`, m.status === "scored" ? "" : m.status, m.stop].filter(Boolean).join(", ");
    item.append(link, element("span", "facts-of", ` ${facts} `), snippet(saidBy(m), wanted));
    return item;
  }));
}

on("input", "#find input, #find select", () => find(0));
on("click", "#find-before, #find-after", (event, button) => {
  if (button.ariaDisabled !== "true") find(findPage + (button.id === "find-after" ? 1 : -1));
});

setUps.push((root) => {
  if (!root.querySelector("#rollout-data")) return;
  const { steps } = rollouts(), members = steps.flatMap((s) => s.groups.flatMap((g) => g.members));
  for (const name of ["stop", "status"]) {
    const values = [...new Set(members.map((m) => m[name]))].sort();
    by("find-" + name).replaceChildren(new Option("any", ""), ...values.map((value) => new Option(value, value)));
  }
  by("step").min = steps[0].step;
  by("step").max = steps[steps.length - 1].step;
  by("browser").hidden = false;
  const [step, prompt] = looking ? [Number(looking.split(" ")[0]), looking.slice(looking.indexOf(" ") + 1)] : [steps[0].step, ""];
  goToStep(step, false, prompt);
  find(findPage);
  if (root === document) goToHash(location.hash);
});
