// Numbers of a chart where one points, or moves with the keys. A step that is pointed at in one chart is marked in
// all of them.

const chartOf = (plot) => plot.closest("figure.chart");

function numbersOf(figure) {
  for (const source of figure.closest("section").querySelectorAll(".chart-data")) {
    const found = jsonOf(source)[figure.dataset.chart];
    if (found) return found;
  }
  return null;
}

// The places at which a chart has a value, in order: {x, values: [{name, value, low, high}], text}
const placed = new WeakMap();
function placesOf(data) {
  if (placed.has(data)) return placed.get(data);
  const found = new Map();
  const at = (x) => found.get(x) || found.set(x, { x, values: [], text: "", axis: data.axis }).get(x);
  for (const { name, x = data.x, values, low, high } of data.series) {
    values.forEach((value, n) => {
      if (value !== null) at(x[n]).values.push({ name, value, low: low?.[n], high: high?.[n] });
    });
  }
  (data.texts || []).forEach((text, n) => Object.assign(at(data.x[n]), { text, step: data.steps[n] }));
  const places = [...found.values()].sort((a, b) => a.x - b.x);
  placed.set(data, places);
  return places;
}

const across = (data, x) => (x - data.range[0]) / (data.range[1] - data.range[0]);
const upwards = (data, y) => (y - data.range[2]) / (data.range[3] - data.range[2]);

function said(place) {
  if (place.text) return place.text;
  const values = place.values.map(({ name, value, low, high }) =>
    `${name} ${number(value)}` + (low === undefined || low === null ? "" : ` (${number(low)} to ${number(high)})`));
  return [`${place.axis} ${Number(place.x.toFixed(1))}`, ...values].join(", ");
}

function mark(plot, data, x) {
  const line = plot.querySelector(".cross") || plot.appendChild(element("span", "cross"));
  line.style.left = percent(across(data, x));
}

function clear(keep) {
  for (const left of document.querySelectorAll(".plot > .cross, .plot > .tip, .plot > .spot")) {
    if (left.parentElement !== keep || !left.matches(".cross")) left.remove();
  }
}

function point(plot, index) {
  const data = numbersOf(chartOf(plot)), places = placesOf(data);
  const place = places[Math.min(Math.max(index, 0), places.length - 1)];
  clear();
  plot.dataset.at = places.indexOf(place);
  if (!data.texts && data.axis === "step") {
    for (const other of document.querySelectorAll(".chart > .frame > .plot")) {
      const theirs = other === plot ? data : numbersOf(chartOf(other));
      if (theirs && !theirs.texts && theirs.axis === "step" && place.x >= theirs.range[0] && place.x <= theirs.range[1]) mark(other, theirs, place.x);
    }
  } else mark(plot, data, place.x);
  const tip = element("div", "tip");
  tip.ariaHidden = "true";
  if (place.text) tip.append(element("p", "", place.text));
  else {
    tip.append(element("p", "at", `${data.axis} ${Number(place.x.toFixed(1))}`));
    for (const { name, value, low, high } of place.values) {
      const row = element("p", "", name + " ");
      row.append(element("strong", "", number(value)));
      if (low !== undefined && low !== null) row.append(` ${number(low)} to ${number(high)}`);
      tip.append(row);
      if (!data.stacked && chartOf(plot).querySelector(".key.area") === null) {
        const spot = element("span", "spot");
        spot.style.left = percent(across(data, place.x));
        spot.style.bottom = percent(upwards(data, value));
        plot.append(spot);
      }
    }
  }
  const share = across(data, place.x);
  tip.style[share > 0.5 ? "right" : "left"] = percent(share > 0.5 ? 1 - share : share);
  plot.append(tip);
  plot.setAttribute("aria-valuenow", plot.dataset.at);
  plot.setAttribute("aria-valuetext", said(place));
}

function nearest(plot, clientX) {
  const data = numbersOf(chartOf(plot)), box = plot.getBoundingClientRect();
  const x = data.range[0] + (clientX - box.left) / box.width * (data.range[1] - data.range[0]);
  const places = placesOf(data);
  return places.reduce((best, place, n) => Math.abs(place.x - x) < Math.abs(places[best].x - x) ? n : best, 0);
}

function stepAt(plot) {
  const place = placesOf(numbersOf(chartOf(plot)))[Number(plot.dataset.at || 0)];
  return place.step || Math.round(place.x);
}

const hasSteps = (plot) => (numbersOf(chartOf(plot)).axis || "step") === "step";

on("pointermove", ".chart .plot", (event, plot) => point(plot, nearest(plot, event.clientX)));
on("pointerdown", ".chart .plot", (event, plot) => point(plot, nearest(plot, event.clientX)));
on("pointerout", ".chart .plot", (event, plot) => {
  if (event.pointerType === "mouse" && !plot.contains(event.relatedTarget)) clear();
});
on("click", ".chart .plot", (event, plot) => {
  if (event.pointerType !== "touch" && hasSteps(plot) && by("browser")) goToStep(stepAt(plot), true);
});
on("focusin", ".chart .plot", (event, plot) => {
  if (plot.matches(":focus-visible")) point(plot, Number(plot.dataset.at || 0));
});
on("focusout", ".chart .plot", () => clear());
on("keydown", ".chart .plot", (event, plot) => {
  const at = Number(plot.dataset.at || 0);
  const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
    PageDown: at - 10, PageUp: at + 10, Home: 0, End: Infinity }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    point(plot, to);
  } else if (event.key === "Escape") clear();
  else if (event.key === "Enter" && hasSteps(plot) && by("browser")) goToStep(stepAt(plot), true);
});

setUps.push((root) => {
  for (const plot of root.querySelectorAll(".chart .plot")) {
    const data = numbersOf(chartOf(plot));
    if (!data) continue;
    const last = placesOf(data).length - 1;
    plot.setAttribute("role", "slider"); // a picture until here
    plot.tabIndex = 0;
    plot.setAttribute("aria-valuemin", 0);
    plot.setAttribute("aria-valuemax", last);
    plot.setAttribute("aria-valuenow", last);
    plot.setAttribute("aria-valuetext", said(placesOf(data)[last]));
    plot.dataset.at = last;
  }
});
