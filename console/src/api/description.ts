// What the gateway says of its own resources: their fields, for forms and lists that need not know any noun.
import { useEffect, useState } from "preact/hooks";

import { OPERATIONS } from "./operations.gen";
import type { Operation } from "./client";

export interface Schema {
  type?: string | string[];
  enum?: unknown[];
  anyOf?: Schema[];
  $ref?: string;
  $defs?: Record<string, Schema>;
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  required?: string[];
  items?: Schema;
  default?: unknown;
  description?: string;
  title?: string;
  format?: string;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  maxLength?: number;
  minLength?: number;
  writeOnly?: boolean;
  "x-refers-to"?: string;
  "x-merged"?: boolean;
}

interface Document {
  info: { version: string };
  paths: Record<string, Record<string, { summary?: string; requestBody?: { content: Record<string, { schema: Schema; example?: unknown }> } }>>;
  components: { schemas: Record<string, Schema> };
}

let asked: Promise<Document> | null = null;

/** The document of the gateway that is there, asked once. */
export function described(): Promise<Document> {
  asked ??= fetch("/openapi.json").then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(answer.statusText))));
  asked.catch(() => {
    asked = null;
  });
  return asked;
}

/** The schema of what an operation takes, with every reference that it holds put in. */
export function useBody(operation: Operation | null): Schema | null {
  const [schema, setSchema] = useState<Schema | null>(null);
  useEffect(() => {
    let gone = false;
    if (operation === null) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = () =>
      void described().then(
        (document) => {
          const [method, path] = OPERATIONS[operation];
          const body = document.paths[path]?.[method.toLowerCase()]?.requestBody?.content["application/json"]?.schema;
          if (!gone && body) setSchema(whole(body, document.components.schemas, 0));
        },
        // Without it there is no form: it is asked for until it comes.
        () => {
          if (!gone) timer = setTimeout(ask, 2000);
        },
      );
    ask();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [operation]);
  return schema;
}

/** A schema on its own, such as that of a workflow's input, with every reference that it holds put in. */
export const resolved = (schema: Schema): Schema => whole(schema, schema.$defs ?? {}, 0);

/** `within` names what is being put in: a type that holds itself ends there. */
function whole(schema: Schema, all: Record<string, Schema>, deep: number, within: string[] = []): Schema {
  if (deep > 8) return {};
  if (schema.$ref) {
    const { $ref, ...own } = schema;
    const name = $ref.split("/").pop() ?? "";
    if (within.includes(name)) return {};
    const { title, ...named } = whole(all[name] ?? {}, all, deep + 1, [...within, name]);
    // What a type is called is no word for the field that has it.
    return { ...named, ...(title !== name && title !== undefined && { title }), ...own };
  }
  const made = { ...schema };
  if (made.properties) made.properties = Object.fromEntries(Object.entries(made.properties).map(([name, one]) => [name, whole(one, all, deep + 1, within)]));
  if (made.items) made.items = whole(made.items, all, deep + 1, within);
  if (made.anyOf) made.anyOf = made.anyOf.map((one) => whole(one, all, deep + 1, within));
  return made;
}

/** A schema without its null, and whether it may be null. */
export function plain(schema: Schema): { of: Schema; optional: boolean } {
  if (!schema.anyOf) return { of: schema, optional: false };
  const others = schema.anyOf.filter((one) => one.type !== "null");
  const only = others.length === 1 ? others[0] : undefined;
  return { of: only ? { ...only, description: only.description ?? schema.description } : schema, optional: others.length < schema.anyOf.length };
}

/** The operation of a method and a path. */
export function operationOf(method: string, path: string): Operation | null {
  const found = Object.entries(OPERATIONS).find(([, [m, p]]) => m === method && p === path);
  return found ? (found[0] as Operation) : null;
}
