// The API's description as a page: every route with its parameters and body.
const make = (name, ...inside) => {
  const node = document.createElement(name);
  node.append(...inside);
  return node;
};
const kind = (schema = {}) =>
  schema.enum?.join(", ") ?? schema.$ref?.split("/").at(-1) ?? schema.anyOf?.map(kind).join(" or ") ??
  (schema.type === "array" ? `list of ${kind(schema.items)}` : schema.type ?? "anything");
const api = await (await fetch("/api/openapi.json")).json();
const resolved = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema);
const table = (rows) => make("table", ...rows.map(([name, what, text]) =>
  make("tr", make("td", make("code", name)), make("td", what), make("td", text ?? ""))));
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, one] of Object.entries(methods)) {
    const parts = [make("summary", make("b", method.toUpperCase()), make("code", path), " ", one.description ?? one.summary)];
    const given = (one.parameters ?? []).map((p) => [p.name, kind(p.schema), p.description ?? p.schema?.description]);
    if (given.length) parts.push(table(given));
    for (const [type, body] of Object.entries(one.requestBody?.content ?? {})) {
      const fields = Object.entries(resolved(body.schema)?.properties ?? {});
      parts.push(make("p", `Body, ${type}:`), table(fields.map(([name, s]) => [name, kind(s), s.description])));
    }
    document.querySelector("#routes").append(make("details", ...parts));
  }
}
