// The keyboard: one key, or two after one another (`g r`), unless somebody types.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

export interface Shortcut {
  keys: string;
  says: string;
  run: () => void;
}

/** Every shortcut that works now, the ones of the page last. */
export const shortcuts = signal<Shortcut[]>([]);
let first = "";
let firstAt = 0;

/** Have shortcuts for as long as a part of the page is shown. */
export function useShortcuts(given: Shortcut[]): void {
  const latest = useRef(given);
  latest.current = given;
  useEffect(() => {
    const mine = given.map(({ keys, says }, n): Shortcut => ({ keys, says, run: () => latest.current[n]?.run() }));
    shortcuts.value = [...shortcuts.value, ...mine];
    return () => {
      shortcuts.value = shortcuts.value.filter((one) => !mine.includes(one));
    };
  }, []);
}

/** Listen to the keyboard. */
export function listen(): void {
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    const types = at instanceof HTMLElement && (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName));
    if (types && event.key === "Escape") at.blur();
    if (types || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    const both = event.timeStamp - firstAt < 1200 && first ? `${first} ${event.key}` : "";
    const found = shortcuts.value.findLast((one) => one.keys === both) ?? shortcuts.value.findLast((one) => one.keys === event.key);
    first = event.key;
    firstAt = event.timeStamp;
    if (!found) return;
    event.preventDefault();
    first = "";
    found.run();
  });
}
