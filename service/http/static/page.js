"use strict";
// Lists the tasks, sends one image to the chosen one, and shows how to call it. What the server says
// becomes text, never markup; a key stays in a variable, never in the browser's storage.

const $ = (id) => document.getElementById(id);
let task = null;
let cursor = null;
let key = null;

function ask(path, options = {}) {
  const headers = key ? { "X-API-Key": key } : {};
  return fetch(path, { ...options, headers });
}

async function answer(response) {
  const body = await response.json();
  if (response.status === 401) $("door").hidden = false;
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
  const page = await answer(await ask(`/tasks?${query}`));
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
  showCalls(name);
}

function showCalls(name) {
  const curlKey = key ? ' \\\n  -H "X-API-Key: $PROTUNING_KEY"' : "";
  const pythonKey = key ? ', headers={"X-API-Key": os.environ["PROTUNING_KEY"]}' : "";
  $("native").textContent =
    `curl -H "Content-Type: image/jpeg"${curlKey} --data-binary @image.jpg \\\n  "${location.origin}/tasks/${name}/predict?top_k=5"`;
  $("triton").textContent = [
    ...(key ? ["import os"] : []),
    "import numpy as np, tritonclient.http as triton",
    `client = triton.InferenceServerClient("${location.host}")`,
    'given = triton.InferInput("image", [1], "BYTES")',
    'given.set_data_from_numpy(np.array([open("image.jpg", "rb").read()], dtype=np.object_))',
    'best = triton.InferRequestedOutput("probabilities", class_count=5)',
    `print(client.infer("${name}", [given], outputs=[best]${pythonKey}).as_numpy("probabilities"))`,
  ].join("\n");
  $("calls").hidden = false;
}

async function showHealth() {
  const response = await fetch("/health/ready");
  const state = response.ok ? (await response.json()).status : "down";
  $("health").textContent = state;
  $("health").dataset.state = state;
}

async function enter() {
  key = $("key").value.trim();
  $("key").value = "";
  $("door").hidden = true;
  $("message").textContent = "";
  await showTasks();
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
  const result = await answer(await ask(path, { method: "POST", body: form }));
  for (const label of result.predictions[0].labels) $("labels").append(labelRow(label));
  const { decode_ms, load_ms, queue_ms, compute_ms } = result.timing;
  const spent = (decode_ms + load_ms + queue_ms + compute_ms).toFixed(1);
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
$("door").addEventListener("submit", (event) => { event.preventDefault(); enter().catch(tell); });
showHealth().catch(tell);
showTasks().catch(tell);
