// What needs attention: waits and failures, as cards with a command to copy.

import { announce, duration, instantiate, moment, plural, sentenceCase, setAttribute, setHidden, setOptional, setText } from "./kit.js";

const clockTime = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export function nextTry({ until, asking }, now, prefix) {
  if (!until) return asking ? `${prefix} now` : "";
  const wait = moment(until) - now;
  return wait < 500 ? `${prefix} now` : `${prefix} in ${duration(wait, true)}`;
}

/** What holds up more than one project, by the reason of the wait. */
const SHARED = { unavailable: "The API", store_busy: "The store", disk: "The disk", state: "The state" };

/** What someone should look at. What holds up more comes first. */
export function troubles({ waits, reloads, projects, commands }) {
  const list = waits.map((wait) => (
    { wait, key: `wait ${wait.reason}`, title: SHARED[wait.reason] ?? "Downloads", tone: toneOf(wait) }));
  if (reloads.last_refusal) {
    list.push({ key: "reload", tone: "warn", title: "The configuration", words: `the last reload was refused: ${reloads.last_refusal}`,
      advice: "The daemon keeps its current configuration. Correct the file; the daemon reads it again.",
      command: commands.check });
  }
  for (const { name, pauses } of projects) {
    for (const wait of pauses) {
      list.push({ wait, key: `pause ${name} ${wait.reason}`, title: `Project ${name}`, tone: toneOf(wait) });
    }
  }
  return list.concat(failures(projects, commands), lasting(waits, projects));
}

/** Exports that have waited for long. What holds up more than one of them has a card of its own. */
function lasting(waits, projects) {
  return projects.flatMap(({ name, pauses, exports }) => exports.filter(({ waiting }) => waiting?.needs_attention
    && ![...waits, ...pauses].some(({ reason }) => reason === waiting.cause)).map(({ id, waiting }) => ({
    wait: { ...waiting, until: waiting.next_at },
    key: `waits ${name} ${id}`,
    title: `${name} / ${id}`,
    tone: "warn",
    command: waiting.command,
  })));
}

/** A wait in one line. */
export function waitWords({ words, attempts, since, next_at: until, asking }, now) {
  const pieces = [sentenceCase(words)];
  if (attempts > 1) pieces.push(`${attempts} attempts`);
  if (since) pieces.push(`for ${duration(now - moment(since))}`);
  return pieces.join(" · ") + nextTry({ until, asking }, now, " · next try");
}

const toneOf = ({ until, asking }) => (until || asking ? "warn" : "bad");

export function failures(projects, commands) {
  return projects.flatMap(({ name, exports }) => exports.filter((item) => item.failure).map(({ id, failure }) => ({
    key: `failed ${name} ${id}`,
    id,
    tone: "bad",
    title: `${name} / ${id}`,
    words: failure.code ? `${failure.cause} (${failure.code})` : failure.cause,
    advice: failure.advice,
    failed: failure.at,
    command: retryCommand(commands, [id]),
  })));
}

export const retryCommand = ({ retry }, ids) => `${retry} ${ids.join(" ")}`;

/** Copies, and says on the button what came of it. Off https the clipboard is closed, and the old way is left. */
export async function copy(text, button) {
  const label = button.firstElementChild;
  label.dataset.words ??= label.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text);
  }
  label.textContent = done ? "Copied" : "Not copied";
  announce(done ? "The command is copied." : "The command could not be copied.");
  setTimeout(() => { label.textContent = label.dataset.words; }, 2_000);
}

function copyBySelection(text) {
  const field = document.createElement("textarea");
  const focused = document.activeElement;
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}

export class AttentionView {
  constructor() {
    this.refs = instantiate("attention-template");
    this.node = this.refs.node;
    this.refs.copy.addEventListener("click", () => copy(this.trouble.command, this.refs.copy));
  }

  update(trouble) {
    const { title, words, advice, box, command, whose } = this.refs;
    // A wait has its own words and advice.
    trouble = { ...trouble.wait, ...trouble };
    this.trouble = trouble;
    setAttribute(this.node, "data-tone", trouble.tone);
    setText(title, trouble.title);
    setText(words, sentenceCase(trouble.words));
    setOptional(advice, trouble.advice && sentenceCase(trouble.advice));
    setHidden(box, !trouble.command);
    setText(command, trouble.command ?? "");
    setText(whose, ` the command for ${trouble.title}`);
  }

  tick(now) {
    const { wait, failed } = this.trouble;
    const at = wait?.until ? ` (${clockTime.format(moment(wait.until))})` : "";
    const ago = failed && `Failed ${duration(now - moment(failed))} ago`;
    const next = wait && `${nextTry(wait, now, "Next try")}${at}`;
    const age = wait?.since && wait.attempts ? `${next ? " · " : ""}for ${duration(now - moment(wait.since))}, ${plural(wait.attempts, "attempt")}` : "";
    setOptional(this.refs.until, wait ? `${next}${age}` : ago);
  }
}
