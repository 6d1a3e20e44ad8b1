// Small tools of the page: words for numbers, changes to the document, what a tab remembers.

export const $ = (id) => document.getElementById(id);

// --- Words for numbers ---------------------------------------------------------------------------------------------

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; count >= 999.5 && unit < units.length - 1; unit += 1) count /= 1000;
  return `${count.toFixed(unit === 0 || count >= 99.5 ? 0 : 1)}\u00a0${units[unit]}`;
}

/** "4 min"; with `fine`, for what counts down, "4 min 12 s". */
export function duration(ms, fine = false) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const join = (a, aUnit, b, bUnit) => `${a}\u00a0${aUnit}${b ? `\u00a0${b}\u00a0${bUnit}` : ""}`;
  if (minutes < 1) return join(seconds, "s");
  if (hours < 1) return join(minutes, "min", fine ? seconds % 60 : 0, "s");
  if (hours < 24) return join(hours, "h", minutes % 60, "min");
  return join(Math.floor(hours / 24), "d", hours % 24, "h");
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")}\u00a0${count === 1 ? one : many}`;
export const sentenceCase = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const moment = (text) => (text ? Date.parse(text) : null);

// --- The document --------------------------------------------------------------------------------------------------

/** A copy of a template's element, and its parts by their `data-ref`. */
export function instantiate(template) {
  const node = $(template).content.firstElementChild.cloneNode(true);
  const refs = { node };
  for (const part of node.querySelectorAll("[data-ref]")) refs[part.dataset.ref] = part;
  return refs;
}

// Most of a snapshot is what the last one said; only what differs touches the document.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}
/** A text that may be absent: then its element is, too. */
export function setOptional(node, text) {
  setText(node, text ?? "");
  setHidden(node, !text);
}

export function setProgress(bar, fraction) {
  if (fraction === null) bar.removeAttribute("value");
  else setAttribute(bar, "value", Math.min(1, fraction).toFixed(3));
}

/** Makes `nodes` the children of `parent`, in this order, moving as few as it can: a moved element loses its focus. */
export function arrange(parent, nodes) {
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

/** Makes the map `views` match `items`: creates new views, updates kept ones and drops the others. */
export function keyed(views, items, keyOf, make) {
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
export function recall(key, otherwise) {
  try {
    return sessionStorage.getItem(key) ?? otherwise;
  } catch {
    return otherwise;
  }
}
export function remember(key, value) {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    // Nothing to be done.
  }
}

// --- What is said aloud ---------------------------------------------------------------------------------------------

export function announce(text) {
  if (text) $("announcer").textContent = text;
}
