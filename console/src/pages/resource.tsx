// One resource: what it is, changed and removed; or a new one.
import { useEffect, useState } from "preact/hooks";

import { asProblem } from "../api/asked";
import { type Fault, type Operation, Problem, called, may } from "../api/client";
import { type Schema, operationOf, useBody } from "../api/description";
import { KINDS } from "../app/kinds";
import { go, to } from "../app/router";
import { Fields } from "../ui/form";
import { Json } from "../ui/json";
import { Act, Copy, Empty, Facts, Head, Loading, Refusal, Section } from "../ui/parts";
import { Value } from "../ui/value";
import { EXTRAS, WHILE_NEW, useSchemaOf } from "./extras";

type Entity = Record<string, unknown>;

export default function ResourcePage({ kind = "", name = "" }: { kind?: string; name?: string }) {
  const known = KINDS[kind];
  const path = `/api/v1/${kind}/{name}`;
  const operations = { get: operationOf("GET", path), put: operationOf("PUT", path), patch: operationOf("PATCH", path), remove: operationOf("DELETE", path) };
  if (!known || !operations.get) return <Empty>There is no such kind of resource.</Empty>;
  return name === "+" ? <New kind={kind} put={operations.put!} /> : <Existing key={name} kind={kind} name={name} {...operations} />;
}

function New({ kind, put }: { kind: string; put: Operation }) {
  const known = KINDS[kind]!;
  const body = useBody(put);
  const [name, setName] = useState("");
  const [value, setValue] = useState<Entity>({});
  const [problem, setProblem] = useState<Problem | null>(null);
  const [given, setGiven] = useState<Entity | null>(null);
  const schema = useSchemaOf(kind, body, value);
  const Extra = EXTRAS[kind];
  if (!body || !schema) return <Loading />;
  const save = async () => {
    setProblem(null);
    try {
      const { data } = await called(put as "put_source", { path: { name } as never, body: value as never, headers: { "If-None-Match": "*" } });
      const made = data as unknown as Entity;
      if (typeof made.key === "string") setGiven(made);
      else go(to(`/${kind}/${encodeURIComponent(name)}`));
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  if (given)
    return (
      <>
        <Head title={name} of={<a href={to(`/${kind}`)}>{known.title}</a>} />
        <Section title="Its value">
          <p>This is shown once, and nowhere again.</p>
          <pre>{String(given.key)}</pre>
          <div class="actions"><Copy text={String(given.key)} /><a class="button" href={to(`/${kind}/${encodeURIComponent(name)}`)}>Go on</a></div>
        </Section>
      </>
    );
  return (
    <>
      <Head title={`New ${known.one}`} of={<a href={to(`/${kind}`)}>{known.title}</a>} />
      <p class="lead">{known.says}</p>
      <form class="card form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <div class="field"><label for="new-name">name<span class="needed"> required</span></label><input id="new-name" required value={name} aria-invalid={faultsOf(problem).some((one) => one.path === "name") || undefined} onInput={(event) => setName(event.currentTarget.value)} />{faultsOf(problem).filter((one) => one.path === "name").map((one) => <p key={one.message} class="wrong">{one.message}</p>)}</div>
        <Fields schema={schema} value={value} change={setValue} faults={faultsOf(problem)} />
        {problem && <Refusal problem={problem} />}
        <div class="actions"><button class="main">Create</button><a class="button" href={to(`/${kind}`)}>Cancel</a></div>
      </form>
      {Extra && WHILE_NEW.has(kind) && <Extra entity={{}} draft={value} name="" again={async () => undefined} />}
    </>
  );
}

function Existing({ kind, name, get, patch, remove }: { kind: string; name: string; get: Operation | null; patch: Operation | null; remove: Operation | null }) {
  const known = KINDS[kind]!;
  const [entity, setEntity] = useState<Entity | null>(null);
  const [etag, setEtag] = useState<string | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [changes, setChanges] = useState<Entity>({});
  const [refused, setRefused] = useState<Problem | null>(null);
  // Fields that have a text of their own are made anew with it.
  const [round, setRound] = useState(0);
  const body = useBody(patch && may(patch) && !known.recorded ? (operationOf("PUT", `/api/v1/${kind}/{name}`) as Operation) : null);
  const load = async () => {
    try {
      const { data, etag: tag } = await called(get as "get_source", { path: { name } });
      setEntity(data as unknown as Entity);
      setEtag(tag);
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  useEffect(() => void load(), [name]);
  const schema = useSchemaOf(kind, body, { ...entity, ...changes });
  if (problem) return <Refusal problem={problem} again={load} />;
  if (!entity) return <Loading />;
  const save = async () => {
    setRefused(null);
    try {
      await called(patch as "patch_source", { path: { name }, body: changes as never, ...(etag && { headers: { "If-Match": etag } }) });
      await load();
      // What was typed while it was on its way stays.
      setChanges((now) => Object.fromEntries(Object.entries(now).filter(([field, one]) => JSON.stringify(one) !== JSON.stringify(changes[field]))));
    } catch (error) {
      setRefused(asProblem(error));
    }
  };
  const Extra = EXTRAS[kind];
  const fields = new Set(Object.keys(schema?.properties ?? {}));
  const others = Object.entries(entity).filter(([field]) => !fields.has(field) && !["id", "org", "name", "version", "applied_as"].includes(field));
  return (
    <>
      <Head title={name} of={<a href={to(`/${kind}`)}>{known.title}</a>}>
        {remove && may(remove) && <Act kind="bad" confirm={`The ${known.one} ${name} is removed. Its history stays.`} does={async () => { await called(remove as "delete_source", { path: { name }, ...(etag && { headers: { "If-Match": etag } }) }); go(to(`/${kind}`)); }}>Remove</Act>}
      </Head>
      <div class={Extra ? "resource both" : "resource"}>
      {Extra && <div><Extra entity={entity} draft={{ ...entity, ...changes }} name={name} again={load} /></div>}
      <div>
      {schema ? (
        <form key={round} class="card form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
          <Fields schema={optional(schema)} value={{ ...shown(entity, schema), ...changes }} change={(value) => setChanges(changed(shown(entity, schema), value))} faults={faultsOf(refused)} />
          {refused && <Refusal problem={refused} />}
          <div class="actions"><button class="main" disabled={Object.keys(changes).length === 0}>Save</button>{Object.keys(changes).length > 0 && <button type="button" onClick={() => { setChanges({}); setRound(round + 1); void load(); }}>Discard changes</button>}</div>
        </form>
      ) : (
        <Section title="Fields"><Facts of={Object.entries(entity).filter(([, value]) => typeof value !== "object" || value === null).map(([field, value]) => [field.replace(/_/g, " "), <Value of={value} name={field} />])} /></Section>
      )}
      <Section title="Details">
        <Facts of={others.filter(([, value]) => typeof value !== "object" || value === null).map(([field, value]) => [FIELDS[field] ?? field.replace(/_at$/, "").replace(/_/g, " "), value === null ? null : <Value of={value} name={field} />])} />
        {others.filter(([, value]) => typeof value === "object" && value !== null && Object.keys(value).length > 0).map(([field, value]) => <div key={field}><h3>{field.replace(/_/g, " ")}</h3><Json of={value} open={1} /></div>)}
        <Facts of={[["Version", String(entity.version ?? "")], ["Id", <code>{String(entity.id ?? "")}</code>], ["Applied as", entity.applied_as ? String(entity.applied_as) : null]]} />
      </Section>
      </div>
      </div>
    </>
  );
}

// Fields of every kind, as the lists call them.
const FIELDS: Record<string, string> = { created_at: "made", updated_at: "changed" };

const optional = (schema: Schema): Schema => ({ ...schema, required: [] });

/** The fields as a form has them: what is sealed is not there, and what refers by an id has the name where there is one. */
function shown(entity: Entity, schema: Schema): Entity {
  return Object.fromEntries(Object.keys(schema.properties ?? {}).map((field) => [field, schema.properties?.[field]?.writeOnly ? undefined : (entity[`${field}_name`] ?? entity[field])]));
}

function changed(was: Entity, value: Entity): Entity {
  return Object.fromEntries(Object.entries(value).filter(([field, one]) => one !== undefined && JSON.stringify(one) !== JSON.stringify(was[field])));
}

const faultsOf = (problem: Problem | null): Fault[] => problem?.faults ?? [];
