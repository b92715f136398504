// A value of a field, in one line.
import { duration } from "./formats";
import { Status, Time } from "./parts";

/** Show a value by what it is. */
export function Value({ of, name = "" }: { of: unknown; name?: string }) {
  if (of === null || of === undefined || of === "" || (Array.isArray(of) && of.length === 0)) return <span class="none">{name.endsWith("_at") ? "never" : "–"}</span>;
  if (typeof of === "boolean") return name === "enabled" ? <Status of={of ? "enabled" : "off"} /> : <>{of ? "yes" : "no"}</>;
  if (typeof of === "string") return name.endsWith("_at") || name === "until" ? <Time at={of} /> : name === "status" ? <Status of={of} /> : <>{of}</>;
  if (typeof of === "number" && name === "every") return <>every {duration(of * 1000)}</>;
  if (Array.isArray(of)) return <>{of.map((one) => (typeof one === "object" ? JSON.stringify(one) : String(one))).join(", ")}</>;
  if (typeof of === "object") return <>{Object.entries(of).map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")}</>;
  return <>{String(of)}</>;
}
