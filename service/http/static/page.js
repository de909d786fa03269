"use strict";
// Lists the tasks and sends one image to the chosen one. What the server says becomes text, never markup.

const $ = (id) => document.getElementById(id);
let task = null;
let cursor = null;

async function answer(response) {
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail || response.statusText);
  return body;
}

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function showTasks() {
  const query = new URLSearchParams({ limit: "100" });
  if (cursor) query.set("cursor", cursor);
  const page = await answer(await fetch(`/tasks?${query}`));
  for (const item of page.items) $("tasks").append(taskRow(item));
  cursor = page.next_cursor;
  $("more").hidden = cursor === null;
  $("no-tasks").hidden = $("tasks").childElementCount > 0;
}

function taskRow(item) {
  const button = element("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const version = item.active_version === null ? "not active here" : `version ${item.active_version}`;
  button.append(element("span", item.task), element("small", version));
  button.addEventListener("click", () => choose(item.task, button));
  const row = element("li");
  row.append(button);
  return row;
}

function choose(name, button) {
  task = name;
  for (const other of $("tasks").querySelectorAll("button")) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  $("predict").textContent = `Predict with ${name}`;
  $("predict").disabled = false;
}

function showImage() {
  const [file] = $("image").files;
  if (!file) return;
  if ($("preview").src) URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(file);
  $("preview").hidden = false;
  $("invitation").hidden = true;
}

async function predict() {
  const [file] = $("image").files;
  $("labels").replaceChildren();
  $("message").textContent = "…";
  const form = new FormData();
  form.append("images", file);
  const path = `/tasks/${encodeURIComponent(task)}/predict?top_k=5`;
  const result = await answer(await fetch(path, { method: "POST", body: form }));
  for (const label of result.predictions[0].labels) $("labels").append(labelRow(label));
  const { load_ms, queue_ms, compute_ms } = result.timing;
  const spent = (load_ms + queue_ms + compute_ms).toFixed(1);
  $("message").textContent = `${result.task}, version ${result.version}: ${spent} ms`;
}

function labelRow({ label, score }) {
  const row = element("li");
  const meter = element("meter");
  meter.value = score;
  row.append(element("span", label), element("span", `${(100 * score).toFixed(1)} %`), meter);
  return row;
}

const tell = (error) => { $("message").textContent = error.message; };

$("image").addEventListener("change", showImage);
$("more").addEventListener("click", () => showTasks().catch(tell));
$("form").addEventListener("submit", (event) => { event.preventDefault(); predict().catch(tell); });
$("drop").addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  $("image").files = event.dataTransfer.files;
  showImage();
});
showTasks().catch(tell);
