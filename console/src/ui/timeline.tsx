// The timeline of a run: its wait for a worker, its attempts, the steps, waits and child runs within them, on one scale.
import type { ComponentChildren } from "preact";

import type { Schemas } from "../api/client";
import { to } from "../app/router";
import { duration } from "./formats";

type Mark = { name: ComponentChildren; kind: string; from: number; to: number; tone: string; says: ComponentChildren };
const MOST = 200;
const TONES: Record<string, string> = { succeeded: "good", running: "busy", started: "busy", waiting: "held", queued: "held", requested: "held", released: "held" };
const GOES_ON: Record<string, true> = { requested: true, queued: true, running: true, waiting: true };
// Steps that are the end of a wait.
const WAITS = new Set(["sleep", "signal", "ask", "event", "run"]);

/** Bars for what took time, one under the other; `known` are the runs of its chain, by id. */
export function Timeline({ run, attempts, steps, known }: { run: Schemas["RunView"]; attempts: Schemas["AttemptView"][]; steps: Schemas["StepView"][]; known: Map<string, Schemas["Cause"]> }) {
  const begin = Date.parse(run.requested_at);
  const end = run.finished_at ? Date.parse(run.finished_at) : Date.now();
  const marks: Mark[] = [];
  const started = run.started_at ? Date.parse(run.started_at) : end;
  const over = new Map(steps.filter((one) => one.kind === "run").map((one) => [one.name, Date.parse(one.completed_at)]));
  marks.push({ name: "Waited for a worker", kind: "queue", from: begin, to: started, tone: "held", says: duration(started - begin) });
  attempts.forEach((one, n) => {
    const [from, until] = [Date.parse(one.started_at), one.finished_at ? Date.parse(one.finished_at) : end];
    marks.push({ name: `Attempt ${one.attempt}`, kind: "attempt", from, to: until, tone: TONES[one.status] ?? "bad", says: `${one.status.replace("_", " ")}, ${duration(until - from)}${one.reason ? `, ${one.reason}` : ""}` });
    let since = from;
    for (const step of steps.filter((each) => each.attempt === one.attempt)) {
      const at = Date.parse(step.completed_at);
      const child = step.kind === "start" && typeof step.result === "string" ? step.result : null;
      if (child !== null) {
        const status = known.get(child)?.status;
        // When one has ended that nobody waits for is not known here.
        const last = over.get(child) ?? (!status || status in GOES_ON ? end : at);
        marks.push({ name: <a href={to(`/runs/${child}`)}>{step.name}</a>, kind: "child", from: at, to: last, tone: TONES[status ?? "started"] ?? "bad", says: `child run${status ? `, ${status.replace("_", " ")}` : ""}${over.has(child) ? `, ${duration(last - at)}` : ""}` });
      } else if (step.kind !== "run" || !steps.some((each) => each.kind === "start" && each.result === step.name))
        marks.push({ name: step.name, kind: step.kind, from: Math.min(since, at), to: at, tone: step.timed_out || step.given_up ? "bad" : WAITS.has(step.kind) ? "held" : "step", says: `${step.kind}${step.attempt === 0 ? "" : `, ${duration(Math.max(0, at - since))}`}${step.timed_out ? ", timed out" : step.given_up ? ", given up" : ""}` });
      since = at;
    }
    const next = attempts[n + 1];
    if (one.status !== "waiting" || !one.finished_at) return;
    const resumed = next ? Date.parse(next.started_at) : end;
    const what = next ? "" : run.waits.map((each) => each.kind === "ask" ? "an answer" : each.kind === each.name ? each.name : `${each.kind} ${known.get(each.name)?.what ?? each.name}`).join(", ") || run.blocked_on;
    marks.push({ name: "Waited", kind: "queue", from: until, to: resumed, tone: "held", says: `${duration(resumed - until)}${what ? `, for ${what}` : ""}` });
  });
  const whole = Math.max(1, end - begin);
  return (
    <>
      <ol class="timeline">
        {marks.slice(0, MOST).map((one, n) => (
          <li key={n} class={one.kind}>
            <span class="name">{one.name}</span>
            <span class="track"><span class={`mark ${one.tone}`} style={{ left: `${Math.min(99.6, (100 * (one.from - begin)) / whole)}%`, width: `${Math.max(0.4, (100 * (one.to - one.from)) / whole)}%` }} /></span>
            <span class="says" title={typeof one.says === "string" ? one.says : undefined}>{one.says}</span>
          </li>
        ))}
      </ol>
      {marks.length > MOST && <p class="minor">{marks.length - MOST} more are not drawn.</p>}
    </>
  );
}
