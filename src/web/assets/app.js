"use strict";

const sentence = document.getElementById("sentence");
const exports = document.getElementById("exports");

function cell(text) {
  const cell = document.createElement("td");
  cell.textContent = text;
  return cell;
}

function row(project, item) {
  const row = document.createElement("tr");
  const failure = item.failure;
  const total = item.bytes.total === null ? "" : ` of ${item.bytes.total}`;
  row.append(
    cell(project.name),
    cell(item.id),
    cell(item.remote_status === null ? item.state : `${item.state} (${item.remote_status})`),
    cell(`${item.parts.done} of ${item.parts.total}`),
    cell(`${item.bytes.done}${total}`),
    cell(failure === null ? "" : `${failure.cause}. What to do: ${failure.advice}.`),
  );
  return row;
}

const events = new EventSource("/api/v1/events");
events.addEventListener("snapshot", (event) => {
  const status = JSON.parse(event.data);
  sentence.textContent = status.sentence;
  exports.replaceChildren(
    ...status.projects.flatMap((project) => project.exports.map((item) => row(project, item))),
  );
});
events.addEventListener("error", () => {
  sentence.textContent = "The daemon does not answer; trying again …";
});
