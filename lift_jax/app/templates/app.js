"use strict";
// Everything from outside becomes text (textContent), never markup.
const app = document.getElementById("app"), drop = document.getElementById("drop");
const chooser = document.getElementById("files"), results = document.getElementById("results");
const statusLine = document.getElementById("status"), clear = document.getElementById("clear");
const BATCH = Number(app.dataset.batch), FILE = Number(app.dataset.fileBytes);
const REQUEST = Number(app.dataset.requestBytes) - 100000; // less the text between the files
const calibrated = app.dataset.calibrated === "true";
const waiting = [];
let asked = 0, answered = 0, failed = 0, working = false;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function name(text) { return make("bdi", "", text); }

function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return (share < 1 && value > 99.9 ? "> 99.9" : value.toFixed(1)) + " %";
}

function say() {
  const named = answered - failed, images = asked === 1 ? "image" : "images";
  const bad = failed ? `, ${failed} cannot be read` : "";
  statusLine.textContent = asked ? `${named} of ${asked} ${images} named${bad}` +
    (answered < asked ? " ..." : ".") : "";
  clear.hidden = !asked;
}

function add(files) {
  const chosen = [...files];
  if (!chosen.length) return;
  const group = make("div");
  results.prepend(group); // the newest first
  for (const file of chosen) {
    const place = make("section", "answer");
    place.setAttribute("aria-busy", "true");
    place.append(make("p", "name", name(file.name), " ..."));
    group.append(place);
    asked += 1;
    if (file.size > FILE) {
      show(place, { name: file.name, error: `The file has more than ${app.dataset.fileSize}.` });
    } else {
      waiting.push({ file, place });
    }
  }
  say();
  work();
}

async function work() {
  if (working) return;
  working = true;
  while (waiting.length) await ask(next());
  working = false;
}

function next() {
  const taken = [waiting.shift()];
  let size = taken[0].file.size;
  while (waiting.length && taken.length < BATCH && size + waiting[0].file.size <= REQUEST) {
    size += waiting[0].file.size;
    taken.push(waiting.shift());
  }
  return taken;
}

async function ask(taken) {
  const form = new FormData();
  for (const { file } of taken) form.append("image", file, file.name || "pasted image");
  let found;
  try {
    const response = await fetch("api/predict", { method: "POST", body: form });
    found = await response.json();
    if (!response.ok) throw new Error(found.error);
  } catch (error) {
    const gone = error instanceof TypeError || error instanceof SyntaxError;
    if (gone && taken.length > 1) { // one that cannot be read, as a folder, fails them all
      for (const each of taken) await ask([each]);
      return;
    }
    const reason = gone ? "No answer: is it a file, and does lift-jax app still run?" : error.message;
    found = { images: taken.map(({ file }) => ({ name: file.name, error: reason })) };
  }
  taken.forEach(({ place }, i) => show(place, found.images[i], found.coverage));
  say();
}

function show(place, one, coverage) {
  if (!place.isConnected) return; // cleared meanwhile
  answered += 1;
  place.removeAttribute("aria-busy");
  if (one.error) {
    failed += 1;
    place.className = "answer bad";
    place.replaceChildren(make("div", "", make("h2", "name", name(one.name)),
      make("p", "verdict", one.error)));
    return;
  }
  place.className = one.unknown ? "answer unknown" : "answer";
  const picture = make("img");
  picture.src = one.thumbnail;
  picture.alt = "";
  const told = make("div", "", verdict(one), table(one.classes));
  if (one.set) told.append(set(one.set, coverage));
  if (one.neighbours.length) told.append(near(one.neighbours));
  place.replaceChildren(
    make("div", "picture", picture, make("h2", "name", name(one.name))), told);
}

function verdict(one) {
  if (!one.unknown) return make("p", "verdict", name(one.answer));
  const nearest = make("small", "", "likeliest of them: ", name(one.classes[0].name));
  return make("p", "verdict", "Unknown: probably none of the classes ", nearest);
}

function cell(tag, scope, className, ...children) {
  const element = make(tag, className, ...children);
  if (scope) element.scope = scope;
  return element;
}

function table(classes) {
  const head = make("tr", "", cell("th", "col", "", "Class"),
    cell("th", "col", "share", calibrated ? "Calibrated probability" : "Probability"));
  const rare = classes[0].train_images !== null;
  if (rare) head.append(cell("th", "col", "rare", "Training images"));
  const body = make("tbody");
  for (const each of classes) {
    const fill = make("span", "fill");
    fill.style.width = `${100 * each.probability}%`;
    const track = make("span", "track", fill);
    track.setAttribute("aria-hidden", "true");
    const share = make("div", "", track, make("span", "", percent(each.probability)));
    const row = make("tr", "", cell("th", "row", "", name(each.name)), cell("td", "", "share", share));
    if (rare) {
      const count = each.train_images.toLocaleString("en");
      row.append(cell("td", "", "", count, " ", make("span", `group ${each.group}`, each.group)));
    }
    body.append(row);
  }
  return make("table", "", make("thead", "", head), body);
}

const SHOWN = 12; // classes of a set
function set(names, coverage) {
  const line = make("p", "set");
  const sure = `${Number((100 * coverage).toPrecision(6))} %`;
  line.append(`Prediction set, which holds the true class for ${sure} of images of these classes: `);
  names.slice(0, SHOWN).forEach((each, i) => line.append(i ? ", " : "", name(each)));
  line.append(names.length > SHOWN ? ` and ${names.length - SHOWN} more.` : ".");
  return line;
}

function near(neighbours) {
  const list = make("ul", neighbours.some((each) => each.image) ? "" : "plain");
  for (const each of neighbours) {
    const item = make("li");
    if (each.image) {
      const picture = make("img");
      picture.alt = "";
      picture.loading = "lazy";
      picture.addEventListener("error", () => picture.remove());
      picture.src = each.image;
      item.append(picture);
    }
    const value = each.similarity.toFixed(2);
    item.append(name(each.class), make("span", "", `similarity ${value}`));
    list.append(item);
  }
  return make("div", "near", make("h3", "", "Most alike training images"), list);
}

chooser.addEventListener("change", () => { add(chooser.files); chooser.value = ""; });
clear.addEventListener("click", () => {
  waiting.length = asked = answered = failed = 0;
  results.replaceChildren();
  say();
  chooser.focus();
});
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => add(event.clipboardData.files));
