// Schedules: when all of them fire, and the list, in which each is paused.
import { useAsked } from "../api/asked";
import { call, may } from "../api/client";
import { useChanges, usePolled } from "../api/live";
import { here, search } from "../app/router";
import { Calendar } from "../ui/calendar";
import { Act, Empty, Refusal, Section } from "../ui/parts";
import { Listed } from "./resources";

const AHEAD: [string, string][] = [["24", "24 hours"], ["168", "7 days"]];

export default function Schedules() {
  const ahead = here.value.searchParams.get("ahead") ?? "24";
  const hours = AHEAD.some(([value]) => value === ahead) ? Number(ahead) : 24;
  const firings = useAsked("list_firings", { query: { hours } });
  const rows = { refresh: () => {} };
  useChanges("type:schedule.* OR type:firing.*", () => { rows.refresh(); void firings.again(); });
  usePolled(firings.again, 60_000);
  const planned = firings.data?.items ?? [];
  return (
    <Listed
      kind="schedules"
      list="list_schedules"
      listens={(refresh) => { rows.refresh = refresh; }}
      column={{ name: "Switch", width: "6.5rem", show: (one) => may("patch_schedule") && (
        <Act small does={async () => { await call("patch_schedule", { path: { name: one.name }, body: { enabled: !one.enabled } as never }); rows.refresh(); await firings.again(); }}>{one.enabled ? "Pause" : "Resume"}</Act>
      ) }}
    >
      <Section title="What fires next" aside={
        <select aria-label="How far ahead" value={String(hours)} onChange={(event) => search({ ahead: event.currentTarget.value })}>{AHEAD.map(([value, says]) => <option key={value} value={value}>{says}</option>)}</select>
      }>
        <Refusal problem={firings.problem} again={firings.again} />
        {firings.data && (planned.every((one) => one.times.length === 0) ? <Empty>Nothing fires in this time.</Empty> : <Calendar of={planned} hours={hours} />)}
      </Section>
    </Listed>
  );
}
