// The timeline of a run: its wait for a worker, its attempts, and the steps within them, on one scale.
import type { Schemas } from "../api/client";
import { duration } from "./formats";

type Mark = { name: string; kind: string; from: number; to: number; tone: string; says: string };

/** Bars for what took time, one under the other. */
export function Timeline({ run, attempts, steps }: { run: Schemas["RunView"]; attempts: Schemas["AttemptView"][]; steps: Schemas["StepView"][] }) {
  const begin = Date.parse(run.requested_at);
  const end = run.finished_at ? Date.parse(run.finished_at) : Date.now();
  const marks: Mark[] = [];
  const started = run.started_at ? Date.parse(run.started_at) : end;
  marks.push({ name: "Waited for a worker", kind: "queue", from: begin, to: started, tone: "held", says: duration(started - begin) });
  for (const one of attempts) {
    const [from, to] = [Date.parse(one.started_at), one.finished_at ? Date.parse(one.finished_at) : end];
    const tone = one.status === "succeeded" ? "good" : one.status === "running" || one.status === "started" ? "busy" : one.status === "waiting" ? "held" : "bad";
    marks.push({ name: `Attempt ${one.attempt}`, kind: "attempt", from, to, tone, says: `${one.status.replace("_", " ")}, ${duration(to - from)}${one.reason ? `, ${one.reason}` : ""}` });
    let since = from;
    for (const step of steps.filter((each) => each.attempt === one.attempt)) {
      const at = Date.parse(step.completed_at);
      marks.push({ name: step.name, kind: step.kind, from: Math.min(since, at), to: at, tone: step.timed_out || step.given_up ? "bad" : "step", says: `${step.kind}${step.timed_out ? ", timed out" : ""}` });
      since = at;
    }
  }
  const whole = Math.max(1, end - begin);
  return (
    <ol class="timeline">
      {marks.slice(0, 200).map((one, n) => (
        <li key={n} class={one.kind}>
          <span class="name">{one.name}</span>
          <span class="track"><span class={`mark ${one.tone}`} style={{ left: `${(100 * (one.from - begin)) / whole}%`, width: `${Math.max(0.4, (100 * (one.to - one.from)) / whole)}%` }} /></span>
          <span class="says">{one.says}</span>
        </li>
      ))}
    </ol>
  );
}
