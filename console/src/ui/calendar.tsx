// When schedules fire: a line for each on one axis of time, with a mark for every firing.
import type { Schemas } from "../api/client";
import { to } from "../app/router";
import { ago, inFull } from "./formats";

const HOUR = 3_600_000;
// Marks of one line that are still told apart; more of them are a band.
const DENSE = 60;
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric" });

/** The firings of the next `hours`, in the order in which the schedules fire next. */
export function Calendar({ of, hours }: { of: Schemas["PlannedSchedule"][]; hours: number }) {
  const begin = Date.now();
  const whole = hours * HOUR;
  const place = (at: number) => Math.max(0, Math.min(100, (100 * (at - begin)) / whole));
  const lines = of.filter((one) => one.times.length > 0).sort((a, b) => (a.times[0] ?? "").localeCompare(b.times[0] ?? ""));
  return (
    <div class="calendar">
      <div class="axis" aria-hidden="true"><span /><span class="ticks">{ticks(begin, hours).map(([at, says]) => <span key={at} style={{ left: `${place(at)}%` }}>{says}</span>)}</span></div>
      <ol class="timeline">
        {lines.map((one) => {
          const first = one.times[0] ?? "";
          const dense = one.more || one.times.length > DENSE;
          return (
            <li key={one.schedule} class="attempt">
              <a class="name" href={to(`/schedules/${encodeURIComponent(one.schedule)}`)}>{one.schedule}</a>
              <span class="track">
                {dense ? <span class="mark busy band" style={{ left: `${place(Date.parse(first))}%`, width: `${(one.more ? 100 : place(Date.parse(one.times.at(-1) ?? first))) - place(Date.parse(first))}%` }} />
                  : one.times.map((at) => <span key={at} class="mark busy" title={`${one.schedule}, ${inFull(at)}`} style={{ left: `calc(${place(Date.parse(at))}% - 2px)` }} />)}
              </span>
              <span class="says" title={inFull(first)}>{ago(first)}{one.times.length > 1 ? `, ${one.more ? "more than " : ""}${one.times.length} times` : ""}</span>
            </li>
          );
        })}
      </ol>
    </div>
  );
}

/** Round times of the browser's zone with what is written there: hours of a day, midnights of a week. */
function ticks(begin: number, hours: number): [number, string][] {
  const at = new Date(begin);
  const step = hours > 48 ? 24 : 3;
  at.setHours(step === 24 ? 24 : at.getHours() - (at.getHours() % 3) + 3, 0, 0, 0);
  const found: [number, string][] = [];
  while (at.getTime() < begin + hours * HOUR) {
    found.push([at.getTime(), (step === 24 || at.getHours() === 0 ? DAY : CLOCK).format(at)]);
    at.setHours(at.getHours() + step);
  }
  return found;
}
