// How times, durations and sizes are written.

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "narrow" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const WALL = { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZone: "UTC" } as const;

/** How long ago, or until when. */
export function ago(at: string): string {
  const seconds = (Date.parse(at) - Date.now()) / 1000;
  if (Math.abs(seconds) < 3) return "now";
  if (seconds < -7 * 86400) return (isThisYear(at) ? DAY : YEAR).format(new Date(at));
  const [unit, size] = UNITS.find(([, least]) => Math.abs(seconds) >= least) ?? ["second", 1];
  return RELATIVE.format(Math.trunc(seconds / size), unit);
}

const isThisYear = (at: string): boolean => new Date(at).getFullYear() === new Date().getFullYear();

/** The day and the time that a clock of another zone shows, of a time with the offset of that zone. */
export function wall(local: string): string {
  const shown = local.slice(0, 19);
  const seconds = shown.slice(17) === "00" ? {} : ({ second: "2-digit" } as const);
  return new Intl.DateTimeFormat("en-GB", { ...WALL, ...seconds }).format(new Date(`${shown}Z`));
}

/** A time with its day and its zone. */
export const inFull = (at: string): string => FULL.format(new Date(at));

/** A time of the day to the millisecond. */
export const clock = (at: string): string => CLOCK.format(new Date(at));

/** A time to the millisecond, with its day where that is not this one. */
export function moment(at: string): string {
  const then = new Date(at);
  return then.toDateString() === new Date().toDateString() ? clock(at) : `${(isThisYear(at) ? DATE : YEAR).format(then)} ${clock(at).slice(0, 8)}`;
}

/** A duration of so many milliseconds. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${ms < 10 ? Number(ms.toFixed(1)) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const minutes = Math.floor(ms / 60_000);
  const [large, small] = minutes < 60 ? [`${minutes} min`, [Math.floor((ms % 60_000) / 1000), "s"]] : [`${Math.floor(minutes / 60)} h`, [minutes % 60, "min"]];
  return small[0] ? `${large} ${small.join(" ")}` : large;
}

/** A text in which each id is its end, as everywhere in the console. */
export const short = (text: string): string => text.replace(/\b(?:[0-9a-f]{4,8}-){4}[0-9a-f]{4}([0-9a-f]{8})\b/g, "…$1");

// What turns the direction of the text after it, or cannot be seen: code and data must not look other than they are.
const UNSEEN = /[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text in which characters that would hide or turn around others are written as escapes. */
export const plainly = (text: string): string => text.replace(UNSEEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** So many bytes. */
export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = 0;
  while (count >= 1024 && n < units.length - 1) {
    count /= 1024;
    n++;
  }
  return `${n === 0 ? count : count.toFixed(1)} ${units[n]}`;
}
