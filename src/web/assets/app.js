// The page of batch-export-watcher: one snapshot of the daemon in, the same page brought up to date out.
//
// Texts of the daemon are data. They are only ever set as text, never parsed as markup.

const CHART_WINDOW = 10 * 60_000;
const CHART_WINDOW_LEAST = 60_000;
const CHART_GAP = 15_000;
const QUIET_FOR = 10_000;
const RECONNECT_AFTER = 3_000;
const NOTICE_FOR = 30_000;
const ATTENTION_SHOWN = 5;

const REMOTE_STEPS = ["CREATED", "PENDING", "RUNNING", "SUCCESS"];
/** The states of an export: its word, and the group that tiles, chips and colours go by. */
const STATES = {
  failed: { word: "Failed", kind: "failed" },
  failing: { word: "Failing", kind: "failed" },
  fetching: { word: "Downloading", kind: "downloading" },
  sealing: { word: "Finishing", kind: "downloading" },
  polling: { word: "Waiting", kind: "waiting" },
  whole: { word: "Whole", kind: "whole" },
};
const STATE_ORDER = Object.keys(STATES);
const KINDS = { waiting: "Waiting", downloading: "Downloading", whole: "Whole", failed: "Failed" };
/** What a pause is called; other reasons, of a later daemon, are shown as they come. */
const PAUSES = {
  unauthorized: "its key is refused",
  throttled: "asked to slow down",
  rejected: "the API refuses its requests",
  unavailable: "the API is unavailable",
};

const byName = new Intl.Collator("en", { numeric: true }).compare;
const clockTime = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const $ = (id) => document.getElementById(id);

// --- Words for numbers ---------------------------------------------------------------------------------------------

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; count >= 999.5 && unit < units.length - 1; unit += 1) count /= 1000;
  return `${count.toFixed(unit === 0 || count >= 99.5 ? 0 : 1)}\u00a0${units[unit]}`;
}

/** "4 min"; with `fine`, for what counts down, "4 min 12 s". */
function duration(ms, fine = false) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const join = (a, aUnit, b, bUnit) => `${a}\u00a0${aUnit}${b ? `\u00a0${b}\u00a0${bUnit}` : ""}`;
  if (minutes < 1) return join(seconds, "s");
  if (hours < 1) return join(minutes, "min", fine ? seconds % 60 : 0, "s");
  if (hours < 24) return join(hours, "h", minutes % 60, "min");
  return join(Math.floor(hours / 24), "d", hours % 24, "h");
}

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")}\u00a0${count === 1 ? one : many}`;
const sentenceCase = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const moment = (text) => (text ? Date.parse(text) : null);

// --- The daemon's clock --------------------------------------------------------------------------------------------

// Ages and countdowns go by the daemon's `now`, carried on by a clock nobody sets: the browser's own may be wrong.
let clockOffset = 0;
let receivedAt = 0;
const serverNow = () => performance.now() + clockOffset;

// --- The document --------------------------------------------------------------------------------------------------

/** A copy of a template's element, and its parts by their `data-ref`. */
function instantiate(template) {
  const node = $(template).content.firstElementChild.cloneNode(true);
  const refs = { node };
  for (const part of node.querySelectorAll("[data-ref]")) refs[part.dataset.ref] = part;
  return refs;
}

// Most of a snapshot is what the last one said; only what differs touches the document.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}
function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}
/** A text that may be absent: then its element is, too. */
function setOptional(node, text) {
  setText(node, text ?? "");
  setHidden(node, !text);
}

function setProgress(bar, fraction) {
  if (fraction === null) bar.removeAttribute("value");
  else setAttribute(bar, "value", Math.min(1, fraction).toFixed(3));
}

/** Makes `nodes` the children of `parent`, in this order, moving as few as it can: a moved element loses its focus. */
function arrange(parent, nodes) {
  let cursor = parent.firstElementChild;
  for (const node of nodes) {
    // One that went further down would otherwise make all the others move up past it.
    if (cursor && cursor !== node && cursor.nextElementSibling === node) {
      cursor.remove();
      cursor = node;
    }
    if (cursor === node) cursor = cursor.nextElementSibling;
    else parent.insertBefore(node, cursor);
  }
  while (cursor) {
    const next = cursor.nextElementSibling;
    cursor.remove();
    cursor = next;
  }
}

/** Brings the map `views` in line with `items`: new ones are made, kept ones updated, gone ones dropped. */
function keyed(views, items, keyOf, make) {
  const seen = new Set();
  const result = items.map((item) => {
    const key = keyOf(item);
    seen.add(key);
    if (!views.has(key)) views.set(key, make(item));
    const view = views.get(key);
    view.update(item);
    return view;
  });
  for (const key of views.keys()) if (!seen.has(key)) views.delete(key);
  return result;
}

// --- What lasts as long as the tab ---------------------------------------------------------------------------------

// A browser may forbid storage; the page then only forgets.
function recall(key, otherwise) {
  try {
    return sessionStorage.getItem(key) ?? otherwise;
  } catch {
    return otherwise;
  }
}
function remember(key, value) {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    // Nothing to be done.
  }
}

// --- One export ----------------------------------------------------------------------------------------------------

const stateOf = (item) => STATES[item.state] ?? { word: item.state, kind: "other" };

/** How far it is, from 0 to 1: by bytes where all sizes are known, else by parts. */
function fractionOf({ state, bytes: size, parts }) {
  if (state === "whole") return 1;
  if (size.total) return size.done / size.total;
  return parts.total ? parts.done / parts.total : 0;
}

function amountOf({ parts, bytes: size, state }) {
  if (!parts.total) return state === "polling" ? "No files yet" : "";
  const of = (done, total) => (done === total ? "" : `${done} of `);
  const amount = size.total && size.done !== size.total ? `${bytes(size.done)} of ${bytes(size.total)}` : bytes(size.done);
  return `${of(parts.done, parts.total)}${plural(parts.total, "part")} · ${amount}`;
}

class PartView {
  constructor(exportId) {
    this.exportId = exportId;
    this.refs = instantiate("part-template");
    this.node = this.refs.node;
  }

  update({ part, file, bytes: done, total }) {
    const { name, bar, amount } = this.refs;
    setText(name, `Part ${part} · ${file}`);
    setText(amount, total ? `${bytes(done)} of ${bytes(total)}` : bytes(done));
    setProgress(bar, total ? done / total : null);
    setAttribute(bar, "aria-label", `Part ${part} of ${this.exportId}`);
  }
}

class ExportView {
  constructor({ id }) {
    this.refs = instantiate("export-template");
    this.node = this.refs.node;
    this.parts = new Map();
    setText(this.refs.id, id);
    setAttribute(this.refs.bar, "aria-label", `Progress of ${id}`);
  }

  update(item) {
    // Of a thousand exports a handful changes between two snapshots; telling so is cheaper than asking the document.
    const told = JSON.stringify(item);
    if (told === this.told) return;
    this.told = told;
    const { refs } = this;
    const { word, kind } = stateOf(item);
    this.item = item;
    this.kind = kind;
    this.since = moment(item.since);
    this.nextPoll = moment(item.next_poll_at);
    this.fraction = fractionOf(item);
    setAttribute(this.node, "data-kind", kind);
    setText(refs.state, word);
    setAttribute(refs.age, "datetime", item.since);
    this.showRemote(item.remote_status, item.state);
    setProgress(refs.bar, this.fraction);
    setHidden(refs.bar, !item.parts.total || item.state === "whole");
    setText(refs.amount, amountOf(item));
    setOptional(refs.cause, item.failure && sentenceCase(item.failure.cause));
    this.showParts(item.active_parts);
  }

  showRemote(status, state) {
    const { track, remote } = this.refs;
    const step = REMOTE_STEPS.indexOf(status) + 1;
    const words = status ?? (state === "polling" ? "Not known yet" : "Not known");
    setAttribute(track, "data-step", status && !step ? "other" : String(step));
    setAttribute(track, "aria-label", `At Batch: ${words}${step ? `, step ${step} of ${REMOTE_STEPS.length}` : ""}`);
    setText(remote, words);
  }

  showParts(active) {
    const views = keyed(this.parts, active, (part) => part.part, () => new PartView(this.item.id));
    arrange(this.refs.parts, views.map((view) => view.node));
    setHidden(this.refs.parts, active.length === 0);
  }

  /** What changes with the time alone. */
  tick(now, paused) {
    const { age, pace, hint } = this.refs;
    setText(age, `for ${duration(now - this.since)}`);
    const [main, more] = this.paceWords(now, paused);
    setText(pace, main);
    setText(hint, more);
  }

  paceWords(now, paused) {
    const { state, bytes: size, bytes_per_second: rate, failure } = this.item;
    if (failure) return [sentenceCase(failure.kind.replaceAll("_", " ")), failure.code ?? ""];
    if (state === "fetching") {
      if (!rate) return [paused ? "Paused" : "Waiting to go on", ""];
      const left = size.total ? `${duration(((size.total - size.done) / rate) * 1000)} left` : "";
      return [`${bytes(rate)}/s`, left];
    }
    if (state !== "polling") return ["", ""];
    if (this.nextPoll === null) return [paused ? "Paused" : "", ""];
    const wait = this.nextPoll - now;
    return wait < 500 ? ["Asking now", ""] : [duration(wait, true), "to the next poll"];
  }
}

const ORDERS = {
  name: () => 0,
  state: (a, b) => STATE_ORDER.indexOf(a.item.state) - STATE_ORDER.indexOf(b.item.state),
  age: (a, b) => a.since - b.since,
  progress: (a, b) => b.fraction - a.fraction,
};

// --- One project ---------------------------------------------------------------------------------------------------

function countKinds(views) {
  const counts = { waiting: 0, downloading: 0, whole: 0, failed: 0 };
  for (const view of views) if (view.kind in counts) counts[view.kind] += 1;
  return counts;
}

class ProjectView {
  constructor({ name }) {
    this.refs = instantiate("project-template");
    this.node = this.refs.node;
    this.exports = new Map();
    this.views = [];
    setText(this.refs.name, name);
    const key = `closed:${name}`;
    this.node.open = recall(key, "no") === "no";
    this.node.addEventListener("toggle", () => remember(key, this.node.open ? "no" : "yes"));
  }

  update(project) {
    this.project = project;
    const known = this.exports.size;
    this.views = keyed(this.exports, project.exports, (item) => item.id, (item) => new ExportView(item));
    if (this.exports.size !== known || !this.rank || this.views.some((view) => !this.rank.has(view))) this.rankNames();
    const counts = countKinds(this.views);
    const words = Object.keys(KINDS).filter((kind) => counts[kind]).map((kind) => `${counts[kind]} ${KINDS[kind].toLowerCase()}`);
    setText(this.refs.counts, words.join(" · "));
    for (const piece of this.refs.mix.children) piece.style.flexGrow = counts[piece.dataset.kind];
    setHidden(this.refs.mix, this.views.length === 0);
    setHidden(this.refs.empty, this.views.length > 0);
  }

  // Comparing names is the slow part of sorting a thousand, and they never change.
  rankNames() {
    const sorted = [...this.views].sort((a, b) => byName(a.item.id, b.item.id));
    this.rank = new Map(sorted.map((view, place) => [view, place]));
  }

  /** Shows the exports that the filter wants, sorted; returns how many. */
  show(wants, order) {
    const wanted = this.views.filter((view) => wants(this.project, view));
    wanted.sort((a, b) => order(a, b) || this.rank.get(a) - this.rank.get(b));
    arrange(this.refs.rows, wanted.map((view) => view.node));
    return wanted.length;
  }

  tick(now, origin) {
    const pause = this.project.pauses[0] ?? origin;
    setOptional(this.refs.paused, pause && `Paused: ${PAUSES[pause.reason] ?? pause.words}${goesOn(pause.until, now, " · goes on")}`);
    // A closed group shows none of its rows; they are brought up to date when it opens.
    if (this.node.open) for (const view of this.views) view.tick(now, Boolean(pause));
  }
}

function goesOn(until, now, prefix) {
  if (!until) return "";
  const wait = moment(until) - now;
  return wait < 500 ? `${prefix} now` : `${prefix} in ${duration(wait, true)}`;
}

// --- What needs attention ------------------------------------------------------------------------------------------

/** What someone should look at, the widest trouble first. */
function troubles({ origin, disk, reloads, projects }) {
  const list = [];
  if (origin) {
    list.push({ key: "origin", tone: "warn", title: "The API", words: origin.words, until: origin.until,
      advice: "Nothing to do: every project waits, and goes on by itself." });
  }
  if (disk.ill) {
    list.push({ key: "disk", tone: "bad", title: "The disk", words: "downloads wait, because files cannot be written now",
      advice: "Look at free space and at the mount; the daemon looks again every few seconds." });
  }
  if (reloads.last_refusal) {
    list.push({ key: "reload", tone: "warn", title: "The configuration", words: `the last reload was refused: ${reloads.last_refusal}`,
      advice: "The configuration before it stays in force. Mend the file; the daemon reads it again.",
      command: "batch-export-watcher check" });
  }
  for (const { name, pauses } of projects) {
    for (const pause of pauses) {
      list.push({ ...pause, key: `pause ${name} ${pause.reason}`, title: `Project ${name}`, tone: pause.until ? "warn" : "bad" });
    }
  }
  return list.concat(failures(projects));
}

function failures(projects) {
  return projects.flatMap(({ name, exports }) => exports.filter((item) => item.failure).map(({ id, failure }) => ({
    key: `failed ${name} ${id}`,
    id,
    tone: "bad",
    title: `${name} / ${id}`,
    words: failure.code ? `${failure.cause} (${failure.code})` : failure.cause,
    advice: failure.advice,
    failed: failure.at,
    command: retryCommand([id]),
  })));
}

const retryCommand = (ids) => `batch-export-watcher retry ${ids.join(" ")}`;

/** Copies, and says on the button what came of it. Off https the clipboard is closed, and the old way is left. */
async function copy(text, button) {
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

class AttentionView {
  constructor() {
    this.refs = instantiate("attention-template");
    this.node = this.refs.node;
    this.refs.copy.addEventListener("click", () => copy(this.trouble.command, this.refs.copy));
  }

  update(trouble) {
    const { title, words, advice, box, command, whose } = this.refs;
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
    const { until, failed } = this.trouble;
    const at = until && ` (${clockTime.format(moment(until))})`;
    const ago = failed && `Failed ${duration(now - moment(failed))} ago`;
    setOptional(this.refs.until, until ? `${goesOn(until, now, "Goes on")}${at}` : ago);
  }
}

const attention = { views: new Map(), shown: [], all: false };

function updateAttention() {
  const list = troubles(snapshot);
  const failed = failures(snapshot.projects);
  const visible = attention.all ? list : list.slice(0, ATTENTION_SHOWN);
  attention.shown = keyed(attention.views, visible, (trouble) => trouble.key, () => new AttentionView());
  arrange($("attention-list"), attention.shown.map((view) => view.node));
  setHidden($("attention"), list.length === 0);
  setText($("attention-count"), String(list.length));
  setHidden($("attention-more"), list.length <= ATTENTION_SHOWN);
  setText($("attention-more"), attention.all ? "Show fewer" : `Show all ${list.length}`);
  setHidden($("copy-all"), failed.length < 2);
}

// --- Summary -------------------------------------------------------------------------------------------------------

const chart = { samples: [] };

/** Throughput as the page has seen it; it begins when the page does, and breaks where the page saw nothing. */
function drawChart() {
  const { samples } = chart;
  const end = samples.at(-1).at;
  while (end - samples[0].at > CHART_WINDOW) samples.shift();
  const span = Math.max(CHART_WINDOW_LEAST, end - samples[0].at);
  const peak = samples.reduce((most, { rate }) => Math.max(most, rate), 0);
  const x = (at) => (600 - ((end - at) / span) * 600).toFixed(1);
  const y = (rate) => (96 - (rate / (peak || 1)) * 90).toFixed(1);
  let line = "";
  let area = "";
  let before = null;
  for (const { at, rate } of samples) {
    const joined = before !== null && at - before < CHART_GAP;
    if (!joined && before !== null) area += `L${x(before)} 100Z`;
    line += `${joined ? "L" : "M"}${x(at)} ${y(rate)}`;
    area += `${joined ? "L" : `M${x(at)} 100L`}${x(at)} ${y(rate)}`;
    before = at;
  }
  setAttribute($("chart").querySelector(".line"), "d", line);
  setAttribute($("chart").querySelector(".area"), "d", `${area}L${x(end)} 100Z`);
  const words = `last ${duration(span)}, peak ${bytes(peak)}/s`;
  setText($("hint-throughput"), words);
  setAttribute($("chart"), "aria-label", `Throughput over the ${words}`);
}

/** The daemon's sentence without what stands elsewhere: the next poll, which counts down there, and what needs attention. */
const inBrief = (sentence) => sentence.split("; ")[0].replace(/, next poll in [^,]*/, "");

function updateSummary(counts) {
  const { slots, sentence, bytes_per_second: rate } = snapshot;
  const all = views.flatMap((project) => project.views);
  const home = all.filter((view) => view.kind === "whole").reduce((sum, view) => sum + view.item.bytes.done, 0);
  // As in the daemon's sentence: what is downloading is being watched, too.
  const tiles = { ...counts, watching: counts.waiting + counts.downloading };
  for (const kind of ["watching", "downloading", "whole", "failed"]) setText($(`tile-${kind}`), tiles[kind].toLocaleString("en"));
  setText($("tile-throughput"), `${bytes(rate)}/s`);
  setText($("hint-downloading"), `${slots.in_use} of ${plural(slots.max, "slot")} in use`);
  setText($("hint-whole"), counts.whole ? `${bytes(home)} at home` : "none yet");
  setText($("hint-failed"), counts.failed ? "see below" : "none");
  setText($("sentence"), sentenceCase(inBrief(sentence)));
  $("tile-failed").closest(".tile").classList.toggle("alarm", counts.failed > 0);
  drawChart();
}

function tickSummary(now) {
  const polls = views.flatMap((project) => project.views).map((view) => view.nextPoll).filter((at) => at !== null);
  const wait = polls.length ? Math.min(...polls) - now : null;
  setText($("hint-watching"), wait === null ? "no poll planned" : wait < 500 ? "asking now" : `next poll in ${duration(wait, true)}`);
  const since = moment(snapshot.started_at);
  setText($("footer"), `batch-export-watcher ${snapshot.version} · running for ${duration(now - since)}, since ${fullTime.format(since)}`);
}

// --- Filter and order ----------------------------------------------------------------------------------------------

const choice = { text: recall("text", ""), kind: recall("kind", "all"), sort: recall("sort", "state") };
const chips = new Map();

function choose(changed) {
  Object.assign(choice, changed);
  for (const [key, value] of Object.entries(changed)) remember(key, value);
  if (snapshot) render();
}

function makeTools() {
  for (const [kind, name] of Object.entries({ all: "All", ...KINDS })) {
    const chip = instantiate("chip-template");
    setText(chip.name, name);
    chip.node.dataset.kind = kind;
    chip.node.addEventListener("click", () => choose({ kind }));
    chips.set(kind, chip);
    $("chips").append(chip.node);
  }
  $("filter-text").value = choice.text;
  $("sort").value = choice.sort;
  $("filter-text").addEventListener("input", (event) => choose({ text: event.target.value }));
  $("sort").addEventListener("change", (event) => choose({ sort: event.target.value }));
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  $("filter-clear").addEventListener("click", () => {
    $("filter-text").value = "";
    choose({ text: "", kind: "all" });
    $("filter-text").focus();
  });
  $("attention-more").addEventListener("click", () => {
    attention.all = !attention.all;
    render();
  });
  $("copy-all").addEventListener("click", (event) => {
    copy(retryCommand(failures(snapshot.projects).map((failure) => failure.id)), event.currentTarget);
  });
}

function updateProjects(counts, total) {
  const text = choice.text.trim().toLowerCase();
  const narrowed = text !== "" || choice.kind !== "all";
  const wants = (project, view) => (choice.kind === "all" || choice.kind === view.kind)
    && (!text || `${project.name}/${view.item.id}`.toLowerCase().includes(text));
  const order = ORDERS[choice.sort] ?? ORDERS.state;
  let shown = 0;
  for (const view of views) {
    const here = view.show(wants, order);
    setHidden(view.node, narrowed && here === 0);
    shown += here;
  }
  for (const [kind, chip] of chips) {
    setText(chip.count, (kind === "all" ? total : counts[kind]).toLocaleString("en"));
    setAttribute(chip.node, "aria-pressed", String(kind === choice.kind));
  }
  const bare = snapshot.projects.length === 0;
  setHidden(document.querySelector(".tools"), bare);
  setHidden($("empty"), !(bare || (narrowed && shown === 0)));
  setHidden($("filter-clear"), bare);
  setText($("empty-words"), bare
    ? "No project yet. Add a [[project]] with its exports to the configuration; the daemon sees it by itself."
    : "No export fits this filter.");
}

// --- What is said aloud --------------------------------------------------------------------------------------------

function announce(text) {
  if (text) $("announcer").textContent = text;
}

let noticeTimer = 0;
function notice(text) {
  setOptional($("notice"), text);
  announce(text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => setOptional($("notice"), snapshot.draining ? DRAINING : null), NOTICE_FOR);
}
const DRAINING = "The daemon is ending: parts in flight come to their end, and no new one begins.";

/** Only what someone would get up for: failures, exports that came home, pauses. */
function changes(before, after) {
  const list = (of) => of.projects.flatMap(({ name, exports }) => exports.map(({ id, state }) => ({ key: `${name}/${id}`, id, state })));
  const old = new Map(list(before).map(({ key, state }) => [key, state]));
  const changed = list(after).filter(({ key, state }) => old.has(key) && old.get(key) !== state);
  const paused = ({ projects }) => projects.filter(({ pauses }) => pauses.length).map(({ name }) => name);
  const say = (state, one, many) => {
    const those = changed.filter((item) => item.state === state);
    if (those.length === 0) return [];
    return those.length === 1 ? `${those[0].id} ${one}.` : `${those.length} exports ${many}.`;
  };
  const stopped = paused(after).filter((name) => !paused(before).includes(name));
  return [say("failed", "failed", "failed"), say("whole", "is whole", "are whole"), stopped.map((name) => `Project ${name} is paused.`)]
    .flat().join(" ");
}

// --- Snapshots -----------------------------------------------------------------------------------------------------

const projects = new Map();
let views = [];
let snapshot = null;
let frame = 0;

function receive(next) {
  const before = snapshot;
  snapshot = next;
  receivedAt = performance.now();
  clockOffset = moment(next.now) - receivedAt;
  chart.samples.push({ at: receivedAt, rate: next.bytes_per_second });
  setLink("live");
  if (before && before.started_at !== next.started_at) restarted(before);
  else if (before) announce(changes(before, next));
  if (next.draining && !before?.draining) notice(DRAINING);
  // A tab in the background draws when it is looked at, once, whatever came meanwhile.
  frame ||= requestAnimationFrame(render);
}

function restarted(before) {
  // Another version may speak otherwise: take the page that belongs to it.
  if (before.version !== snapshot.version) location.reload();
  chart.samples = chart.samples.slice(-1);
  notice("The daemon was started again; ages count from there.");
}

function render() {
  frame = 0;
  setHidden($("main"), false);
  views = keyed(projects, snapshot.projects, (project) => project.name, (project) => new ProjectView(project));
  arrange($("projects"), views.map((view) => view.node));
  const all = views.flatMap((view) => view.views);
  const counts = countKinds(all);
  updateSummary(counts);
  updateAttention();
  updateProjects(counts, all.length);
  document.title = `${counts.failed ? `${counts.failed} failed · ` : ""}Batch Export Watcher`;
  tick();
}

function tick() {
  tickLink();
  if (!snapshot || document.hidden) return;
  const now = serverNow();
  tickSummary(now);
  for (const view of attention.shown) view.tick(now);
  for (const view of views) view.tick(now, snapshot.origin);
}

// --- The connection ------------------------------------------------------------------------------------------------

let link = "connecting";
const LINK_WORDS = { connecting: "Connecting", live: "Live", lost: "Connection lost" };

function setLink(state) {
  if (state === link) return;
  if (state === "lost") announce("Connection to the daemon lost, trying again.");
  if (state === "live" && link === "lost") announce("Connected again.");
  link = state;
  document.body.dataset.link = state;
  setText($("link-words"), LINK_WORDS[state]);
  tickLink();
}

function tickLink() {
  const age = snapshot ? ` What you see is ${duration(performance.now() - receivedAt, true)} old.` : "";
  setOptional($("lost"), link === "lost" ? `Connection lost, trying again.${age}` : null);
}

let source = null;
function connect() {
  source = new EventSource("api/v1/events");
  source.addEventListener("snapshot", (event) => receive(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    setLink("lost");
    // It connects again by itself, unless the answer was no stream at all, such as a proxy's 502.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RECONNECT_AFTER);
  });
}

// A dead network can leave a stream open and silent. So silence is not trusted: after a while, ask.
let asking = false;
async function checkSilence() {
  if (asking || link === "lost" || !snapshot || performance.now() - receivedAt < QUIET_FOR) return;
  asking = true;
  try {
    const answer = await fetch("api/v1/status", { cache: "no-store", signal: AbortSignal.timeout(5_000) });
    receive(await answer.json());
  } catch {
    setLink("lost");
    source.close();
    setTimeout(connect, RECONNECT_AFTER);
  } finally {
    asking = false;
  }
}

makeTools();
connect();
setInterval(tick, 1_000);
setInterval(checkSilence, 2_000);
document.addEventListener("visibilitychange", tick);
document.addEventListener("toggle", () => snapshot && tick(), true);
