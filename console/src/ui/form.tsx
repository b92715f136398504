// Forms made of a JSON Schema: a field for each property, what is wrong beside the field that it is in.
import { useEffect, useId, useState } from "preact/hooks";

import { type Schema, operationOf, plain } from "../api/description";
import { type Fault, call } from "../api/client";

type Values = Record<string, unknown>;

const ACRONYMS = /\b(?:api|cel|id|json|nats|url)\b/g;

interface FieldProps {
  name: string;
  schema: Schema;
  required: boolean;
  value: unknown;
  change: (value: unknown) => void;
  faults: Fault[];
  path: string;
}

/** The fields of an object. Values that are undefined are not given. */
export function Fields({ schema, value, change, faults = [], path = "", inOrder = false }: { schema: Schema; value: Values; change: (value: Values) => void; faults?: Fault[]; path?: string; inOrder?: boolean }) {
  const names = Object.keys(schema.properties ?? {});
  // What is needed comes first, unless the order is somebody's choice.
  const ordered = inOrder ? names : [...names.filter((name) => schema.required?.includes(name)), ...names.filter((name) => !schema.required?.includes(name))];
  return (
    <>
      {ordered.map((name) => (
        <Field
          key={name}
          name={name}
          schema={schema.properties?.[name] ?? {}}
          required={schema.required?.includes(name) ?? false}
          value={value[name]}
          change={(one) => change({ ...value, [name]: one })}
          faults={faults}
          path={path ? `${path}.${name}` : name}
        />
      ))}
    </>
  );
}

/** One field with its label, its help and what is wrong with it. */
export function Field({ name, schema, required, value, change, faults, path }: FieldProps) {
  const id = useId();
  const { of, optional } = plain(schema);
  const mine = faults.filter((one) => one.path === path || (!of.properties && one.path.startsWith(`${path}.`)));
  const help = of.description ?? schema.description;
  const label = of.title ?? name.replace(/[_-]/g, " ").replace(ACRONYMS, (one) => one.toUpperCase());
  const described = [help && `${id}-help`, mine.length > 0 && `${id}-bad`].filter(Boolean).join(" ") || undefined;
  const common = { id, "aria-describedby": described, "aria-invalid": mine.length > 0 || undefined };
  const control = () => {
    const fallback = schema.default !== undefined && schema.default !== null ? schema.default : undefined;
    if (of.enum)
      return (
        <select {...common} value={value === undefined || value === null ? "" : String(value)} onChange={(event) => change(of.enum?.find((one) => String(one) === event.currentTarget.value))}>
          {(!required || value === undefined) && <option value="">{fallback !== undefined ? `${fallback} (default)` : "not set"}</option>}
          {of.enum.filter((one) => required || one !== fallback || value === one).map((one) => <option key={String(one)} value={String(one)}>{String(one)}</option>)}
        </select>
      );
    if (of.type === "boolean")
      return (
        <select {...common} value={value === undefined || value === null ? "" : String(value)} onChange={(event) => change(event.currentTarget.value === "" ? undefined : event.currentTarget.value === "true")}>
          {!required && <option value="">{fallback === undefined ? "not set" : fallback ? "yes (default)" : "no (default)"}</option>}
          <option value="true">yes</option>
          <option value="false">no</option>
        </select>
      );
    if (of.type === "integer" || of.type === "number")
      return <input {...common} type="number" step={of.type === "integer" ? 1 : "any"} min={of.minimum} max={of.maximum} placeholder={fallback === undefined ? "" : String(fallback)} value={value === undefined || value === null ? "" : String(value)} onInput={(event) => change(event.currentTarget.value === "" ? empty(optional) : Number(event.currentTarget.value))} />;
    if (of.type === "array" && of.items?.type === "string")
      return <ListInput common={common} value={(value as string[] | undefined) ?? []} change={change} />;
    if (of.type === "string") {
      if (of.writeOnly) return <input {...common} type="password" autocomplete="new-password" placeholder="kept sealed, and never shown again" value={(value as string) ?? ""} onInput={(event) => change(event.currentTarget.value || undefined)} />;
      if (of["x-refers-to"]) return <Reference common={common} kind={of["x-refers-to"]} value={(value as string) ?? ""} change={(one) => change(one || empty(optional))} />;
      if ((of.maxLength ?? 0) >= 4096) return <textarea {...common} rows={3} class="code" spellcheck={false} value={(value as string) ?? ""} onInput={(event) => change(event.currentTarget.value || empty(optional))} />;
      return <input {...common} type="text" placeholder={fallback !== undefined ? String(fallback) : of.format === "date-time" ? "2026-12-31T18:00:00Z" : ""} value={(value as string) ?? ""} onInput={(event) => change(event.currentTarget.value || empty(optional))} />;
    }
    return <JsonInput common={common} value={value} change={change} />;
  };
  if (of.type === "array" && of.items?.properties)
    return (
      <fieldset>
        <legend>{label}</legend>
        {help && <p class="help"><Marked of={help} /></p>}
        <Items schema={of.items} value={(value as Values[] | undefined) ?? []} change={change} faults={faults} path={path} />
      </fieldset>
    );
  if (of.type === "object" && of.properties)
    return Object.keys(of.properties).length === 0 ? null : (
      <fieldset>
        <legend>{label}</legend>
        {help && <p class="help"><Marked of={help} /></p>}
        <Fields schema={of} value={(value as Values) ?? {}} change={change} faults={faults} path={path} />
      </fieldset>
    );
  return (
    <div class="field">
      <label for={id}>{label}{required && <span class="needed"> required</span>}</label>
      {control()}
      {help && <p class="help" id={`${id}-help`}><Marked of={help} /></p>}
      {mine.length > 0 && <p class="wrong" id={`${id}-bad`}>{mine.map((one) => one.message).join("; ")}</p>}
    </div>
  );
}

/** A sentence whose words between backticks are code. */
export function Marked({ of }: { of: string }) {
  return <>{of.split("`").map((part, n) => (n % 2 ? <code key={n}>{part}</code> : part))}</>;
}

/** A list of objects: each with its fields, moved up and down, added and taken out. */
function Items({ schema, value, change, faults, path }: { schema: Schema; value: Values[]; change: (value: unknown) => void; faults: Fault[]; path: string }) {
  const moved = (from: number, to: number) => {
    const made = [...value];
    made.splice(to, 0, ...made.splice(from, 1));
    change(made);
  };
  return (
    <>
      {value.map((one, n) => (
        <details key={n} open={value.length < 4 || !one.name} class="item">
          <summary>{String(one.name ?? n + 1)}</summary>
          <div class="fields">
          <Fields schema={schema} value={one} change={(made) => change(value.map((each, m) => (m === n ? Object.fromEntries(Object.entries(made).filter(([, field]) => field !== undefined)) : each)))} faults={faults} path={`${path}.${n}`} />
          <div class="actions">
            <button type="button" class="small" disabled={n === 0} onClick={() => moved(n, n - 1)}>Up</button>
            <button type="button" class="small" disabled={n === value.length - 1} onClick={() => moved(n, n + 1)}>Down</button>
            <button type="button" class="small" onClick={() => change(value.filter((_, m) => m !== n))}>Take out</button>
          </div>
          </div>
        </details>
      ))}
      <div class="actions"><button type="button" class="small" onClick={() => change([...value, {}])}>Add one</button></div>
    </>
  );
}

const empty = (optional: boolean): null | undefined => (optional ? null : undefined);

function ListInput({ common, value, change }: { common: object; value: string[]; change: (value: unknown) => void }) {
  const [text, setText] = useState(value.join("\n"));
  return <textarea {...common} rows={Math.min(8, Math.max(2, value.length + 1))} placeholder="one a line" value={text} onInput={(event) => { setText(event.currentTarget.value); change(event.currentTarget.value.split("\n").map((one) => one.trim()).filter(Boolean)); }} />;
}

function JsonInput({ common, value, change }: { common: object; value: unknown; change: (value: unknown) => void }) {
  const [text, setText] = useState(value === undefined || value === null ? "" : JSON.stringify(value, null, 2));
  const [wrong, setWrong] = useState("");
  return (
    <>
      <textarea {...common} rows={Math.min(14, Math.max(3, text.split("\n").length))} class="code" spellcheck={false} placeholder="JSON" value={text} onInput={(event) => {
        const typed = event.currentTarget.value;
        setText(typed);
        try {
          change(typed.trim() === "" ? undefined : JSON.parse(typed));
          setWrong("");
        } catch (error) {
          setWrong(error instanceof Error ? error.message : "no JSON");
        }
      }} />
      {wrong && <p class="wrong">{wrong}</p>}
    </>
  );
}

function Reference({ common, kind, value, change }: { common: { id: string }; kind: string; value: string; change: (value: string) => void }) {
  const [names, setNames] = useState<string[]>([]);
  useEffect(() => {
    const list = operationOf("GET", `/api/v1/${kind === "identity" ? "identities" : kind.endsWith("y") ? `${kind.slice(0, -1)}ies` : kind.endsWith("ch") ? `${kind}es` : `${kind}s`}`);
    if (list) void call(list, { query: { limit: 1000 } as never }).then((page) => setNames((page as { items: { name: string }[] }).items.map((one) => one.name)), () => undefined);
  }, [kind]);
  return (
    <>
      <input {...common} type="text" list={`${common.id}-names`} value={value} onInput={(event) => change(event.currentTarget.value)} />
      <datalist id={`${common.id}-names`}>{names.map((one) => <option key={one} value={one} />)}</datalist>
    </>
  );
}
