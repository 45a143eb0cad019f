// Requests to the server that the page came from. Addresses are relative, so that a proxy may serve it under any path.

const MOST_SECONDS = 60; // that a busy server is waited for

const key = {
  get: () => sessionStorage.getItem("api_key") ?? "",
  set: (value) => sessionStorage.setItem("api_key", value),
};
export { key };

// An answer that is none, in words for whoever reads the page.
export class Refused extends Error {}

export async function get(path) {
  return answer(await reach(path, {}));
}

// Post fields as JSON. A server that is busy (429) is asked once more, when it says; `wait` is told the seconds.
// Aborting `signal` ends the request, and the waiting, with an AbortError.
export async function post(path, fields, signal, wait = () => {}) {
  const body = JSON.stringify(key.get() ? { ...fields, api_key: key.get() } : fields);
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body, signal };
  let response = await reach(path, request);
  if (response.status === 429) {
    const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, MOST_SECONDS);
    wait(seconds);
    await pause(seconds, signal);
    response = await reach(path, request);
  }
  return answer(response);
}

async function reach(path, request) {
  try {
    return await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached.");
  }
}

async function answer(response) {
  const found = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return {}; // a proxy's own page
  });
  if (response.ok) return found;
  const words = {
    403: "The API key is not one of this server's.",
    429: "The server has too much to do. Try again later.",
    502: "The server cannot be reached.",
  };
  throw new Refused(words[response.status] ?? found.error ?? `The server answers with status ${response.status}.`);
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
}
