// Every call to the server: JSON in, JSON out, an Error with a sentence if it went wrong.
async function call(method, path, { body, signal, params } = {}) {
  const query = params ? "?" + new URLSearchParams(Object.entries(params).filter(([, v]) => v !== undefined && v !== null && v !== "")) : "";
  const json = body !== undefined && !(body instanceof FormData);
  let answer;
  try {
    answer = await fetch("api/" + path + query, {
      method, signal,
      headers: { Accept: "application/json", ...(json && { "Content-Type": "application/json" }) },
      body: json ? JSON.stringify(body) : body,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is neocog serve still running?");
  }
  const value = await answer.json().catch(() => null);
  if (!answer.ok) {
    const detail = value?.error ?? value?.detail;
    const error = new Error(typeof detail === "string" ? detail : `The server answered ${answer.status}.`);
    error.status = answer.status;
    throw error;
  }
  return value;
}

export const get = (path, params, signal) => call("GET", path, { params, signal });
export const post = (path, body, params, signal) => call("POST", path, { body: body ?? {}, params, signal });
export const patch = (path, body) => call("PATCH", path, { body });
export const remove = (path) => call("DELETE", path);

const part = encodeURIComponent;
export const lib = (name, ...rest) => ["libraries", name, ...rest].map(part).join("/");
export const run = (name, ...rest) => ["runs", name, ...rest].map(part).join("/");
export const picture = (library, id, what, params = {}) => {
  const query = new URLSearchParams(params).toString();
  return `api/${lib(library, "pictures", id, what)}${query ? "?" + query : ""}`;
};

// Server-sent events; the browser connects again by itself. Returns what ends it.
export function listen(path, on) {
  const source = new EventSource("api/" + path);
  for (const [name, f] of Object.entries(on)) {
    source.addEventListener(name, (event) => f(event.data === undefined ? event : JSON.parse(event.data)));
  }
  return () => source.close();
}
