// The page of batch-export-watcher: one snapshot of the daemon in, the same page brought up to date out.
//
// Texts of the daemon are data. They are only ever set as text, never parsed as markup.

import { AttentionView, copy, failures, nextTry, retryCommand, troubles, waitWords } from "./attention.js";
import {
  $, announce, arrange, bytes, duration, instantiate, keyed, moment, plural, recall, remember, sentenceCase, setAttribute, setHidden, setOptional,
  setProgress, setText,
} from "./kit.js";

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
const byName = new Intl.Collator("en", { numeric: true }).compare;
const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

// --- The daemon's clock --------------------------------------------------------------------------------------------

// Ages and countdowns go by the daemon's `now`, carried on by a clock nobody sets: the browser's own may be wrong.
let clockOffset = 0;
let receivedAt = 0;
const serverNow = () => performance.now() + clockOffset;

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
    refs.wait.classList.toggle("long", Boolean(item.waiting?.needs_attention));
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
    const { age, pace, hint, wait } = this.refs;
    setText(age, `for ${duration(now - this.since)}`);
    setOptional(wait, this.item.waiting && waitWords(this.item.waiting, now));
    const [main, more] = this.paceWords(now, paused);
    setText(pace, main);
    setText(hint, more);
  }

  paceWords(now, paused) {
    const { state, bytes: size, bytes_per_second: rate, failure } = this.item;
    if (failure) return [sentenceCase(failure.kind.replaceAll("_", " ")), failure.code ?? ""];
    if (state === "fetching") {
      if (!rate) return [paused ? "Paused" : "Waiting to continue", ""];
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
    setOptional(this.refs.paused, pause && `Paused: ${pause.words}${nextTry(pause, now, " · next try")}`);
    // A closed group shows none of its rows; they are brought up to date when it opens.
    if (this.node.open) for (const view of this.views) view.tick(now, Boolean(pause));
  }
}

const attention = { views: new Map(), shown: [], all: false };

function updateAttention() {
  const list = troubles(snapshot);
  const failed = failures(snapshot.projects, snapshot.commands);
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

function updateSummary(counts) {
  const { slots, summary, bytes_per_second: rate } = snapshot;
  const all = views.flatMap((project) => project.views);
  const whole = all.filter((view) => view.kind === "whole").reduce((sum, view) => sum + view.item.bytes.done, 0);
  // As in the daemon's sentence: an export that is downloaded is watched, too.
  const tiles = { ...counts, watching: counts.waiting + counts.downloading };
  for (const kind of ["watching", "downloading", "whole", "failed"]) setText($(`tile-${kind}`), tiles[kind].toLocaleString("en"));
  setText($("tile-throughput"), `${bytes(rate)}/s`);
  setText($("hint-downloading"), `${slots.in_use} of ${plural(slots.max, "slot")} in use`);
  setText($("hint-whole"), counts.whole ? `${bytes(whole)} on disk` : "none yet");
  setText($("hint-failed"), counts.failed ? "see below" : "none");
  setText($("sentence"), sentenceCase(summary));
  $("tile-failed").closest(".tile").classList.toggle("alarm", counts.failed > 0);
  drawChart();
}

function tickSummary(now) {
  const { next_at: next, under_way: asking } = snapshot.polls;
  const wait = asking ? 0 : next && moment(next) - now;
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
    const { projects: of, commands } = snapshot;
    copy(retryCommand(commands, failures(of, commands).map((failure) => failure.id)), event.currentTarget);
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
    ? "No project yet. Add a [[project]] with its exports to the configuration; the daemon reads it by itself."
    : "No export matches this filter.");
}

// --- What is said aloud --------------------------------------------------------------------------------------------

let noticeTimer = 0;
function notice(text) {
  setOptional($("notice"), text);
  announce(text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => setOptional($("notice"), snapshot.draining ? DRAINING : null), NOTICE_FOR);
}
const DRAINING = "The daemon is stopping: it finishes what is under way and starts nothing new.";

/** Only what is worth an interruption: failures, exports that became whole, pauses. */
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
  notice("The daemon was started again; ages count from that start.");
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
